#include "models/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "models/testing/mutations.h"
#include "models/testing/safetensors_file.h"
#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using testing::BytesOf;
using testing::NamedTensor;

// Two tensors: "a" [2, 2] fp32 and "b" [3] bf16.
class TwoTensors : public ::testing::Test {
 protected:
  TwoTensors()
      : tensors_{{"a", "F32", {2, 2}, BytesOf<float>({1, 2, 3, 4})},
                 {"b", "BF16", {3}, BytesOf<uint16_t>({0x3f80, 0x4000, 0xc040})}} {}

  Result<SafetensorsFiles> OpenBytes(const std::string& bytes) {
    testing::WriteBytes(Path(), bytes);
    return SafetensorsFiles::Open(directory_.path());
  }
  // The error for a header that `change` altered.
  Error ErrorAfter(const std::function<void(nlohmann::json&)>& change, const std::string& extra_data = "") {
    nlohmann::json header = testing::HeaderOf(tensors_);
    change(header);
    const auto opened =
        OpenBytes(testing::FileWithHeader(header.dump(), tensors_[0].bytes + tensors_[1].bytes + extra_data));
    return opened.ok() ? Error{ErrorCode::kInternal, "accepted"} : opened.error();
  }
  std::filesystem::path Path() const { return directory_.path() / "model.safetensors"; }
  std::string Expected(const std::string& what) const { return Path().string() + ": " + what; }

  testing::TemporaryDirectory directory_;
  std::vector<NamedTensor> tensors_;
};

TEST_F(TwoTensors, AreReadBack) {
  const auto opened = OpenBytes(testing::SafetensorsFile(tensors_));
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const SafetensorsFiles& files = opened.value();
  EXPECT_EQ(files.tensors().size(), 2u);
  std::vector<float> a(4), b(3);
  ASSERT_TRUE(WidenToFloat(files.Get("a", {2, 2}).value(), a).ok());
  ASSERT_TRUE(WidenToFloat(files.Get("b", {3}).value(), b).ok());
  EXPECT_EQ(a, (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(b, (std::vector<float>{1, 2, -3}));
  EXPECT_EQ(
      files.Get("c", {1}).error().message,
      directory_.path().string() + ": the weights have no tensor 'c'; is this the model that config.json describes?");
  EXPECT_EQ(files.Get("a", {4}).error().message, Expected("tensor 'a' has shape [2, 2], config.json asks for [4]"));
}

TEST_F(TwoTensors, OutliveTheirMoveAndTheDirectory) {
  auto opened = OpenBytes(testing::SafetensorsFile(tensors_));
  const SafetensorsFiles files = std::move(opened).value();
  std::filesystem::remove(Path());
  std::vector<float> a(4);
  ASSERT_TRUE(WidenToFloat(files.Get("a", {2, 2}).value(), a).ok());
  EXPECT_EQ(a[3], 4);
}

TEST_F(TwoTensors, MayHaveMetadataPaddingScalarsAndEmptyTensors) {
  tensors_.push_back({"empty", "F32", {0, 7}, ""});
  tensors_.push_back({"scalar", "F64", {}, BytesOf<double>({2.5})});
  nlohmann::json header = testing::HeaderOf(tensors_);
  header["__metadata__"] = {{"format", "pt"}};
  const std::string data = tensors_[0].bytes + tensors_[1].bytes + tensors_[3].bytes;
  const auto opened = OpenBytes(testing::FileWithHeader(header.dump() + "     ", data));
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(opened.value().tensors().size(), 4u);
  EXPECT_TRUE(opened.value().Get("empty", {0, 7}).ok());
}

TEST_F(TwoTensors, RefuseADamagedHeader) {
  using Json = nlohmann::json;
  const auto set = [](const char* tensor, const char* field, Json value) {
    return [=](Json& header) { header[tensor][field] = value; };
  };
  const std::string again = "; download the file again";
  EXPECT_EQ(ErrorAfter(set("b", "data_offsets", {16, 24})).message,
            Expected("truncated: tensor 'b' ends at byte 24 of the data, which has 22" + again));
  EXPECT_EQ(ErrorAfter(set("b", "data_offsets", {14, 20})).message,
            Expected("tensor 'b' starts at byte 14 of the data where 16 was expected: overlap" + again));
  EXPECT_EQ(ErrorAfter(set("b", "shape", {4})).message,
            Expected("tensor 'b' takes 6 bytes, but its shape and type need 8" + again));
  EXPECT_EQ(ErrorAfter(set("a", "shape", {int64_t{1} << 62, 16})).message,
            Expected("tensor 'a' has a shape beyond 64 bits" + again));
  EXPECT_EQ(ErrorAfter(set("a", "shape", {-2, -2})).message, Expected("tensor 'a' has no valid shape" + again));
  EXPECT_EQ(ErrorAfter(set("a", "shape", "2x2")).message, Expected("tensor 'a' has no valid shape" + again));
  EXPECT_EQ(ErrorAfter(set("a", "data_offsets", {16, 0})).message,
            Expected("tensor 'a' has no valid data_offsets" + again));
  EXPECT_EQ(ErrorAfter(set("a", "data_offsets", {0, UINT64_MAX})).message,
            Expected("tensor 'a' has no valid data_offsets" + again));
  EXPECT_EQ(ErrorAfter([](Json& header) { header.erase("a"); }).message,
            Expected("tensor 'b' starts at byte 16 of the data where 0 was expected: hole" + again));
  EXPECT_EQ(ErrorAfter([](Json& header) { header["a"] = 3; }).message,
            Expected("tensor 'a' is not described by an object" + again));
  EXPECT_EQ(ErrorAfter([](Json&) {}, "xx").message,
            Expected("the tensors end at byte 22 of the data, which has 24" + again));
  const Error type = ErrorAfter(set("a", "dtype", "F8_E4M3"));
  EXPECT_EQ(type.code, ErrorCode::kUnsupported);
  EXPECT_EQ(type.message, Expected("tensor 'a' has type 'F8_E4M3'; F32, F16 and BF16 weights are supported"));
}

TEST_F(TwoTensors, RefuseADamagedFile) {
  const std::string sound = testing::SafetensorsFile(tensors_);
  for (size_t size = 0; size < sound.size(); ++size) {
    EXPECT_FALSE(OpenBytes(sound.substr(0, size)).ok()) << "cut to " << size << " bytes";
  }
  EXPECT_EQ(OpenBytes(BytesOf<uint64_t>({UINT64_MAX}) + "{}").error().message,
            Expected("truncated or no safetensors file: the header claims 18446744073709551615 bytes, the file has 10; "
                     "download the file again"));
  const std::string spaces(100'000'001, ' ');  // NOLINT(bugprone-string-constructor): longer than any header may be
  EXPECT_FALSE(OpenBytes(BytesOf<uint64_t>({100'000'001}) + spaces).ok()) << "long header";
  EXPECT_FALSE(OpenBytes(testing::FileWithHeader("[]", "")).ok());
  EXPECT_FALSE(OpenBytes(testing::FileWithHeader(std::string(5000, '['), "")).ok());
  const std::string twice = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                            R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  EXPECT_EQ(OpenBytes(testing::FileWithHeader(twice, "x")).error().message,
            Expected("key 'a' appears twice; download the file again"));
}

TEST_F(TwoTensors, SurviveEveryFlippedBitOfTheHeader) {
  const std::string sound = testing::SafetensorsFile(tensors_);
  const size_t header_end = sound.size() - 22;
  for (size_t at = 0; at < header_end; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = sound;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      const auto opened = OpenBytes(damaged);
      if (!opened.ok()) continue;  // else a name, a type of equal size or a shape changed: still inside the file
      for (const auto& [name, view] : opened.value().tensors()) EXPECT_TRUE(CheckFinite(name, view).ok());
    }
  }
}

TEST_F(TwoTensors, SurviveRandomDamage) {
  const std::string sound = testing::SafetensorsFile(tensors_);
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    const auto opened = OpenBytes(testing::Mutate(sound, seed));
    if (!opened.ok()) {
      EXPECT_EQ(opened.error().message.find('\n'), std::string::npos) << seed;
      continue;
    }
    for (const auto& [name, view] : opened.value().tensors()) (void)CheckFinite(name, view).ok();
  }
}

class ShardedWeights : public TwoTensors {
 protected:
  ShardedWeights() {
    testing::WriteBytes(directory_.path() / "one.safetensors", testing::SafetensorsFile({tensors_[0]}));
    testing::WriteBytes(directory_.path() / "two.safetensors", testing::SafetensorsFile({tensors_[1]}));
  }
  Result<SafetensorsFiles> OpenWith(const nlohmann::json& weight_map) {
    testing::WriteJson(Index(), {{"metadata", {{"total_size", 22}}}, {"weight_map", weight_map}});
    return SafetensorsFiles::Open(directory_.path());
  }
  std::filesystem::path Index() const { return directory_.path() / "model.safetensors.index.json"; }
};

TEST_F(ShardedWeights, AreOneSetOfTensors) {
  const auto opened = OpenWith({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_TRUE(opened.value().Get("a", {2, 2}).ok());
  EXPECT_TRUE(opened.value().Get("b", {3}).ok());
}

TEST_F(ShardedWeights, RefuseABadIndex) {
  const std::string index = Index().string();
  EXPECT_EQ(OpenWith({{"a", "one.safetensors"}, {"b", "three.safetensors"}}).error().message,
            index + ": shard 'three.safetensors' is missing; download it into the same directory");
  EXPECT_EQ(OpenWith({{"a", "one.safetensors"}, {"c", "two.safetensors"}}).error().message,
            index + ": tensor 'c' is not in shard 'two.safetensors'; download the file again");
  EXPECT_EQ(OpenWith({{"a", "two.safetensors"}, {"b", "one.safetensors"}}).error().message,
            index + ": tensor 'a' is not in shard 'two.safetensors'; download the file again");
  for (const char* name : {"../one.safetensors", "/etc/hostname", "", "..", "sub/one.safetensors"}) {
    EXPECT_EQ(OpenWith({{"a", name}}).error().message,
              index + ": the shard of tensor 'a' is not a plain file name; download the file again");
  }
  EXPECT_FALSE(OpenWith({{"a", 3}}).ok());
  EXPECT_FALSE(OpenWith(nlohmann::json::object()).ok());
}

TEST_F(ShardedWeights, RefuseATensorInTwoShards) {
  testing::WriteBytes(directory_.path() / "two.safetensors", testing::SafetensorsFile(tensors_));
  const Error error = OpenWith({{"a", "one.safetensors"}, {"b", "two.safetensors"}}).error();
  EXPECT_NE(error.message.find("two.safetensors: tensor 'a' is also in "), std::string::npos) << error.message;
}

TEST(SafetensorsOpen, SaysWhichFilesAreMissing) {
  testing::TemporaryDirectory directory;
  const Error error = SafetensorsFiles::Open(directory.path()).error();
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_NE(error.message.find("neither model.safetensors nor model.safetensors.index.json"), std::string::npos);
}

TensorView View(TensorType type, const std::string& bytes) {
  return {type, {}, std::as_bytes(std::span(bytes.data(), bytes.size()))};
}

TEST(WidenToFloat, IsExactForEveryHalf) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const std::string bytes = BytesOf<uint16_t>({static_cast<uint16_t>(bits)});
    float value = 0;
    ASSERT_TRUE(WidenToFloat(View(TensorType::kF16, bytes), std::span(&value, 1)).ok());
    const uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double expected = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, int(exponent) - 25);
    if (exponent == 31) expected = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::nan("");
    if (bits & 0x8000) expected = -expected;
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
    } else {
      ASSERT_EQ(value, expected) << bits;
      ASSERT_EQ(std::signbit(value), std::signbit(expected)) << bits;
    }
  }
}

TEST(WidenToFloat, TakesPiecesAndUnalignedBytes) {
  const std::string bytes = "x" + BytesOf<float>({1, 2, 3});
  const TensorView view = View(TensorType::kF32, bytes);
  const TensorView unaligned{TensorType::kF32, {3}, view.bytes.subspan(1)};
  std::vector<float> two(2);
  ASSERT_TRUE(WidenToFloat(unaligned, 1, two).ok());
  EXPECT_EQ(two, (std::vector<float>{2, 3}));
  EXPECT_EQ(WidenToFloat(unaligned, 2, two).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(WidenToFloat(unaligned, two).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(WidenToFloat(View(TensorType::kI8, "ab"), two).error().code, ErrorCode::kUnsupported);
}

TEST(CheckFinite, NamesTheTensor) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(CheckFinite("w", View(TensorType::kF32, BytesOf<float>({0, -3e38f, 1e-45f}))).ok());
  EXPECT_FALSE(CheckFinite("w", View(TensorType::kF32, BytesOf<float>({0, -inf}))).ok());
  EXPECT_FALSE(CheckFinite("w", View(TensorType::kF32, BytesOf<float>({std::nanf("")}))).ok());
  EXPECT_FALSE(CheckFinite("w", View(TensorType::kBF16, BytesOf<uint16_t>({0x7f80}))).ok());
  EXPECT_TRUE(CheckFinite("w", View(TensorType::kBF16, BytesOf<uint16_t>({0x7f7f}))).ok());
  EXPECT_FALSE(CheckFinite("w", View(TensorType::kF16, BytesOf<uint16_t>({0xfc01}))).ok());
  EXPECT_TRUE(CheckFinite("w", View(TensorType::kF16, BytesOf<uint16_t>({0x7bff}))).ok());
  EXPECT_EQ(
      CheckFinite("w", View(TensorType::kF32, BytesOf<float>({inf}))).error().message,
      "tensor 'w' has a value that is infinite or not a number; the model is damaged: download or train it again");
}

}  // namespace
}  // namespace pointsman
