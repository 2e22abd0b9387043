#include "models/json_text.h"

#include <fmt/format.h>

#include <limits>
#include <system_error>
#include <utility>
#include <variant>

#include "memory/file_layer.h"
#include "memory/strict_json.h"

namespace pointsman {
namespace {

constexpr uint32_t kMaxDepth = 64;

Status Flatten(const nlohmann::json& spec, const char* list, const std::string& file, int depth,
               std::vector<const nlohmann::json*>& out) {
  if (!spec.is_object() || !spec.contains("type") || !spec["type"].is_string()) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: an element of '{}' has no type", file, list)};
  }
  if (spec["type"] != "Sequence") {
    out.push_back(&spec);
    return {};
  }
  if (depth > 8 || !spec.contains(list) || !spec[list].is_array()) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: a Sequence without the list '{}'", file, list)};
  }
  for (const auto& element : spec[list]) POINTSMAN_CHECK_OK(Flatten(element, list, file, depth + 1, out));
  return {};
}

}  // namespace

Result<nlohmann::json> ParseJson(std::string_view text, const std::string& file) {
  auto parsed = ParseStrictJson(text, {.depth = kMaxDepth, .values = std::numeric_limits<uint64_t>::max()});
  if (auto* document = std::get_if<nlohmann::json>(&parsed)) return std::move(*document);
  return Error{ErrorCode::kCorrupt, fmt::format("{}: {}; download the file again", file, std::get<1>(parsed).what)};
}

Result<nlohmann::json> ReadJsonObject(const std::filesystem::path& path, uint64_t max_bytes) {
  std::error_code failure;
  const uint64_t size = std::filesystem::file_size(path, failure);
  if (!failure && size > max_bytes) {
    return Error{ErrorCode::kCorrupt,
                 fmt::format("{}: {} bytes, more than the {} such a file may have", path.string(), size, max_bytes)};
  }
  if (failure && failure != std::errc::no_such_file_or_directory) {
    return Error{ErrorCode::kIo, fmt::format("{}: {}", path.string(), failure.message())};
  }
  POINTSMAN_TRY(const std::string text, FileSystem::Real().ReadFile(path));
  POINTSMAN_TRY(nlohmann::json parsed, ParseJson(text, path.string()));
  if (!parsed.is_object()) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: not a JSON object; download the file again", path.string())};
  }
  return parsed;
}

Result<std::vector<const nlohmann::json*>> FlattenSequence(const nlohmann::json& spec, const char* list,
                                                           const std::string& file) {
  std::vector<const nlohmann::json*> out;
  POINTSMAN_CHECK_OK(Flatten(spec, list, file, 0, out));
  return out;
}

const nlohmann::json* JsonFields::Find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool JsonFields::Has(const char* key) const { return Find(key) != nullptr; }

Error JsonFields::Bad(const char* key, std::string_view what) const {
  return Error{ErrorCode::kCorrupt, fmt::format("{}: field '{}' {}", file_, key, what)};
}

Result<int64_t> JsonFields::Integer(const char* key, int64_t min, int64_t max, std::optional<int64_t> fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr) return Bad(key, "is missing");
  if (!value->is_number_integer()) return Bad(key, "is not an integer");
  const bool huge = value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (huge || value->get<int64_t>() < min || value->get<int64_t>() > max) {
    return Bad(key, fmt::format("is {}, outside {}..{}", value->dump(), min, max));
  }
  return value->get<int64_t>();
}

Result<double> JsonFields::Number(const char* key, double min, double max, std::optional<double> fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr) return Bad(key, "is missing");
  if (!value->is_number()) return Bad(key, "is not a number");
  const double number = value->get<double>();
  if (!(number >= min && number <= max)) return Bad(key, fmt::format("is {}, outside {}..{}", number, min, max));
  return number;
}

Result<bool> JsonFields::Boolean(const char* key, std::optional<bool> fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr) return Bad(key, "is missing");
  if (!value->is_boolean()) return Bad(key, "is not true or false");
  return value->get<bool>();
}

Result<std::string> JsonFields::Text(const char* key, std::optional<std::string> fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr) return Bad(key, "is missing");
  if (!value->is_string()) return Bad(key, "is not a string");
  return value->get<std::string>();
}

}  // namespace pointsman
