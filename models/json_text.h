// JSON files of a model directory, which a stranger wrote: bounded size and depth, no key twice, typed and ranged
// access. Every error is one line that names the file and the field. Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "memory/one_line.h"  // for the messages of its users
#include "memory/result.h"

namespace pointsman {

// kCorrupt unless `text` is one JSON value, nested at most 64 deep, without duplicate keys. `file` is for the message.
Result<nlohmann::json> ParseJson(std::string_view text, const std::string& file);
// kNotFound, kIo, or kCorrupt also if the file is longer than `max_bytes` or no object.
Result<nlohmann::json> ReadJsonObject(const std::filesystem::path& path, uint64_t max_bytes);

// The elements of {"type": "Sequence", `list`: [..]} of tokenizer.json in order, nested ones flattened, or the object
// itself. Every element returned is an object with a string "type".
Result<std::vector<const nlohmann::json*>> FlattenSequence(const nlohmann::json& spec, const char* list,
                                                           const std::string& file);

// Typed access to the fields of one object, which must outlive it. An absent or null field gives the fallback, or
// kCorrupt where there is none; a value of another type or outside [min, max] is kCorrupt.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string file) : object_(object), file_(std::move(file)) {}

  bool Has(const char* key) const;  // present and not null
  Result<int64_t> Integer(const char* key, int64_t min, int64_t max, std::optional<int64_t> fallback = {}) const;
  Result<double> Number(const char* key, double min, double max, std::optional<double> fallback = {}) const;
  Result<bool> Boolean(const char* key, std::optional<bool> fallback = {}) const;
  Result<std::string> Text(const char* key, std::optional<std::string> fallback = {}) const;
  Error Bad(const char* key, std::string_view what) const;

 private:
  const nlohmann::json* Find(const char* key) const;
  const nlohmann::json& object_;
  std::string file_;
};

}  // namespace pointsman
