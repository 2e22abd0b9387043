#include "models/chat_template/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "models/chat_template/limits.h"
#include "models/tokenizer/unicode.h"

namespace pointsman::jinja {
namespace {

uint32_t DepthOf(const Value& value) {
  if (const List* list = value.AsList()) return list->depth;
  if (const Dict* dict = value.AsDict()) return dict->depth;
  return 0;
}

void CheckDepth(uint32_t depth) {
  if (depth > kDeepestValue) Fail(fmt::format("lists nested deeper than {}", kDeepestValue));
}

void CheckUsable(const Value& value) {
  if (const auto* undefined = value.As<Undefined>()) Fail(undefined->why);
}

// What is only walked has no equality, order or text of its own here.
bool IsPlain(const List& list) { return list.kind == ListKind::kList || list.kind == ListKind::kTuple; }

bool EqualLists(Budget& budget, const List& a, const List& b) {
  if (!IsPlain(a) || !IsPlain(b)) {
    if (&a == &b) return true;
    Fail("ranges, views and what filters give are not compared; add | list");
  }
  if (a.kind != b.kind || a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!Equal(budget, a.items[i], b.items[i])) return false;
  }
  return true;
}

bool EqualDicts(Budget& budget, const Dict& a, const Dict& b) {
  if (a.members.size() != b.members.size()) return false;
  for (const auto& [key, value] : a.members) {
    budget.Step(1 + b.members.size());
    const Value* other = b.Find(key.bytes);
    if (other == nullptr || !Equal(budget, value, *other)) return false;
  }
  return true;
}

void AppendPlain(Text& out, std::string_view text) { out.Append(text, Origin::kTemplate); }

void AppendRepr(Budget& budget, const Value& value, Text& out);

void AppendMembers(Budget& budget, const List& list, Text& out) {
  if (!IsPlain(list)) Fail("ranges, views and what filters give have no text; add | list");
  const bool tuple = list.kind == ListKind::kTuple;
  AppendPlain(out, tuple ? "(" : "[");
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) AppendPlain(out, ", ");
    AppendRepr(budget, list.items[i], out);
  }
  if (tuple && list.items.size() == 1) AppendPlain(out, ",");
  AppendPlain(out, tuple ? ")" : "]");
}

// Everything but strings, whose str() is not their repr().
void AppendOther(Budget& budget, const Value& value, Text& out) {
  budget.Step();
  if (value.Is<None>()) return AppendPlain(out, "None");
  if (const bool* flag = value.As<bool>()) return AppendPlain(out, *flag ? "True" : "False");
  if (const int64_t* number = value.As<int64_t>()) return AppendPlain(out, fmt::format("{}", *number));
  if (const double* number = value.As<double>()) return AppendPlain(out, FloatText(*number));
  if (const List* list = value.AsList()) {
    AppendMembers(budget, *list, out);
  } else if (const Dict* dict = value.AsDict()) {
    AppendPlain(out, "{");
    for (size_t i = 0; i < dict->members.size(); ++i) {
      if (i > 0) AppendPlain(out, ", ");
      AppendQuoted(dict->members[i].first, out);
      AppendPlain(out, ": ");
      AppendRepr(budget, dict->members[i].second, out);
    }
    AppendPlain(out, "}");
  } else {
    Fail(fmt::format("a {} has no text in this subset", TypeName(value)));
  }
  if (out.bytes.size() > kMostTextBytes) Fail("text longer than 8 MiB");
}

void AppendRepr(Budget& budget, const Value& value, Text& out) {
  if (value.Is<Undefined>()) return AppendPlain(out, "Undefined");
  const auto* string = value.As<StringValue>();
  if (string == nullptr) return AppendOther(budget, value, out);
  if (string->safe) Fail("a list with text of the filter 'safe' has no text in this subset");
  budget.Read(string->text->bytes.size());
  AppendQuoted(*string->text, out);
  if (out.bytes.size() > kMostTextBytes) Fail("text longer than 8 MiB");
}

class JsonWriter {
 public:
  JsonWriter(Budget& budget, const JsonStyle& style) : budget_(budget), style_(style) {}

  void Write(const Value& value, uint32_t level) {
    budget_.Step();
    if (out.bytes.size() > kMostTextBytes) Fail("text longer than 8 MiB");
    if (value.Is<None>()) return AppendPlain(out, "null");
    if (const bool* flag = value.As<bool>()) return AppendPlain(out, *flag ? "true" : "false");
    if (const int64_t* number = value.As<int64_t>()) return AppendPlain(out, fmt::format("{}", *number));
    if (const double* number = value.As<double>()) return AppendPlain(out, Number(*number));
    if (const Text* text = value.AsText()) {
      budget_.Read(text->bytes.size());
      return AppendJsonString(*text, style_.ascii, out);
    }
    if (const Dict* dict = value.AsDict()) return WriteDict(*dict, level);
    const List* list = value.AsList();
    if (list == nullptr || !IsPlain(*list)) Fail(fmt::format("tojson: a {} has no JSON", TypeName(value)));
    AppendPlain(out, "[");
    for (size_t i = 0; i < list->items.size(); ++i) {
      Separate(i > 0, level + 1);
      Write(list->items[i], level + 1);
    }
    Close(!list->items.empty(), level);
    AppendPlain(out, "]");
  }

  Text out;

 private:
  static std::string Number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return FloatText(value);
  }
  void Separate(bool further, uint32_t level) {
    if (further) AppendPlain(out, style_.item_separator);
    NewLine(level);
  }
  void Close(bool filled, uint32_t level) {
    if (filled) NewLine(level);
  }
  void NewLine(uint32_t level) {
    if (!style_.indent) return;
    AppendPlain(out, "\n");
    budget_.Step(level);
    for (uint32_t i = 0; i < level; ++i) AppendPlain(out, *style_.indent);
  }
  void WriteDict(const Dict& dict, uint32_t level) {
    std::vector<const std::pair<Text, Value>*> members;
    for (const auto& member : dict.members) members.push_back(&member);
    if (style_.sort_keys) {
      std::sort(members.begin(), members.end(), [](auto* a, auto* b) { return a->first.bytes < b->first.bytes; });
    }
    AppendPlain(out, "{");
    for (size_t i = 0; i < members.size(); ++i) {
      Separate(i > 0, level + 1);
      AppendJsonString(members[i]->first, style_.ascii, out);
      AppendPlain(out, style_.key_separator);
      Write(members[i]->second, level + 1);
    }
    Close(!members.empty(), level);
    AppendPlain(out, "}");
  }

  Budget& budget_;
  const JsonStyle& style_;
};

}  // namespace

void Fail(std::string message) {
  throw Failure{.code = ErrorCode::kUnsupported, .message = std::move(message), .line = 0};
}

void Budget::Step(uint64_t steps) {
  steps_ += steps;
  if (steps_ > kMostSteps) Fail("the template takes too many steps");
}

void Budget::Read(size_t bytes) { Step(1 + bytes / kBytesPerStep); }

void Budget::Make(size_t bytes) { Read(bytes); }

const Text* Value::AsText() const {
  const auto* string = As<StringValue>();
  return string ? string->text.get() : nullptr;
}
const List* Value::AsList() const {
  const auto* list = As<std::shared_ptr<const List>>();
  return list ? list->get() : nullptr;
}
const Dict* Value::AsDict() const {
  const auto* dict = As<std::shared_ptr<const Dict>>();
  return dict ? dict->get() : nullptr;
}
std::optional<int64_t> Value::AsInteger() const {
  if (const bool* flag = As<bool>()) return *flag ? 1 : 0;
  if (const int64_t* number = As<int64_t>()) return *number;
  return std::nullopt;
}
double Value::AsDouble() const {
  const double* number = As<double>();
  return number ? *number : static_cast<double>(AsInteger().value_or(0));
}

const Value* Dict::Find(std::string_view key) const {
  for (const auto& [name, value] : members) {
    if (name.bytes == key) return &value;
  }
  return nullptr;
}

Value MakeText(Budget& budget, Text text) {
  if (text.bytes.size() > kMostTextBytes) Fail("text longer than 8 MiB");
  budget.Make(64 + 2 * text.bytes.size());
  return StringValue{.text = std::make_shared<const Text>(std::move(text)), .safe = false};
}

Value MakeText(Budget& budget, std::string_view text) { return MakeText(budget, Text(text, Origin::kTemplate)); }

Value MakeList(Budget& budget, std::vector<Value> items, ListKind kind) {
  if (items.size() > kMostItems) Fail(fmt::format("a list of more than {}", kMostItems));
  List list;
  list.kind = kind;
  for (const Value& item : items) list.depth = std::max(list.depth, 1 + DepthOf(item));
  CheckDepth(list.depth);
  budget.Make(64 + items.size() * sizeof(Value));
  list.items = std::move(items);
  return std::shared_ptr<const List>(std::make_shared<const List>(std::move(list)));
}

Value MakeDict(Budget& budget, std::vector<std::pair<Text, Value>> members) {
  Dict dict;
  for (auto& [key, value] : members) {
    dict.depth = std::max(dict.depth, 1 + DepthOf(value));
    budget.Make(128 + 2 * key.bytes.size());
  }
  CheckDepth(dict.depth);
  dict.members = std::move(members);
  return std::shared_ptr<const Dict>(std::make_shared<const Dict>(std::move(dict)));
}

Value FromJson(Budget& budget, const nlohmann::ordered_json& json, Origin origin) {
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) Fail("a number in the messages beyond 64 bits");
  if (json.is_number_integer()) return json.get<int64_t>();
  if (json.is_number_float()) return json.get<double>();
  if (json.is_string()) return MakeText(budget, Text(json.get_ref<const std::string&>(), origin));
  if (json.is_array()) {
    std::vector<Value> items;
    for (const auto& item : json) items.push_back(FromJson(budget, item, origin));
    return MakeList(budget, std::move(items));
  }
  if (!json.is_object()) return None{};
  std::vector<std::pair<Text, Value>> members;
  for (const auto& [key, value] : json.items()) {
    members.emplace_back(Text(key, origin), FromJson(budget, value, origin));
  }
  return MakeDict(budget, std::move(members));
}

std::string TypeName(const Value& value) {
  if (value.Is<Undefined>()) return "Undefined";
  if (value.Is<None>()) return "NoneType";
  if (value.Is<bool>()) return "bool";
  if (value.Is<int64_t>()) return "int";
  if (value.Is<double>()) return "float";
  if (value.Is<StringValue>()) return "str";
  if (value.AsDict()) return "dict";
  if (value.Is<Namespace*>()) return "namespace";
  if (value.Is<Function>()) return "function";
  const List* list = value.AsList();
  if (list == nullptr) return "loop";
  switch (list->kind) {
    case ListKind::kList:
      return "list";
    case ListKind::kTuple:
      return "tuple";
    case ListKind::kRange:
      return "range";
    case ListKind::kView:
      return "dict view";
    default:
      return "generator";
  }
}

bool Truth(const Value& value) {
  if (value.Is<Undefined>() || value.Is<None>()) return false;
  if (const double* number = value.As<double>()) return *number != 0;
  if (const auto number = value.AsInteger()) return *number != 0;
  if (const Text* text = value.AsText()) return !text->bytes.empty();
  if (const List* list = value.AsList()) return list->kind == ListKind::kGenerator || !list->items.empty();
  if (const Dict* dict = value.AsDict()) return !dict->members.empty();
  return true;
}

bool Equal(Budget& budget, const Value& a, const Value& b) {
  budget.Step();
  if (a.IsNumber() && b.IsNumber()) {
    if (a.AsInteger() && b.AsInteger()) return a.AsInteger() == b.AsInteger();
    return a.AsDouble() == b.AsDouble();
  }
  if (a.Is<Undefined>() || a.Is<None>()) return a.Is<Undefined>() ? b.Is<Undefined>() : b.Is<None>();
  if (const Text* x = a.AsText(), *y = b.AsText(); x && y) {
    budget.Read(std::min(x->bytes.size(), y->bytes.size()));
    return x->bytes == y->bytes;
  }
  if (a.AsList() && b.AsList()) return EqualLists(budget, *a.AsList(), *b.AsList());
  if (a.AsDict() && b.AsDict()) return EqualDicts(budget, *a.AsDict(), *b.AsDict());
  if (a.Is<Namespace*>() && b.Is<Namespace*>()) return *a.As<Namespace*>() == *b.As<Namespace*>();
  return false;
}

int Compare(Budget& budget, const Value& a, const Value& b) {
  budget.Step();
  CheckUsable(a);
  CheckUsable(b);
  if (a.IsNumber() && b.IsNumber()) {
    if (const auto x = a.AsInteger(), y = b.AsInteger(); x && y) return *x < *y ? -1 : *x > *y;
    return a.AsDouble() < b.AsDouble() ? -1 : a.AsDouble() > b.AsDouble();
  }
  if (const Text* x = a.AsText(), *y = b.AsText(); x && y) {
    budget.Read(std::min(x->bytes.size(), y->bytes.size()));
    return x->bytes.compare(y->bytes);  // UTF-8 orders as code points do
  }
  const List *x = a.AsList(), *y = b.AsList();
  if (!x || !y || x->kind != y->kind || !IsPlain(*x)) {
    Fail(fmt::format("{} and {} have no order", TypeName(a), TypeName(b)));
  }
  for (size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i) {
    if (!Equal(budget, x->items[i], y->items[i])) return Compare(budget, x->items[i], y->items[i]);
  }
  return x->items.size() < y->items.size() ? -1 : x->items.size() > y->items.size();
}

bool Contains(Budget& budget, const Value& container, const Value& item) {
  if (const Text* text = container.AsText()) {
    const Text* part = item.AsText();
    if (part == nullptr) Fail(fmt::format("'in' a string needs a string, not {}", TypeName(item)));
    budget.Read(text->bytes.size());
    return text->bytes.find(part->bytes) != std::string::npos;
  }
  if (const Dict* dict = container.AsDict()) {
    if (item.AsDict() || (item.AsList() && item.AsList()->kind == ListKind::kList)) {
      Fail(fmt::format("'in' a dict: a {} is no key", TypeName(item)));
    }
    budget.Step(1 + dict->members.size());
    return item.AsText() && dict->Find(item.AsText()->bytes) != nullptr;
  }
  for (const Value& one : Items(budget, container)) {
    if (Equal(budget, one, item)) return true;
  }
  return false;
}

Text ToText(Budget& budget, const Value& value) {
  if (const Text* text = value.AsText()) {
    budget.Read(text->bytes.size());
    return *text;
  }
  Text out;
  if (!value.Is<Undefined>()) AppendOther(budget, value, out);
  budget.Make(2 * out.bytes.size());
  return out;
}

Text ToJson(Budget& budget, const Value& value, const JsonStyle& style) {
  JsonWriter writer(budget, style);
  writer.Write(value, 0);
  return std::move(writer.out);
}

std::vector<Value> Items(Budget& budget, const Value& value) {
  if (value.Is<Undefined>()) return {};
  if (const Text* text = value.AsText()) {
    std::vector<Value> characters;
    const std::vector<size_t> starts = CharacterStarts(text->bytes);
    if (starts.size() > kMostItems) Fail(fmt::format("a string of more than {} characters is walked", kMostItems));
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      characters.push_back(MakeText(budget, text->Slice(starts[i], starts[i + 1])));
    }
    return characters;
  }
  if (const Dict* dict = value.AsDict()) {
    std::vector<Value> keys;
    for (const auto& [key, member] : dict->members) keys.push_back(MakeText(budget, key));
    return keys;
  }
  const List* list = value.AsList();
  if (list == nullptr) Fail(fmt::format("a {} is not iterable", TypeName(value)));
  if (list->kind == ListKind::kGenerator && std::exchange(list->walked, true)) {
    Fail("what select, map, items or reverse give is read a second time; add | list");
  }
  budget.Make(list->items.size() * sizeof(Value));
  return list->items;
}

int64_t Length(Budget& budget, const Value& value) {
  if (value.Is<Undefined>()) return 0;
  if (const Text* text = value.AsText()) {
    budget.Read(text->bytes.size());
    return static_cast<int64_t>(CharacterStarts(text->bytes).size()) - 1;
  }
  if (const Dict* dict = value.AsDict()) return static_cast<int64_t>(dict->members.size());
  const List* list = value.AsList();
  if (list == nullptr || list->kind == ListKind::kGenerator) {
    Fail(fmt::format("a {} has no length", TypeName(value)));
  }
  return static_cast<int64_t>(list->items.size());
}

}  // namespace pointsman::jinja
