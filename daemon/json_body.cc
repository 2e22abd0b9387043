#include "daemon/json_body.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "memory/nearest_word.h"

namespace pointsman {
namespace {

using nlohmann::json;

// Builds the value while it counts: nothing beyond the limits is ever held.
class LimitedBuilder : public json::json_sax_t {
 public:
  explicit LimitedBuilder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(json::number_integer_t value) override { return Add(value); }
  bool number_unsigned(json::number_unsigned_t value) override { return Add(value); }
  bool number_float(json::number_float_t value, const std::string&) override {
    if (!std::isfinite(value)) return Refuse(ApiCode::kInvalidRequest, "a number is outside of what a double holds");
    return Add(value);
  }
  bool string(std::string& value) override { return Add(std::move(value)); }
  bool binary(json::binary_t&) override { return Refuse(ApiCode::kInvalidRequest, "not JSON"); }

  bool start_object(size_t) override { return Open(json::object()); }
  bool key(std::string& value) override {
    if (open_.back()->contains(value)) {
      return Refuse(ApiCode::kInvalidRequest, fmt::format("the key '{}' comes twice in one object", value));
    }
    key_ = std::move(value);
    return true;
  }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_array() override { return Close(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Refuse(ApiCode::kInvalidRequest, fmt::format("not JSON from byte {} on", position));
  }

  std::variant<json, ApiError> Take() {
    if (error_) return *error_;
    return std::move(root_);
  }

 private:
  bool Refuse(ApiCode code, const std::string& what) {
    if (!error_) error_ = ApiError{code, "body: " + what};
    return false;
  }

  json* Put(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  bool Count() {
    if (++values_ <= limits_.values) return true;
    return Refuse(ApiCode::kPayloadTooLarge, fmt::format("more than {} values", limits_.values));
  }
  bool Add(json value) {
    if (!Count()) return false;
    Put(std::move(value));
    return true;
  }
  bool Open(json container) {
    if (!Count()) return false;
    if (open_.size() == limits_.depth) {
      return Refuse(ApiCode::kPayloadTooLarge, fmt::format("nested deeper than {}", limits_.depth));
    }
    // Pointers stay valid: a container grows only while it is the innermost one, and then nothing points into it.
    open_.push_back(Put(std::move(container)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  const JsonLimits& limits_;
  json root_;
  std::vector<json*> open_;
  std::string key_;
  uint64_t values_ = 0;
  std::optional<ApiError> error_;
};

bool IsJson(std::string_view content_type) {
  std::string type(content_type.substr(0, content_type.find(';')));
  type.erase(type.find_last_not_of(" \t") + 1);
  std::ranges::transform(type, type.begin(),
                         [](char c) { return 'A' <= c && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return type == "application/json";
}

}  // namespace

std::variant<json, ApiError> ParseJsonBody(std::string_view body, std::string_view content_type,
                                           const JsonLimits& limits) {
  if (!IsJson(content_type)) {
    return ApiError{ApiCode::kUnsupportedMedia,
                    fmt::format("Content-Type '{}': send application/json", content_type.substr(0, 100))};
  }
  if (body.empty()) return ApiError{ApiCode::kInvalidRequest, "body: empty; send a JSON object"};
  LimitedBuilder builder(limits);
  json::sax_parse(body, &builder);  // reports through the builder
  return builder.Take();
}

FieldReader::FieldReader(const json& object, std::string path) : object_(&object), path_(std::move(path)) {
  if (object.is_object()) return;
  std::string where = path_.empty() ? "body" : path_.substr(0, path_.size() - 1);
  error_ = ApiError{path_.empty() ? ApiCode::kInvalidRequest : ApiCode::kInvalidValue,
                    where + ": must be a JSON object", path_.empty() ? std::string() : where};
}

const json* FieldReader::Member(std::string_view name) {
  asked_.emplace(name);
  if (!object_->is_object()) return nullptr;
  const auto found = object_->find(name);
  return found == object_->end() ? nullptr : &*found;
}

bool FieldReader::Has(std::string_view name) {
  const json* value = Member(name);
  return value && !value->is_null();
}

bool FieldReader::IsNull(std::string_view name) {
  const json* value = Member(name);
  return value && value->is_null();
}

void FieldReader::Fail(std::string_view name, std::string message, ApiCode code) {
  asked_.emplace(name);
  if (!error_) error_ = ApiError{code, std::move(message), path_ + std::string(name)};
}

std::string FieldReader::Text(std::string_view name, std::string fallback, size_t max_bytes) {
  if (!Has(name)) return fallback;
  const json& value = *Member(name);
  if (!value.is_string()) {
    Fail(name, fmt::format("{}{}: must be a string", path_, name));
    return fallback;
  }
  const auto& text = value.get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    Fail(name, fmt::format("{}{}: {} bytes; at most {}", path_, name, text.size(), max_bytes));
    return fallback;
  }
  return text;
}

std::string FieldReader::RequiredText(std::string_view name, size_t max_bytes) {
  if (!Has(name)) Fail(name, fmt::format("{}{}: missing", path_, name));
  return Text(name, {}, max_bytes);
}

int64_t FieldReader::Integer(std::string_view name, int64_t fallback, int64_t low, int64_t high) {
  if (!Has(name)) return fallback;
  const json& value = *Member(name);
  // 3.0 is an integer to clients whose language has one kind of number.
  const bool whole = value.is_number_float() && std::floor(value.get<double>()) == value.get<double>() &&
                     std::abs(value.get<double>()) < 9e15;
  if (!value.is_number_integer() && !whole) {
    Fail(name, fmt::format("{}{}: must be an integer", path_, name));
    return fallback;
  }
  const bool huge = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  const int64_t number = huge ? high : whole ? static_cast<int64_t>(value.get<double>()) : value.get<int64_t>();
  if (huge || number < low || number > high) {
    Fail(name, fmt::format("{}{}: {} is outside of {}..{}", path_, name, value.dump(), low, high));
    return fallback;
  }
  return number;
}

double FieldReader::Real(std::string_view name, double fallback, double low, double high) {
  if (!Has(name)) return fallback;
  const json& value = *Member(name);
  if (!value.is_number()) {
    Fail(name, fmt::format("{}{}: must be a number", path_, name));
    return fallback;
  }
  const auto number = value.get<double>();
  if (!(number >= low && number <= high)) {
    Fail(name, fmt::format("{}{}: {} is outside of {:g}..{:g}", path_, name, value.dump(), low, high));
    return fallback;
  }
  return number;
}

bool FieldReader::Flag(std::string_view name, bool fallback) {
  if (!Has(name)) return fallback;
  const json& value = *Member(name);
  if (value.is_boolean()) return value.get<bool>();
  Fail(name, fmt::format("{}{}: must be true or false", path_, name));
  return fallback;
}

std::string FieldReader::Choice(std::string_view name, std::string fallback, const std::vector<std::string>& choices) {
  const std::string text = Text(name, fallback, 64);
  if (std::ranges::find(choices, text) != choices.end()) return text;
  Fail(name, fmt::format("{}{}: '{}' is none of {}", path_, name, text, fmt::join(choices, ", ")));
  return fallback;
}

std::vector<std::string> FieldReader::Texts(std::string_view name, size_t max_items, size_t max_bytes_each) {
  std::vector<std::string> texts;
  if (!Has(name)) return texts;
  const json& list = *Member(name);
  if (!list.is_array() || list.size() > max_items) {
    Fail(name, fmt::format("{}{}: must be a list of at most {} strings", path_, name, max_items));
    return texts;
  }
  for (const json& item : list) {
    if (!item.is_string() || item.get_ref<const std::string&>().size() > max_bytes_each) {
      Fail(name,
           fmt::format("{}{}: holds something that is no string of at most {} bytes", path_, name, max_bytes_each));
      return {};
    }
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

std::vector<int64_t> FieldReader::Integers(std::string_view name, size_t max_items, int64_t low, int64_t high) {
  std::vector<int64_t> numbers;
  if (!Has(name)) return numbers;
  const json& list = *Member(name);
  if (!list.is_array() || list.size() > max_items) {
    Fail(name, fmt::format("{}{}: must be a list of at most {} integers", path_, name, max_items));
    return numbers;
  }
  for (const json& item : list) {
    if (!item.is_number_integer() || item < low || item > high) {
      Fail(name, fmt::format("{}{}: holds something that is no integer in {}..{}", path_, name, low, high));
      return {};
    }
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

void FieldReader::Finish(bool ignore_unknown) {
  if (ignore_unknown || error_ || !object_->is_object()) return;
  for (const auto& [key, value] : object_->items()) {
    if (asked_.contains(key)) continue;
    const std::string nearest = Nearest(key, {asked_.begin(), asked_.end()});
    Fail(key, fmt::format("{}{}: unknown field{}", path_, key.substr(0, 64),
                          nearest.empty() ? std::string() : fmt::format(" (did you mean {}?)", nearest)));
    return;
  }
}

}  // namespace pointsman
