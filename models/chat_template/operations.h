// Filters, tests and methods that a template may name, each in one table: what is not there is refused when the
// template is read.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/chat_template/value.h"

namespace pointsman::jinja {

// Of a call, after names were matched to parameters: nothing where the caller gave nothing.
using Arguments = std::vector<std::optional<Value>>;

struct FilterSpec {
  std::string_view name;
  std::string_view parameters;  // "indent separators", in order; "..." for filters that pass them on
  Value (*apply)(Budget&, const Value& input, const Arguments&) = nullptr;
};
struct TestSpec {
  std::string_view name;
  int arguments = 0;
  bool (*apply)(Budget&, const Value& input, const Value& argument) = nullptr;
};
struct MethodSpec {
  std::string_view name;
  std::string_view parameters;
  int required = 0;
  bool named = false;    // whether parameters may be given by name
  bool of_dict = false;  // else of str
  Value (*apply)(Budget&, const Value& receiver, const Arguments&) = nullptr;
};

// Called by their names, as macros are; the evaluator knows what they do.
inline constexpr std::array<std::string_view, 4> kFunctions = {"range", "namespace", "dict", "raise_exception"};

// nullptr: not in the subset. "loop.cycle" is not a method here, the evaluator knows it.
const FilterSpec* FindFilter(std::string_view name);
const TestSpec* FindTest(std::string_view name);
const MethodSpec* FindMethod(std::string_view name);

std::vector<std::string_view> ParameterNames(std::string_view parameters);

// value.name and value["name"]; what Python gives for a name that is not there. A name of Python's own attributes
// (dict.items without a call) fails.
Value Attribute(Budget& budget, const Value& value, std::string_view name);
Value Subscript(Budget& budget, const Value& value, const Value& key);
Value Slice(Budget& budget, const Value& value, std::optional<int64_t> begin, std::optional<int64_t> end, int64_t step);
Value Arithmetic(Budget& budget, std::string_view op, const Value& left, const Value& right);

}  // namespace pointsman::jinja
