// Filters and tests.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "models/chat_template/limits.h"
#include "models/chat_template/operations.h"
#include "models/chat_template/strings.h"

namespace pointsman::jinja {
namespace {

// str(value), but text stays the value it is.
Value Soft(Budget& budget, const Value& value) {
  return value.AsText() ? value : MakeText(budget, ToText(budget, value));
}
Text TextOf(Budget& budget, const std::optional<Value>& value, std::string_view fallback = {}) {
  return value ? ToText(budget, *value) : Text(fallback, Origin::kTemplate);
}
bool FlagOf(const std::optional<Value>& value) { return value && Truth(*value); }

Value Trim(Budget& budget, const Value& input, const Arguments& arguments) {
  const Value soft = Soft(budget, input);
  return MakeText(budget, Strip(budget, *soft.AsText(), arguments[0], true, true));
}
Value Count(Budget& budget, const Value& input, const Arguments&) { return Length(budget, input); }
Value UpperCase(Budget& budget, const Value& input, const Arguments&) {
  return MakeText(budget, Upper(ToText(budget, input)));
}
Value LowerCase(Budget& budget, const Value& input, const Arguments&) {
  return MakeText(budget, Lower(ToText(budget, input)));
}
Value Capital(Budget& budget, const Value& input, const Arguments&) {
  return MakeText(budget, Capitalize(ToText(budget, input)));
}
Value Titled(Budget& budget, const Value& input, const Arguments&) {
  return MakeText(budget, Title(ToText(budget, input)));
}
Value Join(Budget& budget, const Value& input, const Arguments& arguments) {
  return MakeText(budget, JoinTexts(budget, TextOf(budget, arguments[0]), Items(budget, input), false));
}
Value Default(Budget& budget, const Value& input, const Arguments& arguments) {
  if (!input.Is<Undefined>() && (!FlagOf(arguments[1]) || Truth(input))) return input;
  return arguments[0] ? *arguments[0] : MakeText(budget, "");
}
Value AsList(Budget& budget, const Value& input, const Arguments&) { return MakeList(budget, Items(budget, input)); }
Value Pairs(Budget& budget, const Value& input, const Arguments&) {
  if (input.Is<Undefined>()) return MakeList(budget, {}, ListKind::kGenerator);
  if (!input.AsDict()) Fail(fmt::format("the filter 'items' needs a dict, not {}", TypeName(input)));
  return MakeList(budget, DictPairs(budget, *input.AsDict()), ListKind::kGenerator);
}
Value Replace(Budget& budget, const Value& input, const Arguments& arguments) {
  if (!arguments[0] || !arguments[1]) Fail("the filter 'replace' needs what to replace and by what");
  const int64_t most = arguments[2] && !arguments[2]->Is<None>() ? RequireInteger(*arguments[2], "replace") : -1;
  return MakeText(budget, ReplaceAll(budget, ToText(budget, input), TextOf(budget, arguments[0]),
                                     TextOf(budget, arguments[1]), most));
}
Value First(Budget& budget, const Value& input, const Arguments&) {
  const std::vector<Value> items = Items(budget, input);
  if (items.empty()) return Undefined{.why = "the first of nothing"};
  return items.front();
}
Value Last(Budget& budget, const Value& input, const Arguments&) {
  if (input.AsList() && input.AsList()->kind == ListKind::kGenerator) Fail("the last of a generator; add | list");
  const std::vector<Value> items = Items(budget, input);
  if (items.empty()) return Undefined{.why = "the last of nothing"};
  return items.back();
}
Value AsString(Budget& budget, const Value& input, const Arguments&) { return Soft(budget, input); }
Value Safe(Budget& budget, const Value& input, const Arguments&) {
  const Value soft = Soft(budget, input);
  return StringValue{.text = soft.As<StringValue>()->text, .safe = true};
}
Value Reverse(Budget& budget, const Value& input, const Arguments&) {
  if (input.AsText()) return Slice(budget, input, {}, {}, -1);
  const bool generator = input.AsList() && input.AsList()->kind == ListKind::kGenerator;
  std::vector<Value> items = Items(budget, input);
  std::reverse(items.begin(), items.end());
  return MakeList(budget, std::move(items), generator ? ListKind::kList : ListKind::kGenerator);
}

std::optional<std::string> IndentOf(const std::optional<Value>& value) {
  if (!value || value->Is<None>()) return std::nullopt;
  if (const Text* text = value->AsText()) return text->bytes.substr(0, 64);
  return std::string(static_cast<size_t>(std::clamp<int64_t>(RequireInteger(*value, "indent"), 0, 64)), ' ');
}

Value Json(Budget& budget, const Value& input, const Arguments& arguments) {
  JsonStyle style;
  style.ascii = FlagOf(arguments[0]);
  style.indent = IndentOf(arguments[1]);
  style.sort_keys = FlagOf(arguments[3]);
  if (style.indent) style.item_separator = ",";
  if (arguments[2] && !arguments[2]->Is<None>()) {
    const List* pair = arguments[2]->AsList();
    if (!pair || pair->items.size() != 2 || !pair->items[0].AsText() || !pair->items[1].AsText()) {
      Fail("tojson: separators are two strings");
    }
    style.item_separator = pair->items[0].AsText()->bytes;
    style.key_separator = pair->items[1].AsText()->bytes;
  }
  return MakeText(budget, ToJson(budget, input, style));
}

// item.a.b, as the filters' `attribute` says it.
Value Path(Budget& budget, Value item, const Value& path) {
  if (const auto index = path.AsInteger()) return Subscript(budget, item, *index);
  const Text* text = path.AsText();
  if (text == nullptr) Fail("an attribute's name is a string");
  for (size_t at = 0; at <= text->bytes.size();) {
    const size_t end = std::min(text->bytes.find('.', at), text->bytes.size());
    const std::string name = text->bytes.substr(at, end - at);
    const bool number = !name.empty() && name.size() < 10 && name.find_first_not_of("0123456789") == std::string::npos;
    item = Subscript(budget, item, number ? Value(int64_t{std::stoll(name)}) : MakeText(budget, name));
    at = end + 1;
  }
  return item;
}

bool Passes(Budget& budget, const Value& item, const std::optional<Value>& test, const std::optional<Value>& argument) {
  if (!test) return Truth(item);
  const TestSpec* spec = FindTest(test->AsText() ? test->AsText()->bytes : "");
  if (spec == nullptr || argument.has_value() != (spec->arguments == 1)) {
    Fail("this test, or its number of arguments, is not in the subset");
  }
  return spec->apply(budget, item, argument ? *argument : Value());
}

Value Picked(Budget& budget, const Value& input, bool keep, const std::optional<Value>& path,
             const std::optional<Value>& test, const std::optional<Value>& argument) {
  std::vector<Value> picked;
  if (Truth(input)) {
    for (const Value& item : Items(budget, input)) {
      if (Passes(budget, path ? Path(budget, item, *path) : item, test, argument) == keep) picked.push_back(item);
    }
  }
  return MakeList(budget, std::move(picked), ListKind::kGenerator);
}
Value Select(Budget& budget, const Value& input, const Arguments& a) {
  return Picked(budget, input, true, {}, a[0], a[1]);
}
Value Reject(Budget& budget, const Value& input, const Arguments& a) {
  return Picked(budget, input, false, {}, a[0], a[1]);
}
Value SelectAttribute(Budget& budget, const Value& input, const Arguments& a) {
  if (!a[0]) Fail("selectattr needs an attribute");
  return Picked(budget, input, true, a[0], a[1], a[2]);
}
Value RejectAttribute(Budget& budget, const Value& input, const Arguments& a) {
  if (!a[0]) Fail("rejectattr needs an attribute");
  return Picked(budget, input, false, a[0], a[1], a[2]);
}

Value Map(Budget& budget, const Value& input, const Arguments& arguments) {
  std::vector<Value> mapped;
  const auto& attribute = arguments[3];
  const FilterSpec* filter = nullptr;
  if (!attribute) {
    if (arguments[0] && arguments[0]->AsText()) filter = FindFilter(arguments[0]->AsText()->bytes);
    if (filter == nullptr || filter->apply == Map) Fail("map needs attribute=, or the name of a filter of the subset");
  }
  if (Truth(input)) {
    for (const Value& item : Items(budget, input)) {
      if (attribute) {
        Value found = Path(budget, item, *attribute);
        if (found.Is<Undefined>() && arguments[4] && !arguments[4]->Is<None>()) found = *arguments[4];
        mapped.push_back(std::move(found));
        continue;
      }
      Arguments passed = {arguments[1], arguments[2]};
      const size_t takes = ParameterNames(filter->parameters).size();
      for (size_t i = takes; i < passed.size(); ++i) {
        if (passed[i]) Fail(fmt::format("the filter '{}' takes fewer arguments", filter->name));
      }
      passed.resize(takes);
      mapped.push_back(filter->apply(budget, item, passed));
    }
  }
  return MakeList(budget, std::move(mapped), ListKind::kGenerator);
}

constexpr std::array<FilterSpec, 24> kFilters = {{
    {"trim", "chars", Trim},
    {"length", "", Count},
    {"count", "", Count},
    {"tojson", "ensure_ascii indent separators sort_keys", Json},
    {"upper", "", UpperCase},
    {"lower", "", LowerCase},
    {"capitalize", "", Capital},
    {"title", "", Titled},
    {"join", "d", Join},
    {"default", "default_value boolean", Default},
    {"d", "default_value boolean", Default},
    {"list", "", AsList},
    {"items", "", Pairs},
    {"replace", "old new count", Replace},
    {"first", "", First},
    {"last", "", Last},
    {"string", "", AsString},
    {"safe", "", Safe},
    {"reverse", "", Reverse},
    {"select", "test argument", Select},
    {"reject", "test argument", Reject},
    {"selectattr", "attribute test argument", SelectAttribute},
    {"rejectattr", "attribute test argument", RejectAttribute},
    {"map", "filter first second attribute default", Map},
}};

bool IsSequence(const Value& value) {
  const List* list = value.AsList();
  return value.Is<Undefined>() || value.AsText() || value.AsDict() ||
         (list && list->kind != ListKind::kView && list->kind != ListKind::kGenerator);
}

bool IsOdd(Budget& budget, const Value& value) {
  return Equal(budget, Arithmetic(budget, "%", value, int64_t{2}), int64_t{1});
}

using V = const Value&;
constexpr std::array<TestSpec, 32> kTests = {{
    {"defined", 0, [](Budget&, V v, V) { return !v.Is<Undefined>(); }},
    {"undefined", 0, [](Budget&, V v, V) { return v.Is<Undefined>(); }},
    {"none", 0, [](Budget&, V v, V) { return v.Is<None>(); }},
    {"string", 0, [](Budget&, V v, V) { return v.AsText() != nullptr; }},
    {"number", 0, [](Budget&, V v, V) { return v.IsNumber(); }},
    {"integer", 0, [](Budget&, V v, V) { return v.Is<int64_t>(); }},
    {"float", 0, [](Budget&, V v, V) { return v.Is<double>(); }},
    {"boolean", 0, [](Budget&, V v, V) { return v.Is<bool>(); }},
    {"true", 0, [](Budget&, V v, V) { return v.As<bool>() && *v.As<bool>(); }},
    {"false", 0, [](Budget&, V v, V) { return v.As<bool>() && !*v.As<bool>(); }},
    {"mapping", 0, [](Budget&, V v, V) { return v.AsDict() != nullptr; }},
    {"iterable", 0, [](Budget&, V v, V) { return IsSequence(v) || v.AsList() != nullptr; }},
    {"sequence", 0, [](Budget&, V v, V) { return IsSequence(v); }},
    {"odd", 0, [](Budget& b, V v, V) { return IsOdd(b, v); }},
    {"even", 0, [](Budget& b, V v, V) { return Equal(b, Arithmetic(b, "%", v, int64_t{2}), int64_t{0}); }},
    {"divisibleby", 1, [](Budget& b, V v, V a) { return Equal(b, Arithmetic(b, "%", v, a), int64_t{0}); }},
    {"in", 1, [](Budget& b, V v, V a) { return Contains(b, a, v); }},
    {"eq", 1, [](Budget& b, V v, V a) { return Equal(b, v, a); }},
    {"equalto", 1, [](Budget& b, V v, V a) { return Equal(b, v, a); }},
    {"==", 1, [](Budget& b, V v, V a) { return Equal(b, v, a); }},
    {"ne", 1, [](Budget& b, V v, V a) { return !Equal(b, v, a); }},
    {"!=", 1, [](Budget& b, V v, V a) { return !Equal(b, v, a); }},
    {"lt", 1, [](Budget& b, V v, V a) { return Compare(b, v, a) < 0; }},
    {"lessthan", 1, [](Budget& b, V v, V a) { return Compare(b, v, a) < 0; }},
    {"<", 1, [](Budget& b, V v, V a) { return Compare(b, v, a) < 0; }},
    {"le", 1, [](Budget& b, V v, V a) { return Compare(b, v, a) <= 0; }},
    {"<=", 1, [](Budget& b, V v, V a) { return Compare(b, v, a) <= 0; }},
    {"gt", 1, [](Budget& b, V v, V a) { return Compare(b, v, a) > 0; }},
    {"greaterthan", 1, [](Budget& b, V v, V a) { return Compare(b, v, a) > 0; }},
    {">", 1, [](Budget& b, V v, V a) { return Compare(b, v, a) > 0; }},
    {"ge", 1, [](Budget& b, V v, V a) { return Compare(b, v, a) >= 0; }},
    {">=", 1, [](Budget& b, V v, V a) { return Compare(b, v, a) >= 0; }},
}};

template <typename Table>
auto FindIn(const Table& table, std::string_view name) -> decltype(table.data()) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const auto& spec) { return spec.name == name; });
  return found == table.end() || name.empty() ? nullptr : &*found;
}

}  // namespace

const FilterSpec* FindFilter(std::string_view name) { return FindIn(kFilters, name); }
const TestSpec* FindTest(std::string_view name) { return FindIn(kTests, name); }

}  // namespace pointsman::jinja
