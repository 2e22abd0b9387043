// JSON from a client: parsed with limits, then read field by field with errors that name the field.
//
//   auto parsed = ParseJsonBody(request.body, request.Header("content-type"));
//   if (auto* error = std::get_if<ApiError>(&parsed)) co_return ErrorResponse(*error);
//   FieldReader fields(std::get<nlohmann::json>(parsed));
//   const std::string prompt = fields.RequiredText("prompt");
//   const double temperature = fields.Real("temperature", 1, 0, 2);
//   fields.Finish();
//   if (fields.error()) co_return ErrorResponse(*fields.error());
//
// No globals, nothing throws; a reader belongs to one thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "daemon/api_error.h"
#include "memory/strict_json.h"

namespace pointsman {

// A value or an ApiError: like Result, with the API's own errors.
template <typename T>
using ApiResult = std::variant<T, ApiError>;

inline constexpr JsonLimits kBodyLimits = {.depth = 32, .values = 1'000'000};

// kUnsupportedMedia unless content_type is application/json (charset=utf-8 and other parameters are accepted, another
// charset is not); then kInvalidRequest (empty, not UTF-8, not JSON, a repeated key, a number that is not finite) or
// kPayloadTooLarge (limits).
ApiResult<nlohmann::json> ParseJsonBody(std::string_view body, std::string_view content_type,
                                        const JsonLimits& limits = kBodyLimits);

// Reads the fields of one JSON object, which must outlive it. Every getter notes the first error and returns its
// fallback (or an empty value) on any; ask error() at the end. A member that is null counts as absent everywhere but in
// IsNull.
class FieldReader {
 public:
  // `path` is put before names in messages and in the error's param: "rewire.". A value that is no object is an error.
  explicit FieldReader(const nlohmann::json& object, std::string path = {});

  bool Has(std::string_view name);
  bool IsNull(std::string_view name);   // there, and null: for fields where that means something else than absent
  bool Require(std::string_view name);  // false, and an error, if absent

  std::string Text(std::string_view name, std::string fallback, size_t max_bytes = 1 << 20);
  std::string RequiredText(std::string_view name, size_t max_bytes = 1 << 20);
  // A number without a fraction: 64.0 is one, too (some clients write all numbers so).
  int64_t Integer(std::string_view name, int64_t fallback, int64_t low, int64_t high);
  double Real(std::string_view name, double fallback, double low, double high);
  bool Flag(std::string_view name, bool fallback);
  std::string Choice(std::string_view name, std::string fallback, const std::vector<std::string>& choices);
  // Lists; absent gives an empty one. A message names the element: "stop[2]".
  std::vector<std::string> Texts(std::string_view name, size_t max_items, size_t max_bytes_each = 1 << 16);
  std::vector<int64_t> Integers(std::string_view name, size_t max_items, int64_t low, int64_t high);
  std::vector<float> Floats(std::string_view name, size_t max_items);  // finite as floats
  // The member itself (null pointer if absent): for what may have several types, or has its own FieldReader.
  const nlohmann::json* Member(std::string_view name);

  // Notes "NAME: MESSAGE" unless there is an error already.
  void Fail(std::string_view name, std::string_view message, ApiCode code = ApiCode::kInvalidValue);
  std::string PathOf(std::string_view name) const { return path_ + std::string(name); }  // what messages call it
  // Takes over the first error of a reader of a member.
  void Absorb(const FieldReader& member);
  void Absorb(const ApiError& error);  // the same, of who read it without ours
  // Reports a field that nobody asked for, unless `ignore_unknown`: "unknown field 'temprature' (did you mean
  // 'temperature'?)".
  void Finish(bool ignore_unknown = false);
  const std::optional<ApiError>& error() const { return error_; }

 private:
  const nlohmann::json* Find(std::string_view name);
  const nlohmann::json* Array(std::string_view name, size_t max_items);

  const nlohmann::json* object_;  // null if it is no object
  std::string path_;
  std::set<std::string, std::less<>> asked_;
  std::optional<ApiError> error_;
};

}  // namespace pointsman
