#include "models/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "memory/small_floats.h"
#include "models/json_text.h"

namespace pointsman {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library
constexpr uint64_t kMaxIndexBytes = 256ull << 20;
constexpr size_t kMaxDimensions = 16;

struct TypeInfo {
  const char* tag;  // in the header
  TensorType type;
  uint64_t bytes;
  const char* name;
};
constexpr TypeInfo kTypes[] = {
    {"F32", TensorType::kF32, 4, "float32"},    {"F16", TensorType::kF16, 2, "float16"},
    {"BF16", TensorType::kBF16, 2, "bfloat16"}, {"F64", TensorType::kF64, 8, "float64"},
    {"I64", TensorType::kI64, 8, "int64"},      {"I32", TensorType::kI32, 4, "int32"},
    {"I16", TensorType::kI16, 2, "int16"},      {"I8", TensorType::kI8, 1, "int8"},
    {"U8", TensorType::kU8, 1, "uint8"},        {"BOOL", TensorType::kBool, 1, "bool"},
};

const TypeInfo& Describe(TensorType type) {
  return *std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeInfo& info) { return info.type == type; });
}

Error Corrupt(const std::string& file, std::string_view what) {
  return Error{ErrorCode::kCorrupt, fmt::format("{}: {}; download the file again", file, what)};
}

bool ReadNaturals(const nlohmann::json& list, std::vector<uint64_t>& out) {
  if (!list.is_array()) return false;
  for (const auto& item : list) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return false;
    out.push_back(item.get<uint64_t>());
  }
  return true;
}

struct Extent {
  uint64_t begin, end;  // in the data after the header
  std::string name;
};

// One entry of the header: {"dtype": .., "shape": [..], "data_offsets": [begin, end]}.
Result<TensorView> ParseTensor(const std::string& name, const nlohmann::json& entry, std::span<const std::byte> data,
                               const std::string& file, Extent& extent) {
  const std::string label = fmt::format("tensor '{}'", OneLine(name));
  const JsonFields fields(entry, file + ": " + label);
  if (!entry.is_object()) return Corrupt(file, label + " is not described by an object");
  POINTSMAN_TRY(const std::string tag, fields.Text("dtype"));
  const auto* type =
      std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeInfo& t) { return t.tag == tag; });
  if (type == std::end(kTypes)) {
    return Error{ErrorCode::kUnsupported, fmt::format("{}: {} has type '{}'; F32, F16 and BF16 weights are supported",
                                                      file, label, OneLine(tag))};
  }
  std::vector<uint64_t> shape, offsets;
  if (!entry.contains("shape") || !ReadNaturals(entry["shape"], shape) || shape.size() > kMaxDimensions) {
    return Corrupt(file, label + " has no valid shape");
  }
  if (!entry.contains("data_offsets") || !ReadNaturals(entry["data_offsets"], offsets) || offsets.size() != 2 ||
      offsets[0] > offsets[1]) {
    return Corrupt(file, label + " has no valid data_offsets");
  }
  if (offsets[1] > data.size()) {
    return Corrupt(
        file, fmt::format("truncated: {} ends at byte {} of the data, which has {}", label, offsets[1], data.size()));
  }
  uint64_t bytes = type->bytes;
  for (uint64_t size : shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return Corrupt(file, label + " has a shape beyond 64 bits");
  }
  if (bytes != offsets[1] - offsets[0]) {
    return Corrupt(
        file, fmt::format("{} takes {} bytes, but its shape and type need {}", label, offsets[1] - offsets[0], bytes));
  }
  extent = {offsets[0], offsets[1], name};
  return TensorView{type->type, std::vector<int64_t>(shape.begin(), shape.end()), data.subspan(offsets[0], bytes)};
}

// Tensors must tile the data: no overlap, no hole, nothing left over.
Status CheckTiling(std::vector<Extent> extents, uint64_t data_bytes, const std::string& file) {
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t at = 0;
  for (const Extent& extent : extents) {
    if (extent.begin != at) {
      return Corrupt(file, fmt::format("tensor '{}' starts at byte {} of the data where {} was expected: {}",
                                       OneLine(extent.name), extent.begin, at, extent.begin < at ? "overlap" : "hole"));
    }
    at = extent.end;
  }
  if (at != data_bytes) {
    return Corrupt(file, fmt::format("the tensors end at byte {} of the data, which has {}", at, data_bytes));
  }
  return {};
}

Result<std::map<std::string, TensorView>> ParseFile(std::span<const std::byte> bytes, const std::string& file) {
  uint64_t header = 0;
  if (bytes.size() < sizeof header) return Corrupt(file, fmt::format("truncated: {} bytes", bytes.size()));
  std::memcpy(&header, bytes.data(), sizeof header);  // little-endian, as every machine this runs on
  if (header > kMaxHeaderBytes || header > bytes.size() - sizeof header) {
    return Corrupt(file, fmt::format("truncated or no safetensors file: the header claims {} bytes, the file has {}",
                                     header, bytes.size()));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof header, header);
  POINTSMAN_TRY(const nlohmann::json root, ParseJson(text, file));
  if (!root.is_object()) return Corrupt(file, "the header is not a JSON object");
  const std::span<const std::byte> data = bytes.subspan(sizeof header + header);
  std::map<std::string, TensorView> tensors;
  std::vector<Extent> extents;
  for (const auto& [name, entry] : root.items()) {
    if (name == "__metadata__") continue;
    POINTSMAN_TRY(TensorView view, ParseTensor(name, entry, data, file, extents.emplace_back()));
    tensors.emplace(name, std::move(view));
  }
  POINTSMAN_CHECK_OK(CheckTiling(std::move(extents), data.size(), file));
  return tensors;
}

// Only a plain name: an index from a stranger must not reach outside its directory.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\\') == std::string::npos && name.find('\0') == std::string::npos;
}

template <typename Bits>
Bits LoadBits(const std::byte* bytes, uint64_t index) {
  Bits value;
  std::memcpy(&value, bytes + index * sizeof(Bits), sizeof value);  // tensors need not be aligned
  return value;
}

// True if some value has all bits of its exponent set: infinite or not a number.
template <typename Bits>
bool AnyExponentFull(std::span<const std::byte> bytes, Bits exponent) {
  bool found = false;
  for (uint64_t i = 0; i < bytes.size() / sizeof(Bits); ++i) {
    found |= (LoadBits<Bits>(bytes.data(), i) & exponent) == exponent;
  }
  return found;
}

}  // namespace

const char* TensorTypeName(TensorType type) { return Describe(type).name; }

Status WidenToFloat(const TensorView& tensor, std::span<float> out) {
  if (out.size() != tensor.bytes.size() / Describe(tensor.type).bytes) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("tensor of {} bytes widened to {} values", tensor.bytes.size(), out.size())};
  }
  return WidenToFloat(tensor, 0, out);
}

Status WidenToFloat(const TensorView& tensor, uint64_t first, std::span<float> out) {
  const uint64_t width = Describe(tensor.type).bytes, count = tensor.bytes.size() / width;
  if (first > count || out.size() > count - first) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("values {}..{} of a tensor that has {}", first, first + out.size(), count)};
  }
  const std::byte* source = tensor.bytes.data() + first * width;
  switch (tensor.type) {
    case TensorType::kF32:
      if (!out.empty()) std::memcpy(out.data(), source, out.size_bytes());
      return {};
    case TensorType::kF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = HalfToFloat(LoadBits<uint16_t>(source, i));
      return {};
    case TensorType::kBF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = BFloat16ToFloat(LoadBits<uint16_t>(source, i));
      return {};
    default:
      return Error{
          ErrorCode::kUnsupported,
          fmt::format("weights of type {}; float32, float16 and bfloat16 are supported", TensorTypeName(tensor.type))};
  }
}

Status CheckFinite(const std::string& name, const TensorView& tensor) {
  bool bad = false;
  if (tensor.type == TensorType::kF32) bad = AnyExponentFull<uint32_t>(tensor.bytes, 0x7f800000);
  if (tensor.type == TensorType::kF16) bad = AnyExponentFull<uint16_t>(tensor.bytes, 0x7c00);
  if (tensor.type == TensorType::kBF16) bad = AnyExponentFull<uint16_t>(tensor.bytes, 0x7f80);
  if (tensor.type == TensorType::kF64) bad = AnyExponentFull<uint64_t>(tensor.bytes, 0x7ff0000000000000);
  if (!bad) return {};
  return Error{ErrorCode::kCorrupt,
               fmt::format("tensor '{}' has a value that is infinite or not a number; the model is "
                           "damaged: download or train it again",
                           OneLine(name))};
}

Status SafetensorsFiles::AddFile(const std::filesystem::path& path) {
  const std::string file = path.string();
  POINTSMAN_TRY(std::shared_ptr<const MappedFile> mapping, FileSystem::Real().Map(path));
  POINTSMAN_TRY(auto tensors, ParseFile(mapping->bytes(), file));
  for (auto& [name, view] : tensors) {
    const auto [known, is_new] = files_.emplace(name, file);
    if (!is_new) return Corrupt(file, fmt::format("tensor '{}' is also in {}", OneLine(name), known->second));
    tensors_.emplace(name, std::move(view));
  }
  mappings_.push_back(std::move(mapping));
  return {};
}

Status SafetensorsFiles::AddShards(const std::filesystem::path& directory) {
  const std::filesystem::path index = directory / "model.safetensors.index.json";
  POINTSMAN_TRY(const nlohmann::json root, ReadJsonObject(index, kMaxIndexBytes));
  const auto map = root.find("weight_map");
  if (map == root.end() || !map->is_object() || map->empty()) return Corrupt(index.string(), "'weight_map' is missing");
  std::set<std::string> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get<std::string>())) {
      return Corrupt(index.string(), fmt::format("the shard of tensor '{}' is not a plain file name", OneLine(name)));
    }
    shards.insert(shard.get<std::string>());
  }
  for (const std::string& shard : shards) {
    std::error_code ignored;
    if (!std::filesystem::exists(directory / shard, ignored)) {
      return Error{ErrorCode::kNotFound, fmt::format("{}: shard '{}' is missing; download it into the same directory",
                                                     index.string(), OneLine(shard))};
    }
    POINTSMAN_CHECK_OK(AddFile(directory / shard));
  }
  for (const auto& [name, shard] : map->items()) {
    const auto found = files_.find(name);
    if (found != files_.end() && found->second == (directory / shard.get<std::string>()).string()) continue;
    return Corrupt(index.string(),
                   fmt::format("tensor '{}' is not in shard '{}'", OneLine(name), OneLine(shard.get<std::string>())));
  }
  return {};
}

Result<SafetensorsFiles> SafetensorsFiles::Open(const std::filesystem::path& model_directory) {
  SafetensorsFiles files;
  files.directory_ = model_directory.string();
  const std::filesystem::path single = model_directory / "model.safetensors";
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored)) {
    POINTSMAN_CHECK_OK(files.AddFile(single));
    return files;
  }
  if (std::filesystem::exists(model_directory / "model.safetensors.index.json", ignored)) {
    POINTSMAN_CHECK_OK(files.AddShards(model_directory));
    return files;
  }
  return Error{ErrorCode::kNotFound,
               fmt::format("{}: neither model.safetensors nor model.safetensors.index.json is there; download the "
                           "model's weights in safetensors format",
                           files.directory_)};
}

Result<TensorView> SafetensorsFiles::Get(const std::string& name, const std::vector<int64_t>& shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: the weights have no tensor '{}'; is this the model that "
                                                  "config.json describes?",
                                                  directory_, name)};
  }
  if (found->second.shape != shape) {
    return Error{ErrorCode::kCorrupt,
                 fmt::format("{}: tensor '{}' has shape [{}], config.json asks for [{}]", files_.at(name), name,
                             fmt::join(found->second.shape, ", "), fmt::join(shape, ", "))};
  }
  return found->second;
}

}  // namespace pointsman
