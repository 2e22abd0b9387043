#include "models/chat_template/expression_evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "memory/one_line.h"
#include "models/chat_template/limits.h"

namespace pointsman::jinja {
namespace {

// What the filters and tests that follow `safe` may be: the others would escape.
constexpr std::array<std::string_view, 7> kKeepSafe = {"length", "count", "string", "safe", "tojson", "default", "d"};

bool IsSafe(const Value& value) {
  const auto* string = value.As<StringValue>();
  return string && string->safe;
}

}  // namespace

ExpressionEvaluator::Deeper::Deeper(ExpressionEvaluator& evaluator) : evaluator_(evaluator) {
  if (++evaluator_.depth_ > kDeepestEvaluation) Fail("macros call each other too deep");
}

const Value* ExpressionEvaluator::Find(std::string_view name) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    for (const auto& [known, value] : scope->variables) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

Value ExpressionEvaluator::Named(const std::string& name) const {
  if (const Value* found = Find(name)) return *found;
  const auto* global = std::find(kFunctions.begin(), kFunctions.end(), name);
  if (global != kFunctions.end()) return Function{.macro = nullptr, .scope = nullptr, .global = *global};
  return Undefined{.why = fmt::format("'{}' is undefined", OneLine(name))};
}

Value ExpressionEvaluator::Eval(const Expression& node) {
  const Deeper deeper(*this);
  budget_.Step();
  line_ = node.line;
  switch (node.kind) {
    case ExpressionKind::kText:
      return MakeText(budget_, node.text);
    case ExpressionKind::kInteger:
      return node.integer;
    case ExpressionKind::kFloat:
      return node.real;
    case ExpressionKind::kTrue:
      return true;
    case ExpressionKind::kFalse:
      return false;
    case ExpressionKind::kNone:
      return None{};
    case ExpressionKind::kName:
      return Name(node);
    case ExpressionKind::kList:
      return MakeList(budget_, EvalAll(node, 0));
    case ExpressionKind::kTuple:
      return MakeList(budget_, EvalAll(node, 0), ListKind::kTuple);
    case ExpressionKind::kDict:
      return DictLiteral(node);
    case ExpressionKind::kAttribute:
      return MemberOf(node);
    case ExpressionKind::kItem:
      return ItemOf(node);
    case ExpressionKind::kSlice:
      return SliceOf(node);
    case ExpressionKind::kCall:
      return Call(node);
    case ExpressionKind::kMethod:
      return CallMethod(node);
    case ExpressionKind::kFilter:
      return Filter(node);
    case ExpressionKind::kTest:
      return Test(node);
    case ExpressionKind::kNot:
      return !Truth(Eval(*node.parts[0]));
    case ExpressionKind::kNegate:
    case ExpressionKind::kPlus:
      return Signed(node);
    case ExpressionKind::kAnd:
    case ExpressionKind::kOr:
      return AndOr(node);
    case ExpressionKind::kCompare:
      return Comparison(node);
    case ExpressionKind::kArithmetic:
      return Calculated(node);
    case ExpressionKind::kJoin:
      return Joined(node);
    case ExpressionKind::kChoose:
      return Chosen(node);
  }
  return None{};
}

std::vector<Value> ExpressionEvaluator::EvalAll(const Expression& node, size_t from) {
  std::vector<Value> values;
  for (size_t i = from; i < node.parts.size(); ++i) values.push_back(Eval(*node.parts[i]));
  return values;
}

Value ExpressionEvaluator::Name(const Expression& node) {
  Value value = Named(node.text);
  if (value.Is<Function>()) {
    Fail(fmt::format("'{}' is used without being called; that is not in the subset", OneLine(node.text)));
  }
  return value;
}

Value ExpressionEvaluator::DictLiteral(const Expression& node) {
  std::vector<std::pair<Text, Value>> members;
  for (size_t i = 0; i + 1 < node.parts.size(); i += 2) {
    const Value key = Eval(*node.parts[i]);
    if (!key.AsText()) Fail("a dict's key that is no string is not in the subset");
    PutMember(members, *key.AsText(), Eval(*node.parts[i + 1]));
  }
  return MakeDict(budget_, std::move(members));
}

void ExpressionEvaluator::PutMember(std::vector<std::pair<Text, Value>>& members, const Text& key, Value value) {
  budget_.Step(1 + members.size() / 8);
  for (auto& [known, old] : members) {
    if (known.bytes == key.bytes) {
      old = std::move(value);
      return;
    }
  }
  members.emplace_back(key, std::move(value));
}

Value ExpressionEvaluator::MemberOf(const Expression& node) {
  const Value object = Eval(*node.parts[0]);
  line_ = node.line;
  if (const auto* loop = object.As<std::shared_ptr<Loop>>()) return LoopAttribute(**loop, node.text);
  return Attribute(budget_, object, node.text);
}

Value ExpressionEvaluator::ItemOf(const Expression& node) {
  const Value object = Eval(*node.parts[0]);
  const Value key = Eval(*node.parts[1]);
  line_ = node.line;
  if (object.Is<std::shared_ptr<Loop>>()) Fail("loop[..] is not in the subset");
  return Subscript(budget_, object, key);
}

Value ExpressionEvaluator::SliceOf(const Expression& node) {
  const Value object = Eval(*node.parts[0]);
  std::optional<int64_t> bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    if (!node.parts[i + 1]) continue;
    const Value bound = Eval(*node.parts[i + 1]);
    if (bound.Is<None>()) continue;
    bounds[i] = bound.AsInteger();
    if (!bounds[i]) Fail(fmt::format("a slice's bounds are whole numbers, not {}", TypeName(bound)));
  }
  line_ = node.line;
  return Slice(budget_, object, bounds[0], bounds[1], bounds[2].value_or(1));
}

Value ExpressionEvaluator::Signed(const Expression& node) {
  const Value value = Eval(*node.parts[0]);
  if (const auto* undefined = value.As<Undefined>()) Fail(undefined->why);
  if (!value.IsNumber()) Fail(fmt::format("a sign before {}", TypeName(value)));
  if (node.kind == ExpressionKind::kPlus) return value.AsInteger() ? Value(*value.AsInteger()) : value;
  if (value.AsInteger()) return Arithmetic(budget_, "-", int64_t{0}, value);
  return -value.AsDouble();
}

Value ExpressionEvaluator::AndOr(const Expression& node) {
  Value left = Eval(*node.parts[0]);
  return Truth(left) == (node.kind == ExpressionKind::kOr) ? left : Eval(*node.parts[1]);
}

bool ExpressionEvaluator::Holds(const std::string& op, const Value& left, const Value& right) {
  if (op == "==") return Equal(budget_, left, right);
  if (op == "!=") return !Equal(budget_, left, right);
  if (op == "in") return Contains(budget_, right, left);
  if (op == "not in") return !Contains(budget_, right, left);
  const int order = Compare(budget_, left, right);
  if (op == "<") return order < 0;
  if (op == "<=") return order <= 0;
  return op == ">" ? order > 0 : order >= 0;
}

Value ExpressionEvaluator::Comparison(const Expression& node) {
  Value left = Eval(*node.parts[0]);
  for (size_t i = 0; i < node.operators.size(); ++i) {
    Value right = Eval(*node.parts[i + 1]);
    line_ = node.line;
    if (!Holds(node.operators[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value ExpressionEvaluator::Calculated(const Expression& node) {
  const Value left = Eval(*node.parts[0]);
  const Value right = Eval(*node.parts[1]);
  line_ = node.line;
  return Arithmetic(budget_, node.text, left, right);
}

Value ExpressionEvaluator::Joined(const Expression& node) {
  Text out;
  for (const auto& part : node.parts) {
    out.Append(ToText(budget_, Eval(*part)));
    if (out.bytes.size() > kMostTextBytes) Fail("text longer than 8 MiB");
  }
  return MakeText(budget_, std::move(out));
}

Value ExpressionEvaluator::Chosen(const Expression& node) {
  if (Truth(Eval(*node.parts[1]))) return Eval(*node.parts[0]);
  if (node.parts.size() > 2) return Eval(*node.parts[2]);
  return Undefined{.why = "an inline if without else came out false"};
}

Arguments ExpressionEvaluator::Matched(const Expression& node, std::string_view parameters) {
  const std::vector<std::string_view> names = ParameterNames(parameters);
  Arguments arguments(names.size());
  for (size_t i = 1; i < node.parts.size(); ++i) arguments[i - 1] = Eval(*node.parts[i]);
  for (const auto& [name, value] : node.named) {
    const auto at = std::find(names.begin(), names.end(), name) - names.begin();
    arguments[static_cast<size_t>(at)] = Eval(*value);
  }
  return arguments;
}

Value ExpressionEvaluator::Filter(const Expression& node) {
  const Value input = Eval(*node.parts[0]);
  const Arguments arguments = Matched(node, node.filter->parameters);
  line_ = node.line;
  if (IsSafe(input) && std::find(kKeepSafe.begin(), kKeepSafe.end(), node.text) == kKeepSafe.end()) {
    Fail(fmt::format("the filter '{}' behind 'safe' is not in the subset", node.text));
  }
  return node.filter->apply(budget_, input, arguments);
}

Value ExpressionEvaluator::Test(const Expression& node) {
  const Expression& tested = *node.parts[0];
  Value input;
  if (tested.kind == ExpressionKind::kName && (node.text == "defined" || node.text == "undefined")) {
    input = Named(tested.text);
  } else {
    input = Eval(tested);
  }
  const Value argument = node.parts.size() > 1 ? Eval(*node.parts[1]) : Value();
  line_ = node.line;
  return node.test->apply(budget_, input, argument);
}

Value ExpressionEvaluator::CallMethod(const Expression& node) {
  const Value receiver = Eval(*node.parts[0]);
  line_ = node.line;
  if (const auto* loop = receiver.As<std::shared_ptr<Loop>>(); loop && node.text == "cycle") {
    const std::vector<Value> values = EvalAll(node, 1);
    return values[static_cast<size_t>((*loop)->index0) % values.size()];
  }
  if (const auto* undefined = receiver.As<Undefined>()) Fail(undefined->why);
  const bool fits = node.method && (node.method->of_dict ? receiver.AsDict() != nullptr : receiver.AsText() != nullptr);
  if (!fits || IsSafe(receiver))
    Fail(fmt::format("a {} has no method '{}' in this subset", TypeName(receiver), node.text));
  const Arguments arguments = Matched(node, node.method->parameters);
  line_ = node.line;
  return node.method->apply(budget_, receiver, arguments);
}

Value ExpressionEvaluator::Call(const Expression& node) {
  const Value callee = Named(node.text);
  if (const auto* undefined = callee.As<Undefined>()) Fail(undefined->why);
  const auto* function = callee.As<Function>();
  if (function == nullptr)
    Fail(fmt::format("'{}' is a {}, which cannot be called", OneLine(node.text), TypeName(callee)));
  std::vector<Value> values = EvalAll(node, 0);
  std::vector<std::pair<std::string, Value>> named;
  for (const auto& [name, value] : node.named) named.emplace_back(name, Eval(*value));
  line_ = node.line;
  if (function->macro) return CallMacro(*function, std::move(values), std::move(named));
  if (function->global == "range") return Range(values);
  if (function->global == "raise_exception") {
    const Value message = !values.empty() ? values[0] : !named.empty() ? named[0].second : Value();
    throw Failure{.code = ErrorCode::kInvalidArgument, .message = ToText(budget_, message).bytes, .line = node.line};
  }
  return MakeMembers(function->global == "namespace", values, std::move(named));
}

Value ExpressionEvaluator::MakeMembers(bool name_space, const std::vector<Value>& values,
                                       std::vector<std::pair<std::string, Value>> named) {
  std::vector<std::pair<Text, Value>> members;
  if (!values.empty()) {
    if (values.size() > 1 || !values[0].AsDict()) Fail("namespace and dict take one dict and names");
    members = values[0].AsDict()->members;
  }
  for (auto& [name, value] : named) PutMember(members, Text(name, Origin::kTemplate), std::move(value));
  if (!name_space) return MakeDict(budget_, std::move(members));
  budget_.Make(sizeof(Namespace) + members.size() * sizeof(Value));
  Namespace& made = namespaces_.emplace_back();
  for (auto& [key, value] : members) {
    if (key.bytes.starts_with('_')) Fail("a namespace's member begins with _");
    made.members.emplace_back(key.bytes, std::move(value));
  }
  return &made;
}

Value ExpressionEvaluator::Range(const std::vector<Value>& values) {
  if (values.empty() || values.size() > 3) Fail("range takes one to three numbers");
  int64_t numbers[3] = {0, 0, 1};
  for (size_t i = 0; i < values.size(); ++i) {
    const auto number = values[i].AsInteger();
    if (!number) Fail(fmt::format("range takes whole numbers, not {}", TypeName(values[i])));
    numbers[i] = *number;
  }
  if (values.size() == 1) std::swap(numbers[0], numbers[1]);
  const int64_t step = numbers[2];
  if (step == 0) Fail("range: the step is zero");
  std::vector<Value> items;
  for (int64_t at = numbers[0]; step > 0 ? at < numbers[1] : at > numbers[1];) {
    if (items.size() >= kMostItems) Fail(fmt::format("a range of more than {}", kMostItems));
    budget_.Step();
    items.emplace_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  return MakeList(budget_, std::move(items), ListKind::kRange);
}

Value ExpressionEvaluator::CallMacro(const Function& function, std::vector<Value> values,
                                     std::vector<std::pair<std::string, Value>> named) {
  const Macro& macro = *function.macro;
  if (values.size() > macro.parameters.size()) {
    Fail(fmt::format("macro '{}' takes at most {} arguments", OneLine(macro.name), macro.parameters.size()));
  }
  Scope scope(function.scope);
  Text out;
  const Inside inside(*this, &scope, &out);
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Macro::Parameter& parameter = macro.parameters[i];
    const auto given =
        std::find_if(named.begin(), named.end(), [&](const auto& n) { return n.first == parameter.name; });
    if (i < values.size()) {
      scope.Set(parameter.name, std::move(values[i]));
    } else if (given != named.end()) {
      scope.Set(parameter.name, std::move(given->second));
      named.erase(given);
    } else if (parameter.fallback) {
      scope.Set(parameter.name, Eval(*parameter.fallback));
    } else {
      scope.Set(parameter.name, Undefined{.why = fmt::format("parameter '{}' was not provided", parameter.name)});
    }
  }
  if (!named.empty()) Fail(fmt::format("macro '{}' takes no argument '{}'", macro.name, OneLine(named[0].first)));
  RunMacro(macro.block);
  return MakeText(budget_, std::move(out));
}

}  // namespace pointsman::jinja
