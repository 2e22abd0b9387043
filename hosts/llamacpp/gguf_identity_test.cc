// Which GGUF files a memory accepts: those with its routers.
#include "hosts/llamacpp/gguf_identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "hosts/llamacpp/test_gguf.h"
#include "memory/hash.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class GgufIdentityTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path Write(const GgufOptions& options = {}) {
    fs::path path = folder_ / (options.architecture + std::to_string(files_++) + ".gguf");
    GgufWriter(options).Write(path);
    return path;
  }
  // A memory for the model with these routers.
  fs::path WriteMemory(const Fingerprint& fingerprint, const std::string& verdict = "adopt") {
    const fs::path path = folder_ / ("memory" + std::to_string(files_++));
    auto writer = MemoryWriter::Open(path, {.create = true});
    EXPECT_TRUE(writer.ok()) << writer.error().message;
    Manifest manifest;
    manifest.fingerprint = fingerprint;
    manifest.transform_sha256 = Sha256Hex("transform");
    manifest.verdict.verdict = verdict;
    const Status published = writer.value()->Publish(*RandomTables(2), manifest);
    EXPECT_TRUE(published.ok()) << published.error().message;
    return path;
  }
  static Fingerprint Of(const GgufIdentity& identity) {
    return {.architecture = identity.architecture,
            .config_sha256 = Sha256Hex("config"),
            .router_sha256 = identity.router_sha256,
            .tokenizer_sha256 = Sha256Hex("tokenizer"),
            .dtype = "float32",
            .experts_sha256 = Sha256Hex("experts")};
  }
  GgufIdentity Read(const fs::path& path) {
    auto identity = ReadGgufIdentity(path);
    EXPECT_TRUE(identity.ok()) << identity.error().message;
    return identity.ok() ? identity.value() : GgufIdentity{};
  }
  std::string OpenError(const fs::path& gguf, const fs::path& memory) {
    const auto opened = OpenMemoryFor(gguf, memory);
    return opened.ok() ? "opened" : opened.error().message;
  }

  fs::path folder_ = fs::temp_directory_path() / ("pointsman_gguf_" + std::to_string(getpid()));
  int files_ = 0;
};

TEST_F(GgufIdentityTest, TheRoutersAreTheIdentity) {
  const GgufIdentity identity = Read(Write());
  EXPECT_EQ(identity.architecture, "olmoe");
  EXPECT_EQ(identity.layers, kModelLayers);
  EXPECT_EQ(identity.hidden, kHidden);
  EXPECT_EQ(identity.experts, kExperts);
  EXPECT_EQ(identity.vocabulary, kVocabulary);
  EXPECT_EQ(identity.router_type, "f32");
  EXPECT_EQ(identity.router_sha256, Read(Write()).router_sha256);
  EXPECT_NE(identity.router_sha256, Read(Write({.architecture = "olmoe", .seed = 2})).router_sha256);
  EXPECT_EQ(Read(Write({.architecture = "qwen3moe"})).architecture, "qwen3_moe");
}

TEST_F(GgufIdentityTest, OpensTheMemoryOfItsModelAlone) {
  const fs::path gguf = Write();
  const Fingerprint fingerprint = Of(Read(gguf));
  const auto opened = OpenMemoryFor(gguf, WriteMemory(fingerprint));
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(opened.value().tables->layers.size(), 3u);
  EXPECT_THAT(opened.value().warnings, ::testing::IsEmpty());

  const fs::path other = Write({.architecture = "olmoe", .seed = 2});
  EXPECT_THAT(OpenError(other, WriteMemory(fingerprint)),
              ::testing::AllOf(HasSubstr("built for another model: router_sha256 " + fingerprint.router_sha256),
                               HasSubstr(Read(other).router_sha256)));
  const fs::path family = Write({.architecture = "qwen3moe"});
  EXPECT_THAT(OpenError(family, WriteMemory(fingerprint)), HasSubstr("architecture olmoe (memory) != qwen3_moe"));
}

TEST_F(GgufIdentityTest, TheVerdictCounts) {
  const fs::path gguf = Write();
  const Fingerprint fingerprint = Of(Read(gguf));
  const auto inconclusive = OpenMemoryFor(gguf, WriteMemory(fingerprint, "inconclusive"));
  ASSERT_TRUE(inconclusive.ok());
  EXPECT_THAT(inconclusive.value().warnings, ::testing::ElementsAre(HasSubstr("its verdict is inconclusive")));
  const fs::path rejected = WriteMemory(fingerprint, "reject");
  EXPECT_THAT(OpenError(gguf, rejected), HasSubstr("its verdict is reject"));
  EXPECT_TRUE(OpenMemoryFor(gguf, rejected, {.allow_rejected = true}).ok());
}

TEST_F(GgufIdentityTest, RoutersOfAnotherTypeAreOtherRouters) {
  const fs::path half = Write({.architecture = "olmoe", .seed = 1, .router_type = GGML_TYPE_F16});
  EXPECT_EQ(Read(half).router_type, "f16");
  EXPECT_THAT(OpenError(half, WriteMemory(Of(Read(Write())))), HasSubstr("router_sha256"));
}

TEST_F(GgufIdentityTest, NamesWhatIsNoModel) {
  EXPECT_EQ(ReadGgufIdentity(folder_ / "absent.gguf").error().code, ErrorCode::kNotFound);
  std::ofstream(folder_ / "text.gguf") << "no GGUF at all";
  EXPECT_THAT(ReadGgufIdentity(folder_ / "text.gguf").error().message, HasSubstr("not a GGUF file"));
  const fs::path cut = Write();
  fs::resize_file(cut, fs::file_size(cut) / 2);
  EXPECT_EQ(ReadGgufIdentity(cut).error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace pointsman
