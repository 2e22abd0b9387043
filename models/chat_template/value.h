// Values of a template while it is rendered: Python's, as far as the subset knows them. Of one rendering, one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "memory/result.h"
#include "models/chat_template/text.h"

namespace pointsman::jinja {

// Ends a rendering or the reading of a template; caught at the door (chat_template.cc), never seen outside.
struct Failure {
  ErrorCode code = ErrorCode::kUnsupported;
  std::string message;
  int line = 0;  // 0: filled in where it is known
};
[[noreturn]] void Fail(std::string message);

// What a rendering may still spend. Fails when there is nothing left.
class Budget {
 public:
  void Step(uint64_t steps = 1);
  void Read(size_t bytes);  // of text that is looked through
  void Make(size_t bytes);  // of a value that is made

 private:
  uint64_t steps_ = 0;
};

class Value;
struct Dict;
struct Loop;   // scope.h
struct Macro;  // ast.h
struct Scope;

struct Undefined {
  std::string why;  // "'x' is undefined": what to say when it is used
};
struct None {};
enum class ListKind : uint8_t {
  kList,
  kTuple,
  kRange,
  kView,       // dict.items() and its like: counted and walked, nothing else
  kGenerator,  // of select, map, ..: walked once
};
struct List {
  ListKind kind = ListKind::kList;
  uint32_t depth = 1;
  mutable bool walked = false;  // a generator that was
  std::vector<Value> items;
};
struct Namespace;
// A callable name: a macro with the scope it was written in, or a global function.
struct Function {
  const Macro* macro = nullptr;
  Scope* scope = nullptr;
  std::string_view global = {};
};
// Text of the filter `safe`: joined with + it would escape the other side.
struct StringValue {
  std::shared_ptr<const Text> text;
  bool safe = false;
};

class Value {
 public:
  using Variant = std::variant<Undefined, None, bool, int64_t, double, StringValue, std::shared_ptr<const List>,
                               std::shared_ptr<const Dict>, Namespace*, Function, std::shared_ptr<Loop>>;
  Value() : variant_(None{}) {}
  template <typename T>
  Value(T value) : variant_(std::move(value)) {}  // NOLINT(google-explicit-constructor)

  template <typename T>
  bool Is() const {
    return std::holds_alternative<T>(variant_);
  }
  template <typename T>
  const T* As() const {
    return std::get_if<T>(&variant_);
  }
  const Text* AsText() const;  // nullptr: no string
  const List* AsList() const;
  const Dict* AsDict() const;
  std::optional<int64_t> AsInteger() const;  // bool counts
  bool IsNumber() const { return Is<bool>() || Is<int64_t>() || Is<double>(); }
  double AsDouble() const;  // REQUIRES: IsNumber()

 private:
  Variant variant_;
};

struct Dict {
  uint32_t depth = 1;
  std::vector<std::pair<Text, Value>> members;  // in the order written

  const Value* Find(std::string_view key) const;
};
struct Namespace {
  std::vector<std::pair<std::string, Value>> members;
};

Value MakeText(Budget& budget, Text text);
Value MakeText(Budget& budget, std::string_view text);  // of the template
Value MakeList(Budget& budget, std::vector<Value> items, ListKind kind = ListKind::kList);
Value MakeDict(Budget& budget, std::vector<std::pair<Text, Value>> members);

// Strings and keys get `origin`.
Value FromJson(Budget& budget, const nlohmann::ordered_json& json, Origin origin);

std::string TypeName(const Value& value);  // Python's: "str", "NoneType"

bool Truth(const Value& value);
bool Equal(Budget& budget, const Value& a, const Value& b);
int Compare(Budget& budget, const Value& a, const Value& b);  // < 0, 0, > 0; fails where Python would
bool Contains(Budget& budget, const Value& container, const Value& item);

// str(value).
Text ToText(Budget& budget, const Value& value);
struct JsonStyle {
  bool ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level's
  std::string item_separator = ", ", key_separator = ": ";
};
Text ToJson(Budget& budget, const Value& value, const JsonStyle& style);

// What a for loop walks through; fails for what is not iterable. A generator only once.
std::vector<Value> Items(Budget& budget, const Value& value);
int64_t Length(Budget& budget, const Value& value);

}  // namespace pointsman::jinja
