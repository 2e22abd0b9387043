#include "daemon/api_error.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace pointsman {
namespace {

TEST(ApiErrorTest, TheBodyIsOpenAisShape) {
  const ApiError error{ApiCode::kInvalidValue, "temperature: 3 is above 2", "temperature"};
  const auto body = nlohmann::json::parse(ErrorJson(error));
  EXPECT_EQ(body, nlohmann::json::parse(R"({"error": {"message": "temperature: 3 is above 2",
      "type": "invalid_request_error", "param": "temperature", "code": "invalid_value"}})"));
  EXPECT_TRUE(nlohmann::json::parse(ErrorJson({ApiCode::kNotFound, "no"}))["error"]["param"].is_null());
}

TEST(ApiErrorTest, RetryAfterAndChallengeAreHeaders) {
  const HttpResponse busy = ErrorResponse({ApiCode::kOverloaded, "busy", {}, 3});
  EXPECT_EQ(busy.status, 503);
  ASSERT_EQ(busy.headers.size(), 1u);
  EXPECT_EQ(busy.headers[0], (std::pair<std::string, std::string>("Retry-After", "3")));
  const HttpResponse who = ErrorResponse({ApiCode::kUnauthorized, "who?"});
  EXPECT_EQ(who.status, 401);
  ASSERT_EQ(who.headers.size(), 1u);
  EXPECT_EQ(who.headers[0].first, "WWW-Authenticate");
}

TEST(ApiErrorTest, InnerErrorsKeepTheirPathsToThemselves) {
  for (const ErrorCode code : {ErrorCode::kCorrupt, ErrorCode::kIo, ErrorCode::kInternal}) {
    const ApiError error = FromError({code, "/srv/secret/truth: damaged"});
    EXPECT_EQ(RowOf(error.code).status, 500);
    EXPECT_EQ(error.message.find("/srv"), std::string::npos);
  }
}

TEST(ApiErrorTest, TheLibrarysErrorsHaveTheirStatus) {
  const auto status = [](ErrorCode code) { return RowOf(FromError({code, "x"}).code).status; };
  EXPECT_EQ(status(ErrorCode::kInvalidArgument), 400);
  EXPECT_EQ(status(ErrorCode::kNotFound), 404);
  EXPECT_EQ(status(ErrorCode::kMismatch), 409);
  EXPECT_EQ(status(ErrorCode::kBusy), 503);
  EXPECT_EQ(status(ErrorCode::kUnsupported), 422);
  EXPECT_EQ(status(ErrorCode::kNoSpace), 507);
  EXPECT_EQ(FromError({ErrorCode::kBusy, "x"}).retry_after_s, 1);
}

TEST(ApiErrorTest, BytesThatAreNoUtf8DoNotBreakTheBody) {
  EXPECT_TRUE(nlohmann::json::accept(ErrorJson({ApiCode::kInvalidValue, "bad \xff byte"})));
}

}  // namespace
}  // namespace pointsman
