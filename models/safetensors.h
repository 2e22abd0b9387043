// safetensors files, single or sharded (model.safetensors.index.json), mapped and fully validated before any byte is
// used: header length, JSON, dtypes, shapes, offsets inside the file, no overlap, no holes claimed twice. No LibTorch
// here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "memory/file_layer.h"
#include "memory/result.h"

namespace pointsman {

enum class TensorType { kF32, kF16, kBF16, kF64, kI64, kI32, kI16, kI8, kU8, kBool };

struct TensorView {
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // into a mapping that SafetensorsFiles keeps alive
};

const char* TensorTypeName(TensorType type);  // "float32", as PyTorch says it

// Widens F32, F16 or BF16 to fp32, exactly. kUnsupported for other types, kInvalidArgument if the sizes differ.
Status WidenToFloat(const TensorView& tensor, std::span<float> out);
// The same for elements [first, first + out.size()) in row-major order, for tensors worked on in pieces.
Status WidenToFloat(const TensorView& tensor, uint64_t first, std::span<float> out);
// kCorrupt, naming the tensor, if one of its values is infinite or not a number.
Status CheckFinite(const std::string& name, const TensorView& tensor);

// Immutable after Open: any number of threads may read. The files must not be cut while they are mapped.
class SafetensorsFiles {
 public:
  // model.safetensors, or else the shards that model.safetensors.index.json lists.
  // Errors: kNotFound, kCorrupt (names the file and what is wrong: truncated, header claims N bytes, ...), kUnsupported
  // (a type outside TensorType).
  static Result<SafetensorsFiles> Open(const std::filesystem::path& model_directory);
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  // kCorrupt (names the tensor and the file) if absent or of another shape.
  Result<TensorView> Get(const std::string& name, const std::vector<int64_t>& shape) const;
  bool Has(const std::string& name) const { return tensors_.contains(name); }

 private:
  Status AddFile(const std::filesystem::path& path);
  Status AddShards(const std::filesystem::path& directory);

  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> files_;  // by tensor: where it comes from
  std::vector<std::shared_ptr<const MappedFile>> mappings_;
  std::string directory_;
};

}  // namespace pointsman
