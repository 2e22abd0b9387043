// Writes safetensors files byte by byte, sound or not. Header-only; included by tests alone.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace pointsman::testing {

inline void WriteBytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string ReadBytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// A file of any header text and any data.
inline std::string FileWithHeader(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return BytesOf<uint64_t>({length}) + header + data;
}

struct NamedTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

inline nlohmann::json HeaderOf(const std::vector<NamedTensor>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  size_t at = 0;
  for (const NamedTensor& tensor : tensors) {
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {at, at + tensor.bytes.size()}}};
    at += tensor.bytes.size();
  }
  return header;
}

inline std::string SafetensorsFile(const std::vector<NamedTensor>& tensors) {
  std::string data;
  for (const NamedTensor& tensor : tensors) data += tensor.bytes;
  return FileWithHeader(HeaderOf(tensors).dump(), data);
}

}  // namespace pointsman::testing
