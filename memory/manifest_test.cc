#include "memory/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "memory/test_support.h"

namespace pointsman {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

const std::filesystem::path kExamples = std::filesystem::path(POINTSMAN_SOURCE_DIR) / "schemas" / "examples";

Manifest FullManifest() {
  Manifest manifest = MakeManifest();
  manifest.generation = 12;
  manifest.truth_sequence = 3456;
  manifest.kind = MemoryKind::kPrototypes;
  manifest.value_kind = ValueKind::kDelta;
  manifest.transform_sha256 = std::string(64, '5');
  manifest.digest = std::string(32, '6');
  manifest.seed = UINT64_MAX;
  manifest.reference_documents = 310;
  manifest.reference_tokens = 40'000;
  manifest.entries = 240'000;
  manifest.calibration_documents = 50;
  manifest.test_documents = 40;
  manifest.test_looks = 1;
  manifest.settings = {{"kind", "auto"}, {"max-tokens", "40000"}};
  manifest.off_domain_sources = {"prose/\"quoted\" café.txt"};
  manifest.test_sha256 = {std::string(64, '7'), std::string(64, '8')};
  manifest.damage_sha256 = {std::string(64, '9')};
  manifest.verdict = {.verdict = "adopt",
                      .stale = true,
                      .gain = -0.125,
                      .gain_low = -0.15,
                      .gain_high = -0.1,
                      .damage = 0.0005,
                      .damage_low = -0.0001,
                      .damage_high = 0.0011,
                      .test_documents = 40,
                      .test_tokens = 9'000};
  manifest.calibration = RoutingSignal{
      .tokens = 8'000, .open_share = 0.875, .gate_mean = 0.75, .confidence_mean = 0.5, .similarity_mean = 0.625};
  return manifest;
}

TEST(ManifestFile, ReadsBackWhatWasWritten) {
  const Manifest manifest = FullManifest();
  const auto parsed = ParseManifest(SerializeManifest(manifest), "MANIFEST.json");
  ASSERT_TRUE(IsOk(parsed));
  EXPECT_EQ(SerializeManifest(parsed.value()), SerializeManifest(manifest));
  EXPECT_EQ(parsed.value().seed, UINT64_MAX);
  EXPECT_EQ(parsed.value().fingerprint, manifest.fingerprint);
  EXPECT_EQ(parsed.value().settings, manifest.settings);
  EXPECT_EQ(parsed.value().verdict.damage_high, 0.0011);
  EXPECT_EQ(parsed.value().off_domain_sources, manifest.off_domain_sources);
}

TEST(ManifestFile, OlderMemoriesHaveNoCalibration) {
  Manifest manifest = FullManifest();
  manifest.calibration.reset();
  const auto parsed = ParseManifest(SerializeManifest(manifest), "MANIFEST.json");
  ASSERT_TRUE(IsOk(parsed));
  EXPECT_FALSE(parsed.value().calibration.has_value());
}

TEST(ManifestFile, AnIntervalOfOneDocumentHasNoEnds) {
  Manifest manifest = FullManifest();
  manifest.verdict.gain_low = manifest.verdict.damage_low = -std::numeric_limits<double>::infinity();
  manifest.verdict.gain_high = manifest.verdict.damage_high = std::numeric_limits<double>::infinity();
  const auto parsed = ParseManifest(SerializeManifest(manifest), "MANIFEST.json");
  ASSERT_TRUE(IsOk(parsed));
  EXPECT_EQ(parsed.value().verdict.gain_low, manifest.verdict.gain_low);
  EXPECT_EQ(parsed.value().verdict.damage_high, manifest.verdict.damage_high);
}

// tests/test_schemas.py holds the same file to the schema. After a change of the format:
// POINTSMAN_UPDATE_EXAMPLES=1 build/release/memory_test --gtest_filter='ManifestFile.*'
TEST(ManifestFile, IsTheExampleThatTheSchemaIsTestedWith) {
  const std::filesystem::path example = kExamples / "manifest.json";
  if (std::getenv("POINTSMAN_UPDATE_EXAMPLES") != nullptr) WriteBytes(example, SerializeManifest(FullManifest()));
  EXPECT_EQ(ReadBytes(example), SerializeManifest(FullManifest()));
}

// The same list of JSON patches is held to the schema by tests/test_schemas.py: both must reject every one.
TEST(ManifestFile, RejectsWhatTheSchemaRejectsAndNamesTheField) {
  const json example = json::parse(ReadBytes(kExamples / "manifest.json"));
  const json invalid = json::parse(ReadBytes(kExamples / "manifest_invalid.json"));
  ASSERT_GE(invalid.size(), 20u);
  for (const json& bad : invalid) {
    const auto parsed = ParseManifest(example.patch(json::array({bad["patch"]})).dump(), "mem/MANIFEST.json");
    ASSERT_FALSE(parsed.ok()) << bad["patch"];
    EXPECT_THAT(parsed.error().message, HasSubstr("mem/MANIFEST.json: " + bad["names"].get<std::string>())) << bad;
    EXPECT_EQ(parsed.error().message.find('\n'), std::string::npos);
  }
}

TEST(ManifestFile, OfANewerFormatSaysSo) {
  json newer = json::parse(SerializeManifest(FullManifest()));
  newer["format_version"] = kFormatVersion + 1;
  newer["new_field"] = 1;
  const auto parsed = ParseManifest(newer.dump(), "MANIFEST.json");
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(parsed.error().message, HasSubstr("install the version that wrote it"));
}

TEST(ManifestFile, EveryTruncationIsCorrupt) {
  const std::string text = SerializeManifest(FullManifest());
  for (size_t size = 0; size + 2 < text.size(); ++size) {
    const auto parsed = ParseManifest(text.substr(0, size), "MANIFEST.json");
    ASSERT_FALSE(parsed.ok()) << size;
    EXPECT_EQ(parsed.error().code, ErrorCode::kCorrupt);
  }
}

TEST(ManifestFile, HostileJsonIsAnErrorNotACrash) {
  std::string nested_objects;
  for (int i = 0; i < 100'000; ++i) nested_objects += "{\"a\":";
  const std::vector<std::string> hostile = {
      std::string(1'000'000, '['),
      nested_objects,
      "{\"format_version\": 1e999}",
      "{\"format_version\": -1}",
      "{\"format_version\": 1, \"seed\": 99999999999999999999999999}",
      "{\"format_version\": \"\\ud800\"}",
      std::string("\0\0\0", 3),
      "\xff\xfe",
      "null",
      "[]",
      "",
  };
  for (const std::string& text : hostile) {
    const auto parsed = ParseManifest(text, "MANIFEST.json");
    ASSERT_FALSE(parsed.ok()) << text.substr(0, 60);
    EXPECT_EQ(parsed.error().code, ErrorCode::kCorrupt);
    EXPECT_LT(parsed.error().message.size(), 300u);
  }
}

TEST(ManifestFile, ANumberThatIsNotOneDoesNotPass) {
  Manifest manifest = FullManifest();
  manifest.verdict.gain = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(MessageOf(ParseManifest(SerializeManifest(manifest), "MANIFEST.json")), HasSubstr("$.verdict.gain "));
}

TEST(ManifestFile, AnInvalidUtf8SourceIsWrittenReadably) {
  Manifest manifest = FullManifest();
  manifest.off_domain_sources = {"prose/\xff.txt"};
  const auto parsed = ParseManifest(SerializeManifest(manifest), "MANIFEST.json");
  ASSERT_TRUE(IsOk(parsed));
  EXPECT_EQ(parsed.value().off_domain_sources.front(), "prose/\xEF\xBF\xBD.txt");
}

}  // namespace
}  // namespace pointsman
