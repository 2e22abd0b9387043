// JSON from a client: parsed with limits, then read field by field with errors that name the field. Pure functions.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "daemon/api_error.h"
#include "memory/result.h"

namespace pointsman {

struct JsonLimits {
  uint32_t depth = 32;
  uint64_t values = 1'000'000;  // numbers, strings, arrays, objects together
};

// kInvalidRequest (not UTF-8, not JSON, a repeated key, a number that is not finite), kPayloadTooLarge (limits).
// kUnsupportedMedia unless content_type is application/json (parameters such as charset=utf-8 are accepted).
std::variant<nlohmann::json, ApiError> ParseJsonBody(std::string_view body, std::string_view content_type,
                                                     const JsonLimits& limits = {});

// Reads the fields of one JSON object. Every getter notes the first error and returns the fallback after it; ask
// error() at the end. Finish() reports fields that nobody asked for ("unknown field 'temprature' (did you mean
// 'temperature'?)"), unless `ignore_unknown`.
class FieldReader {
 public:
  // `path` is put before names in messages: "rewire.". A value that is no object is an error.
  FieldReader(const nlohmann::json& object, std::string path = {});

  bool Has(std::string_view name);     // present; null counts as absent unless asked with IsNull first
  bool IsNull(std::string_view name);  // present and null
  std::string Text(std::string_view name, std::string fallback, size_t max_bytes = 1 << 20);
  std::string RequiredText(std::string_view name, size_t max_bytes = 1 << 20);
  int64_t Integer(std::string_view name, int64_t fallback, int64_t low, int64_t high);
  double Real(std::string_view name, double fallback, double low, double high);
  bool Flag(std::string_view name, bool fallback);
  std::string Choice(std::string_view name, std::string fallback, const std::vector<std::string>& choices);
  std::vector<std::string> Texts(std::string_view name, size_t max_items, size_t max_bytes_each = 1 << 16);
  std::vector<int64_t> Integers(std::string_view name, size_t max_items, int64_t low, int64_t high);
  // The member itself (null pointer if absent); its own FieldReader checks it.
  const nlohmann::json* Member(std::string_view name);

  void Fail(std::string_view name, std::string message, ApiCode code = ApiCode::kInvalidValue);
  void Finish(bool ignore_unknown = false);
  const std::optional<ApiError>& error() const { return error_; }

 private:
  const nlohmann::json* object_;
  std::string path_;
  std::set<std::string, std::less<>> asked_;
  std::optional<ApiError> error_;
};

}  // namespace pointsman
