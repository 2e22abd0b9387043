#include "memory/strict_json.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "memory/one_line.h"

namespace pointsman {
namespace {

using nlohmann::json;

// Builds the document from the parser's events and stops at the first thing that is not allowed: what lies behind it is
// never allocated.
class DocumentBuilder final : public json::json_sax_t {
 public:
  explicit DocumentBuilder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return Put(json()) != nullptr; }
  bool boolean(bool value) override { return Put(json(value)) != nullptr; }
  bool number_integer(int64_t value) override { return Put(json(value)) != nullptr; }
  bool number_unsigned(uint64_t value) override { return Put(json(value)) != nullptr; }
  bool number_float(double value, const std::string&) override { return Put(json(value)) != nullptr; }
  bool string(std::string& value) override { return Put(json(std::move(value))) != nullptr; }
  bool binary(json::binary_t&) override { return false; }  // not in JSON
  bool start_object(size_t) override { return Open(json::object()); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(std::string& name) override {
    const auto [member, added] = open_.back()->get_ref<json::object_t&>().try_emplace(name);
    if (!added) return Fail(JsonFault::kDuplicateKey, 0, fmt::format("key '{}' appears twice", OneLine(name)));
    member_ = &member->second;
    return true;
  }

  bool parse_error(size_t byte, const std::string&, const nlohmann::detail::exception& error) override {
    constexpr int kNumberOverflow = 406;
    if (error.id == kNumberOverflow) {
      return Fail(JsonFault::kNumber, byte, fmt::format("number out of range at byte {}", byte));
    }
    // "[json.exception...] parse error at line 1, column 9: syntax error while parsing value - REASON; last read: TEXT"
    std::string_view reason = error.what();
    if (const size_t dash = reason.find(" - "); dash != std::string_view::npos) reason.remove_prefix(dash + 3);
    reason = reason.substr(0, reason.find("; last read"));
    return Fail(JsonFault::kSyntax, byte, fmt::format("not valid JSON at byte {}: {}", byte, OneLine(reason)));
  }

  std::variant<json, JsonProblem> Take(bool parsed) && {
    if (!parsed) return std::move(problem_);
    return std::move(root_);
  }

 private:
  bool Fail(JsonFault fault, size_t byte, std::string what) {
    problem_ = {.fault = fault, .byte = byte, .what = std::move(what)};
    return false;
  }

  // Where the value now lies, until its parent's next one comes.
  json* Put(json value) {
    if (++values_ > limits_.values) {
      Fail(JsonFault::kValues, 0, fmt::format("more than {} values", limits_.values));
      return nullptr;
    }
    if (open_.empty()) return &(root_ = std::move(value));
    if (member_ != nullptr) return &(*std::exchange(member_, nullptr) = std::move(value));
    return &open_.back()->get_ref<json::array_t&>().emplace_back(std::move(value));
  }

  bool Open(json container) {
    if (open_.size() >= limits_.depth) {
      return Fail(JsonFault::kDepth, 0, fmt::format("nested deeper than {} levels", limits_.depth));
    }
    json* placed = Put(std::move(container));
    if (placed != nullptr) open_.push_back(placed);
    return placed != nullptr;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  JsonLimits limits_;
  json root_;
  std::vector<json*> open_;  // arrays and objects that are not closed, outermost first
  json* member_ = nullptr;   // waits for its value
  uint64_t values_ = 0;
  JsonProblem problem_;
};

}  // namespace

std::variant<json, JsonProblem> ParseStrictJson(std::string_view text, const JsonLimits& limits) {
  DocumentBuilder builder(limits);
  const bool parsed = json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder).Take(parsed);
}

}  // namespace pointsman
