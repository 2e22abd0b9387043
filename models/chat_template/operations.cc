#include "models/chat_template/operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "memory/one_line.h"
#include "models/chat_template/limits.h"

namespace pointsman::jinja {
namespace {

// What Python's own values have: a template that reads such a name without calling it would print an object's address.
constexpr std::array<std::string_view, 11> kDictAttributes = {
    "clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"};
constexpr std::array<std::string_view, 47> kStringAttributes = {
    "capitalize",   "casefold",   "center",    "count",       "encode",    "endswith",     "expandtabs",   "find",
    "format",       "format_map", "index",     "isalnum",     "isalpha",   "isascii",      "isdecimal",    "isdigit",
    "isidentifier", "islower",    "isnumeric", "isprintable", "isspace",   "istitle",      "isupper",      "join",
    "ljust",        "lower",      "lstrip",    "maketrans",   "partition", "removeprefix", "removesuffix", "replace",
    "rfind",        "rindex",     "rjust",     "rpartition",  "rsplit",    "rstrip",       "split",        "splitlines",
    "startswith",   "strip",      "swapcase",  "title",       "translate", "upper",        "zfill"};
constexpr std::array<std::string_view, 11> kListAttributes = {"append", "clear", "copy",   "count",   "extend", "index",
                                                              "insert", "pop",   "remove", "reverse", "sort"};
constexpr std::array<std::string_view, 24> kOtherAttributes = {
    "as_integer_ratio", "bit_count", "bit_length", "conjugate", "count", "denominator",
    "from_bytes",       "fromhex",   "hex",        "imag",      "index", "is_integer",
    "numerator",        "real",      "start",      "step",      "stop",  "to_bytes",
    "isdisjoint",       "mapping",   "close",      "send",      "throw", "gi_running"};

template <size_t N>
bool Has(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool IsPythonAttribute(const Value& value, std::string_view name) {
  if (name.starts_with("__")) return true;
  if (value.AsDict()) return Has(kDictAttributes, name);
  if (value.AsText()) return Has(kStringAttributes, name);
  if (const List* list = value.AsList(); list && list->kind == ListKind::kList) return Has(kListAttributes, name);
  if (value.Is<None>()) return false;
  return Has(kOtherAttributes, name);
}

// Where Python's sequence index lands; nothing outside.
std::optional<size_t> IndexOf(int64_t index, size_t size) {
  const auto count = static_cast<int64_t>(size);
  if (index < 0) index += count;
  if (index < 0 || index >= count) return std::nullopt;
  return static_cast<size_t>(index);
}

Undefined NoItem(const Value& value, const std::string& key) {
  return Undefined{.why = fmt::format("'{} object' has no attribute '{}'", TypeName(value), OneLine(key))};
}

// The indices that [begin:end:step] takes of `size` items.
std::vector<size_t> SliceIndices(size_t size, std::optional<int64_t> begin, std::optional<int64_t> end, int64_t step) {
  if (step == 0) Fail("a slice's step is zero");
  const auto count = static_cast<int64_t>(size);
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? count : count - 1;
  const auto clamp = [&](std::optional<int64_t> bound, int64_t fallback) {
    if (!bound) return fallback;
    return std::clamp(*bound < 0 ? *bound + count : *bound, low, high);
  };
  const int64_t from = clamp(begin, step > 0 ? low : high), to = clamp(end, step > 0 ? high : low);
  std::vector<size_t> indices;
  // Counted rather than stepped: a step near the limits of 64 bits must not overflow.
  const uint64_t distance = step > 0 ? (to > from ? static_cast<uint64_t>(to - from) : 0)
                                     : (from > to ? static_cast<uint64_t>(from - to) : 0);
  const uint64_t stride = step > 0 ? static_cast<uint64_t>(step) : 0 - static_cast<uint64_t>(step);
  for (uint64_t at = 0; at < distance; at += stride) {
    const auto offset = static_cast<int64_t>(at);
    indices.push_back(static_cast<size_t>(step > 0 ? from + offset : from - offset));
    if (stride > distance) break;
  }
  return indices;
}

void CheckFits(bool overflow) {
  if (overflow) Fail("a number beyond 64 bits");
}

Value IntegerArithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+" || op == "-" || op == "*") {
    CheckFits(op == "+"   ? __builtin_add_overflow(a, b, &result)
              : op == "-" ? __builtin_sub_overflow(a, b, &result)
                          : __builtin_mul_overflow(a, b, &result));
    return result;
  }
  if (b == 0) Fail("division by zero");
  if (op == "/") return static_cast<double>(a) / static_cast<double>(b);
  CheckFits(a == INT64_MIN && b == -1);
  const int64_t remainder = a % b;
  const bool down = remainder != 0 && (remainder < 0) != (b < 0);  // Python rounds towards minus infinity
  if (op == "//") return a / b - (down ? 1 : 0);
  return down ? remainder + b : remainder;
}

Value RealArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (b == 0) Fail("division by zero");
  if (op == "/") return a / b;
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (op == "%") return remainder == 0 ? std::copysign(0.0, b) : remainder;
  const double quotient = (a - remainder) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1 : whole;
}

Value Repeated(Budget& budget, const Text& text, int64_t times) {
  Text out;
  if (times > 0 && text.bytes.size() > kMostTextBytes / static_cast<uint64_t>(times)) Fail("text longer than 8 MiB");
  for (int64_t i = 0; i < times && !text.bytes.empty(); ++i) out.Append(text);
  return MakeText(budget, std::move(out));
}

Value Joined(Budget& budget, const Value& left, const Value& right) {
  if (left.As<StringValue>()->safe || right.As<StringValue>()->safe) {
    Fail("+ with text of the filter 'safe' is not in the subset; use ~");
  }
  Text out = *left.AsText();
  out.Append(*right.AsText());
  return MakeText(budget, std::move(out));
}

}  // namespace

std::vector<std::string_view> ParameterNames(std::string_view parameters) {
  std::vector<std::string_view> names;
  while (!parameters.empty()) {
    const size_t end = std::min(parameters.find(' '), parameters.size());
    names.push_back(parameters.substr(0, end));
    parameters.remove_prefix(std::min(end + 1, parameters.size()));
  }
  return names;
}

Value Attribute(Budget& budget, const Value& value, std::string_view name) {
  budget.Step();
  if (const auto* undefined = value.As<Undefined>()) Fail(undefined->why);
  if (const auto* space = value.As<Namespace*>()) {
    for (const auto& [key, member] : (*space)->members) {
      if (key == name) return member;
    }
    return NoItem(value, std::string(name));
  }
  if (IsPythonAttribute(value, name)) {
    Fail(fmt::format("'{}' of a {} is read without a call; that is not in the subset", OneLine(name), TypeName(value)));
  }
  if (const Dict* dict = value.AsDict()) {
    budget.Step(dict->members.size() / 8);
    if (const Value* member = dict->Find(name)) return *member;
  }
  return NoItem(value, std::string(name));
}

Value Subscript(Budget& budget, const Value& value, const Value& key) {
  budget.Step();
  if (const auto* undefined = value.As<Undefined>()) Fail(undefined->why);
  if (const Text* name = key.AsText()) {
    if (const Dict* dict = value.AsDict()) {
      budget.Step(dict->members.size() / 8);
      if (const Value* member = dict->Find(name->bytes)) return *member;
    }
    return Attribute(budget, value, name->bytes);
  }
  const auto index = key.AsInteger();
  const List* list = value.AsList();
  if (index && list && list->kind != ListKind::kView && list->kind != ListKind::kGenerator) {
    if (const auto at = IndexOf(*index, list->items.size())) return list->items[*at];
  }
  if (const Text* text = value.AsText(); index && text) {
    budget.Read(text->bytes.size());
    const std::vector<size_t> starts = CharacterStarts(text->bytes);
    if (const auto at = IndexOf(*index, starts.size() - 1)) {
      return MakeText(budget, text->Slice(starts[*at], starts[*at + 1]));
    }
  }
  return Undefined{.why = fmt::format("'{} object' has no such element", TypeName(value))};
}

Value Slice(Budget& budget, const Value& value, std::optional<int64_t> begin, std::optional<int64_t> end,
            int64_t step) {
  budget.Step();
  if (const auto* undefined = value.As<Undefined>()) Fail(undefined->why);
  if (const Text* text = value.AsText()) {
    budget.Read(text->bytes.size());
    const std::vector<size_t> starts = CharacterStarts(text->bytes);
    Text out;
    for (const size_t i : SliceIndices(starts.size() - 1, begin, end, step)) {
      out.Append(*text, starts[i], starts[i + 1]);
    }
    return MakeText(budget, std::move(out));
  }
  const List* list = value.AsList();
  if (list == nullptr || list->kind == ListKind::kView || list->kind == ListKind::kGenerator) {
    Fail(fmt::format("a {} has no slices", TypeName(value)));
  }
  std::vector<Value> items;
  for (const size_t i : SliceIndices(list->items.size(), begin, end, step)) items.push_back(list->items[i]);
  return MakeList(budget, std::move(items), list->kind);
}

Value Arithmetic(Budget& budget, std::string_view op, const Value& left, const Value& right) {
  budget.Step();
  for (const Value* side : {&left, &right}) {
    if (const auto* undefined = side->As<Undefined>()) Fail(undefined->why);
  }
  if (left.IsNumber() && right.IsNumber()) {
    const auto a = left.AsInteger(), b = right.AsInteger();
    return a && b ? IntegerArithmetic(op, *a, *b) : RealArithmetic(op, left.AsDouble(), right.AsDouble());
  }
  if (op == "+" && left.AsText() && right.AsText()) return Joined(budget, left, right);
  if (op == "*" && left.AsText() && right.AsInteger()) return Repeated(budget, *left.AsText(), *right.AsInteger());
  if (op == "*" && left.AsInteger() && right.AsText()) return Repeated(budget, *right.AsText(), *left.AsInteger());
  const List *a = left.AsList(), *b = right.AsList();
  if (op == "+" && a && b && a->kind == b->kind && (a->kind == ListKind::kList || a->kind == ListKind::kTuple)) {
    std::vector<Value> items = a->items;
    items.insert(items.end(), b->items.begin(), b->items.end());
    return MakeList(budget, std::move(items), a->kind);
  }
  if (op == "%" && left.AsText()) Fail("formatting a string with % is not in the subset");
  Fail(fmt::format("{} {} {} is not possible", TypeName(left), op, TypeName(right)));
}

}  // namespace pointsman::jinja
