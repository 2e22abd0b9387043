#include "daemon/api_error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace pointsman {
namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;

ApiError MakeError(ApiCode code, std::string message, std::string param = {}, int retry_after_s = 0) {
  ApiError error;
  error.code = code;
  error.message = std::move(message);
  error.param = std::move(param);
  error.retry_after_s = retry_after_s;
  return error;
}

TEST(ApiErrorTest, BodyIsOpenAisShapeOnOneLine) {
  EXPECT_EQ(ErrorJson(MakeError(ApiCode::kInvalidValue, "temperature: 9 is not between 0 and 2", "temperature")),
            R"({"error":{"message":"temperature: 9 is not between 0 and 2","type":"invalid_request_error",)"
            R"("param":"temperature","code":"invalid_value"}})");
  EXPECT_EQ(
      ErrorJson(MakeError(ApiCode::kNotFound, "no such\nmemory")),
      R"({"error":{"message":"no such\nmemory","type":"invalid_request_error","param":null,"code":"not_found"}})");
}

TEST(ApiErrorTest, BrokenUtf8InAMessageIsReplaced) {
  EXPECT_EQ(nlohmann::json::parse(ErrorJson(MakeError(ApiCode::kNotFound, "memory \xff")))["error"]["message"],
            "memory \xef\xbf\xbd");
}

TEST(ApiErrorTest, TableHasEveryStatusOfTheApiAndDistinctNames) {
  std::set<int> statuses;
  std::set<std::string_view> names;
  for (const ApiErrorRow& row : ApiErrorTable()) {
    statuses.insert(row.status);
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_EQ(&RowOf(row.code), &row);
    EXPECT_EQ(row.type == "server_error", row.status >= 500) << row.name;
    EXPECT_TRUE(row.remedy.ends_with('.')) << row.name;
    EXPECT_EQ(row.retry_after_s > 0, row.status == 429 || row.status == 503) << row.name;
  }
  EXPECT_THAT(statuses, testing::ElementsAre(400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 417, 422, 429, 431, 500,
                                             501, 503, 505, 507));
}

TEST(ApiErrorTest, ResponseHasStatusBodyAndTheHeadersOfItsCode) {
  const HttpResponse plain = ErrorResponse(MakeError(ApiCode::kForbidden, "read-write access is needed"));
  EXPECT_EQ(plain.status, 403);
  EXPECT_EQ(plain.content_type, "application/json");
  EXPECT_EQ(nlohmann::json::parse(plain.body)["error"]["code"], "insufficient_permissions");
  EXPECT_EQ(plain.headers, Headers());

  EXPECT_EQ(ErrorResponse(MakeError(ApiCode::kOverloaded, "full")).headers, (Headers{{"Retry-After", "1"}}));
  EXPECT_EQ(ErrorResponse(MakeError(ApiCode::kRateLimited, "full", {}, 7)).headers, (Headers{{"Retry-After", "7"}}));
  EXPECT_EQ(ErrorResponse(MakeError(ApiCode::kConflict, "later", {}, 3)).headers, (Headers{{"Retry-After", "3"}}));
  EXPECT_EQ(ErrorResponse(MakeError(ApiCode::kUnauthorized, "no")).headers, (Headers{{"WWW-Authenticate", "Bearer"}}));
}

TEST(ApiErrorTest, LibraryErrorsGetTheirStatus) {
  const auto status = [](ErrorCode code) { return RowOf(FromError(Error{code, "x"}).code).status; };
  EXPECT_EQ(status(ErrorCode::kInvalidArgument), 400);
  EXPECT_EQ(status(ErrorCode::kNotFound), 404);
  EXPECT_EQ(FromError(Error{ErrorCode::kMismatch, "x"}).code, ApiCode::kFingerprintMismatch);
  EXPECT_EQ(status(ErrorCode::kMismatch), 409);
  EXPECT_EQ(status(ErrorCode::kUnsupported), 422);
  EXPECT_EQ(status(ErrorCode::kBusy), 503);
  EXPECT_EQ(status(ErrorCode::kNoSpace), 507);
  EXPECT_EQ(status(ErrorCode::kCorrupt), 500);
  EXPECT_EQ(status(ErrorCode::kIo), 500);
  EXPECT_EQ(status(ErrorCode::kInternal), 500);
}

TEST(ApiErrorTest, TheServersOwnFailuresTellTheClientNothingAndTheLogEverything) {
  const std::string secret = "/srv/secret/truth/000012.sst: block 7 is damaged";
  for (const ErrorCode code :
       {ErrorCode::kCorrupt, ErrorCode::kIo, ErrorCode::kInternal, ErrorCode::kNoSpace, ErrorCode::kBusy}) {
    const ApiError error = FromError(Error{code, secret}, "memory");
    EXPECT_EQ(error.detail, secret);
    EXPECT_EQ(error.param, "memory");
    EXPECT_THAT(ErrorJson(error), testing::Not(testing::HasSubstr("secret")));
    EXPECT_THAT(ErrorJson(error), testing::Not(testing::HasSubstr("000012")));
  }
  EXPECT_EQ(FromError(Error{ErrorCode::kIo, secret}).message,
            "the server failed to do this: its log has the reason beside this X-Request-Id");
}

TEST(ApiErrorTest, PathsInOtherMessagesLoseTheirFolders) {
  const auto shown = [](std::string message) {
    return FromError(Error{ErrorCode::kMismatch, std::move(message)}).message;
  };
  EXPECT_EQ(shown("/srv/mem/a: made for model 12ab, this is 34cd"), "a: made for model 12ab, this is 34cd");
  EXPECT_EQ(shown("'/srv/my mem/a b.json': damaged"), "'a b.json': damaged");
  EXPECT_EQ(shown("cannot read (/etc/x/keys), tokens/s and 1/2 stay"), "cannot read (keys), tokens/s and 1/2 stay");
}

}  // namespace
}  // namespace pointsman
