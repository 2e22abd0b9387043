#include "daemon/json_body.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <utility>

#include "memory/nearest_word.h"
#include "memory/one_line.h"

namespace pointsman {
namespace {

using nlohmann::json;

ApiError MakeError(ApiCode code, std::string message, std::string param = {}) {
  ApiError error;
  error.code = code;
  error.message = std::move(message);
  error.param = std::move(param);
  return error;
}

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

bool EqualsIgnoringCase(std::string_view text, std::string_view lower_case) {
  return std::equal(text.begin(), text.end(), lower_case.begin(), lower_case.end(),
                    [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; });
}

// "application/json; charset=utf-8"
bool IsJsonType(std::string_view content_type) {
  size_t end = content_type.find(';');
  if (!EqualsIgnoringCase(Trimmed(content_type.substr(0, end)), "application/json")) return false;
  while (end != std::string_view::npos) {
    content_type.remove_prefix(end + 1);
    end = content_type.find(';');
    const std::string_view parameter = Trimmed(content_type.substr(0, end));
    const size_t equals = parameter.find('=');
    if (equals == std::string_view::npos || !EqualsIgnoringCase(parameter.substr(0, equals), "charset")) continue;
    const std::string_view charset = parameter.substr(equals + 1);
    if (!EqualsIgnoringCase(charset, "utf-8") && !EqualsIgnoringCase(charset, "\"utf-8\"")) return false;
  }
  return true;
}

std::string_view TypeOf(const json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "true or false";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  return value.is_array() ? "an array" : "an object";
}

// A getter's check of one value: what is wrong with it; empty: nothing, and `out` is set.
std::string ReadText(const json& value, size_t max_bytes, std::string& out) {
  if (!value.is_string()) return fmt::format("must be a string, not {}", TypeOf(value));
  const auto& text = value.get_ref<const std::string&>();
  if (text.size() > max_bytes) return fmt::format("has {} bytes, more than {}", text.size(), max_bytes);
  out = text;
  return {};
}

std::string ReadInteger(const json& value, int64_t low, int64_t high, int64_t& out) {
  constexpr double kExact = 9007199254740992;  // 2^53: whole doubles up to here are the number that was written
  const bool whole = value.is_number_float() && std::abs(value.get<double>()) <= kExact &&
                     std::trunc(value.get<double>()) == value.get<double>();
  if (!value.is_number_integer() && !whole) {
    return fmt::format("must be a whole number, not {}", value.is_number() ? value.dump() : TypeOf(value));
  }
  const bool huge = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX};
  const int64_t number = huge ? 0 : whole ? static_cast<int64_t>(value.get<double>()) : value.get<int64_t>();
  if (huge || number < low || number > high) {
    return fmt::format("{} is not between {} and {}", value.dump(), low, high);
  }
  out = number;
  return {};
}

std::string ReadReal(const json& value, double low, double high, double& out) {
  if (!value.is_number()) return fmt::format("must be a number, not {}", TypeOf(value));
  const double number = value.get<double>();
  if (!(number >= low && number <= high)) return fmt::format("{} is not between {} and {}", value.dump(), low, high);
  out = number;
  return {};
}

}  // namespace

ApiResult<json> ParseJsonBody(std::string_view body, std::string_view content_type, const JsonLimits& limits) {
  if (!IsJsonType(content_type)) {
    return MakeError(ApiCode::kUnsupportedMedia,
                     content_type.empty()
                         ? "Content-Type is missing; send Content-Type: application/json"
                         : fmt::format("Content-Type '{}' is not taken here; send Content-Type: application/json",
                                       OneLine(content_type)));
  }
  if (body.empty()) return MakeError(ApiCode::kInvalidRequest, "the body is empty; send a JSON object");
  auto parsed = ParseStrictJson(body, limits);
  if (auto* document = std::get_if<json>(&parsed)) return std::move(*document);
  const JsonProblem& problem = std::get<JsonProblem>(parsed);
  const bool limit = problem.fault == JsonFault::kDepth || problem.fault == JsonFault::kValues;
  return MakeError(limit ? ApiCode::kPayloadTooLarge : ApiCode::kInvalidRequest, "the body: " + problem.what);
}

FieldReader::FieldReader(const json& object, std::string path)
    : object_(object.is_object() ? &object : nullptr), path_(std::move(path)) {
  if (object_ != nullptr) return;
  const std::string name = path_.empty() ? "" : path_.substr(0, path_.size() - path_.ends_with('.'));
  error_ = MakeError(
      ApiCode::kInvalidValue,
      fmt::format("{} must be a JSON object, not {}", name.empty() ? "the body" : name + ":", TypeOf(object)), name);
}

const json* FieldReader::Find(std::string_view name) {
  asked_.emplace(name);
  if (object_ == nullptr) return nullptr;
  const auto found = object_->find(name);
  return found == object_->end() ? nullptr : &*found;
}

const json* FieldReader::Member(std::string_view name) {
  const json* member = Find(name);
  return member == nullptr || member->is_null() ? nullptr : member;
}

bool FieldReader::Has(std::string_view name) { return Member(name) != nullptr; }

bool FieldReader::IsNull(std::string_view name) {
  const json* member = Find(name);
  return member != nullptr && member->is_null();
}

bool FieldReader::Require(std::string_view name) {
  if (Has(name)) return true;
  Fail(name, "is required");
  return false;
}

std::string FieldReader::Text(std::string_view name, std::string fallback, size_t max_bytes) {
  const json* member = Member(name);
  if (member == nullptr) return fallback;
  std::string text;
  if (const std::string problem = ReadText(*member, max_bytes, text); !problem.empty()) {
    Fail(name, problem);
    return fallback;
  }
  return text;
}

std::string FieldReader::RequiredText(std::string_view name, size_t max_bytes) {
  return Require(name) ? Text(name, {}, max_bytes) : std::string();
}

int64_t FieldReader::Integer(std::string_view name, int64_t fallback, int64_t low, int64_t high) {
  const json* member = Member(name);
  if (member == nullptr) return fallback;
  int64_t number = fallback;
  if (const std::string problem = ReadInteger(*member, low, high, number); !problem.empty()) Fail(name, problem);
  return number;
}

double FieldReader::Real(std::string_view name, double fallback, double low, double high) {
  const json* member = Member(name);
  if (member == nullptr) return fallback;
  double number = fallback;
  if (const std::string problem = ReadReal(*member, low, high, number); !problem.empty()) Fail(name, problem);
  return number;
}

bool FieldReader::Flag(std::string_view name, bool fallback) {
  const json* member = Member(name);
  if (member == nullptr) return fallback;
  if (member->is_boolean()) return member->get<bool>();
  Fail(name, fmt::format("must be true or false, not {}", TypeOf(*member)));
  return fallback;
}

std::string FieldReader::Choice(std::string_view name, std::string fallback, const std::vector<std::string>& choices) {
  const json* member = Member(name);
  if (member == nullptr) return fallback;
  if (!member->is_string()) {
    Fail(name, fmt::format("must be a string, not {}", TypeOf(*member)));
    return fallback;
  }
  const auto& text = member->get_ref<const std::string&>();
  if (std::find(choices.begin(), choices.end(), text) != choices.end()) return text;
  Fail(name, fmt::format("'{}' is not one of {}", OneLine(text), fmt::join(choices, ", ")));
  return fallback;
}

const json* FieldReader::Array(std::string_view name, size_t max_items) {
  const json* member = Member(name);
  if (member == nullptr) return nullptr;
  if (!member->is_array()) {
    Fail(name, fmt::format("must be an array, not {}", TypeOf(*member)));
    return nullptr;
  }
  if (member->size() > max_items) {
    Fail(name, fmt::format("has {} elements, more than {}", member->size(), max_items));
    return nullptr;
  }
  return member;
}

std::vector<std::string> FieldReader::Texts(std::string_view name, size_t max_items, size_t max_bytes_each) {
  const json* array = Array(name, max_items);
  if (array == nullptr) return {};
  std::vector<std::string> texts(array->size());
  for (size_t i = 0; i < texts.size(); ++i) {
    if (const std::string problem = ReadText((*array)[i], max_bytes_each, texts[i]); !problem.empty()) {
      Fail(fmt::format("{}[{}]", name, i), problem);
      return {};
    }
  }
  return texts;
}

std::vector<int64_t> FieldReader::Integers(std::string_view name, size_t max_items, int64_t low, int64_t high) {
  const json* array = Array(name, max_items);
  if (array == nullptr) return {};
  std::vector<int64_t> numbers(array->size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (const std::string problem = ReadInteger((*array)[i], low, high, numbers[i]); !problem.empty()) {
      Fail(fmt::format("{}[{}]", name, i), problem);
      return {};
    }
  }
  return numbers;
}

std::vector<float> FieldReader::Floats(std::string_view name, size_t max_items) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  const json* array = Array(name, max_items);
  if (array == nullptr) return {};
  std::vector<float> numbers(array->size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    double number = 0;
    if (const std::string problem = ReadReal((*array)[i], -kLargest, kLargest, number); !problem.empty()) {
      Fail(fmt::format("{}[{}]", name, i), problem);
      return {};
    }
    numbers[i] = static_cast<float>(number);
  }
  return numbers;
}

void FieldReader::Fail(std::string_view name, std::string_view message, ApiCode code) {
  if (error_) return;
  std::string param = fmt::format("{}{}", path_, name);
  std::string text = param.empty() ? std::string(message) : fmt::format("{}: {}", param, message);
  error_ = MakeError(code, std::move(text), std::move(param));
}

void FieldReader::Absorb(const FieldReader& member) {
  if (!error_) error_ = member.error_;
}

void FieldReader::Absorb(const ApiError& error) {
  if (!error_) error_ = error;
}

void FieldReader::Finish(bool ignore_unknown) {
  if (error_ || ignore_unknown) return;
  for (const auto& [name, value] : object_->items()) {
    if (asked_.contains(name)) continue;
    const std::string nearest = NearestWord(name, {asked_.begin(), asked_.end()});
    const std::string field = fmt::format("{}{}", path_, OneLine(name));
    error_ = MakeError(ApiCode::kInvalidValue,
                       fmt::format("unknown field '{}'{}", field,
                                   nearest.empty() ? "" : fmt::format(" (did you mean '{}{}'?)", path_, nearest)),
                       field);
    return;
  }
}

}  // namespace pointsman
