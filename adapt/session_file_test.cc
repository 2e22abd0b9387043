#include "adapt/session_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class SessionFile : public ::testing::Test {
 protected:
  SessionFile() {
    config_.num_layers = 3;
    config_.num_experts = 2;
    session_.by_layer = {{}, {0.125f, -1.0f / 3}, {1e-7f, 4}};
  }
  json Good() const { return json::parse(SessionToJson(session_, model_)); }
  Error ErrorOf(const json& file) const { return ErrorOfText(file.dump()); }
  Error ErrorOfText(const std::string& text) const {
    const auto read = SessionFromJson(text, "s.json", config_, model_);
    EXPECT_FALSE(read.ok()) << text;
    return read.ok() ? Error{} : read.error();
  }

  MoeConfig config_;
  const Fingerprint model_{.architecture = "olmoe",
                           .config_sha256 = std::string(64, 'a'),
                           .router_sha256 = std::string(64, 'b'),
                           .tokenizer_sha256 = std::string(64, 'c'),
                           .dtype = "BF16",
                           .experts_sha256 = std::string(64, 'd')};
  SessionVectors session_;
};

TEST_F(SessionFile, KeepsEveryBit) {
  testing::TemporaryDirectory directory;
  const auto path = directory.path() / "session.json";
  ASSERT_TRUE(SaveSession(path, session_, model_).ok());
  const auto read = LoadSession(path, config_, model_);
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read.value().by_layer, session_.by_layer);
}

TEST_F(SessionFile, OfAnotherModelIsRefusedWithBothValues) {
  for (const char* field : {"architecture", "config_sha256", "router_sha256", "tokenizer_sha256"}) {
    json file = Good();
    file["fingerprint"][field] = "0123456789abcdef0123456789";
    const Error error = ErrorOf(file);
    EXPECT_EQ(error.code, ErrorCode::kMismatch);
    EXPECT_THAT(error.message, HasSubstr(field));
    EXPECT_THAT(error.message, HasSubstr("0123456789abcdef (session)"));
    EXPECT_THAT(error.message, HasSubstr("(model)"));
  }
}

TEST_F(SessionFile, EveryNumberIsChecked) {
  json file = Good();
  file["layers"][0]["layer"] = 3;
  EXPECT_THAT(ErrorOf(file).message, HasSubstr("layer"));
  file = Good();
  file["layers"][0]["layer"] = 2;
  EXPECT_THAT(ErrorOf(file).message, HasSubstr("layer 2 is there twice"));
  file = Good();
  file["layers"][1]["vector"].push_back(0.5);
  EXPECT_THAT(ErrorOf(file).message, HasSubstr("layer 2 has 3 numbers, not one for each of 2 experts"));
  for (const json& bad : {json("1"), json(), json(1e30), json(-2e6), json(true), json::array()}) {
    file = Good();
    file["layers"][0]["vector"][1] = bad;
    EXPECT_THAT(ErrorOf(file).message, HasSubstr("layer 1 holds " + bad.dump()));
  }
}

TEST_F(SessionFile, OtherFilesAreRefused) {
  EXPECT_EQ(ErrorOfText("").code, ErrorCode::kCorrupt);
  EXPECT_EQ(ErrorOfText("[]").code, ErrorCode::kCorrupt);
  EXPECT_EQ(ErrorOfText(SessionToJson(session_, model_).substr(0, 100)).code, ErrorCode::kCorrupt);
  EXPECT_THAT(ErrorOfText("{\"tokens\": []}").message, HasSubstr("pointsman session"));
  json file = Good();
  file["version"] = 2;
  EXPECT_EQ(ErrorOf(file).code, ErrorCode::kUnsupported);
  file = Good();
  file.erase("fingerprint");
  EXPECT_THAT(ErrorOf(file).message, HasSubstr("fingerprint"));
  file = Good();
  file["layers"] = 4;
  EXPECT_THAT(ErrorOf(file).message, HasSubstr("layers"));
  file["layers"] = {1};
  EXPECT_THAT(ErrorOf(file).message, HasSubstr("layers"));
  EXPECT_EQ(LoadSession("/nonexistent/s.json", config_, model_).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace pointsman
