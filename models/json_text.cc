#include "models/json_text.h"

#include <fmt/format.h>

#include <set>
#include <system_error>

#include "memory/file_layer.h"

namespace pointsman {
namespace {

constexpr int kMaxDepth = 64;

// Checked before parsing, so that no parser ever sees deep nesting.
bool TooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

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
  if (TooDeep(text)) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: JSON nested deeper than {} levels", file, kMaxDepth)};
  }
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  auto watch = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second && duplicate.empty()) {
      duplicate = fmt::format("key '{}' appears twice", OneLine(parsed.get_ref<const std::string&>()));
    }
    return true;
  };
  try {
    nlohmann::json parsed = nlohmann::json::parse(text.begin(), text.end(), watch);
    if (duplicate.empty()) return parsed;
    return Error{ErrorCode::kCorrupt, fmt::format("{}: {}; download the file again", file, duplicate)};
  } catch (const nlohmann::json::parse_error& error) {
    return Error{ErrorCode::kCorrupt,
                 fmt::format("{}: not valid JSON at byte {}; download the file again", file, error.byte)};
  } catch (const nlohmann::json::exception&) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: JSON with a number out of range", file)};
  }
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

std::string OneLine(std::string_view text) {
  constexpr size_t kMaxQuoted = 80;
  std::string out(text.substr(0, kMaxQuoted));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (text.size() > kMaxQuoted) out += "...";
  return out;
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
