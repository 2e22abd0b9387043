#include "models/chat_template/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <functional>

#include "memory/one_line.h"
#include "models/chat_template/limits.h"
#include "models/chat_template/operations.h"

namespace pointsman::jinja {

// Names that a block assigns; what it does not find it looks for in the block around it.
struct Scope {
  explicit Scope(Scope* p) : parent(p) {}

  Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> variables;

  void Set(const std::string& name, Value value) {
    for (auto& [known, old] : variables) {
      if (known == name) {
        old = std::move(value);
        return;
      }
    }
    variables.emplace_back(name, std::move(value));
  }
};

// The variable `loop`. Items that the condition refuses are never seen; the condition is asked as late as in Jinja,
// since what the loop does may change its answer.
struct Loop {
  std::vector<Value> source;
  size_t next = 0;
  std::function<bool(const Value&)> accepts;  // empty: all
  std::deque<Value> ahead;                    // looked at already
  std::optional<Value> previous;
  Value current;
  int64_t index0 = -1;
  std::optional<int64_t> length;

  std::optional<Value> Pull() {
    if (!ahead.empty()) {
      Value value = std::move(ahead.front());
      ahead.pop_front();
      return value;
    }
    while (next < source.size()) {
      Value value = source[next++];
      if (!accepts || accepts(value)) return value;
    }
    return std::nullopt;
  }
  const Value* Peek() {
    if (ahead.empty()) {
      if (auto value = Pull()) ahead.push_front(std::move(*value));
    }
    return ahead.empty() ? nullptr : &ahead.front();
  }
  int64_t Length() {
    if (!length && accepts) {
      std::deque<Value> rest;
      while (auto value = Pull()) rest.push_back(std::move(*value));
      ahead = std::move(rest);
      length = index0 + 1 + static_cast<int64_t>(ahead.size());
    }
    return length.value_or(static_cast<int64_t>(source.size()));
  }
};

namespace {

enum class Flow : uint8_t { kNext, kBreak, kContinue };

constexpr std::array<std::string_view, 4> kFunctions = {"range", "namespace", "dict", "raise_exception"};
// What the filters and tests that follow `safe` may be: the others would escape.
constexpr std::array<std::string_view, 7> kKeepSafe = {"length", "count", "string", "safe", "tojson", "default", "d"};

bool IsSafe(const Value& value) {
  const auto* string = value.As<StringValue>();
  return string && string->safe;
}

Value LoopAttribute(Loop& loop, std::string_view name) {
  if (name == "index") return loop.index0 + 1;
  if (name == "index0") return loop.index0;
  if (name == "first") return loop.index0 == 0;
  if (name == "last") return loop.Peek() == nullptr;
  if (name == "length") return loop.Length();
  if (name == "revindex") return loop.Length() - loop.index0;
  if (name == "revindex0") return loop.Length() - loop.index0 - 1;
  if (name == "depth") return int64_t{1};
  if (name == "depth0") return int64_t{0};
  if (name == "previtem") return loop.previous ? *loop.previous : Undefined{.why = "there is no previous item"};
  if (name == "nextitem") return loop.Peek() ? *loop.Peek() : Undefined{.why = "there is no next item"};
  Fail(fmt::format("'loop.{}' is not in the subset of Jinja that is supported", OneLine(name)));
}

class Evaluator {
 public:
  Evaluator(Budget& budget, Variables variables) : budget_(budget), globals_(nullptr) {
    globals_.variables = std::move(variables);
  }

  Text Run(const Block& block) {
    Scope top(&globals_);
    scope_ = &top;
    Text out;
    out_ = &out;
    try {
      Execute(block);
    } catch (Failure& failure) {
      if (failure.line == 0) failure.line = line_;
      throw;
    }
    return out;
  }

 private:
  class Deeper {
   public:
    explicit Deeper(Evaluator& evaluator) : evaluator_(evaluator) {
      if (++evaluator_.depth_ > kDeepestEvaluation) Fail("macros call each other too deep");
    }
    ~Deeper() { --evaluator_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Evaluator& evaluator_;
  };

  // Another scope, and perhaps another place to write to, until it goes.
  class Inside {
   public:
    Inside(Evaluator& evaluator, Scope* scope, Text* out = nullptr)
        : evaluator_(evaluator), scope_(evaluator.scope_), out_(evaluator.out_) {
      evaluator.scope_ = scope;
      if (out) evaluator.out_ = out;
    }
    ~Inside() {
      evaluator_.scope_ = scope_;
      evaluator_.out_ = out_;
    }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

   private:
    Evaluator& evaluator_;
    Scope* scope_;
    Text* out_;
  };

  // ---- statements

  Flow Execute(const Block& block) {
    const Deeper deeper(*this);
    for (const auto& statement : block) {
      const Flow flow = Execute(*statement);
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  Flow Execute(const Statement& statement) {
    budget_.Step();
    line_ = statement.line;
    switch (statement.kind) {
      case StatementKind::kData:
        Write(Text(statement.text, Origin::kTemplate));
        return Flow::kNext;
      case StatementKind::kOutput:
        Write(ToText(budget_, Eval(*statement.value)));
        return Flow::kNext;
      case StatementKind::kIf:
        return If(statement);
      case StatementKind::kFor:
        return For(statement);
      case StatementKind::kSet:
        Assign(statement, Eval(*statement.value));
        return Flow::kNext;
      case StatementKind::kSetBlock:
        SetBlock(statement);
        return Flow::kNext;
      case StatementKind::kMacro:
        scope_->Set(statement.macro->name, Function{.macro = statement.macro.get(), .scope = scope_});
        return Flow::kNext;
      case StatementKind::kBreak:
        return Flow::kBreak;
      case StatementKind::kContinue:
        return Flow::kContinue;
      case StatementKind::kGeneration: {
        Scope scope(scope_);
        const Inside inside(*this, &scope);
        Execute(statement.block);
        return Flow::kNext;
      }
    }
    return Flow::kNext;
  }

  void Write(const Text& text) {
    budget_.Read(text.bytes.size());
    out_->Append(text);
    if (out_->bytes.size() > kMostTextBytes) Fail("the chat is longer than 8 MiB");
  }

  Flow If(const Statement& statement) {
    for (const auto& [condition, block] : statement.branches) {
      if (Truth(Eval(*condition))) return Execute(block);
    }
    return Execute(statement.else_block);
  }

  void Bind(Scope& scope, const std::vector<std::string>& names, const Value& value) {
    if (names.size() == 1) return scope.Set(names[0], value);
    if (value.Is<Undefined>()) Fail(value.As<Undefined>()->why);
    const std::vector<Value> items = Items(budget_, value);
    if (items.size() != names.size()) {
      Fail(fmt::format("{} values are unpacked into {} names", items.size(), names.size()));
    }
    for (size_t i = 0; i < names.size(); ++i) scope.Set(names[i], items[i]);
  }

  [[gnu::noinline]] Flow For(const Statement& statement) {
    const auto loop = std::make_shared<Loop>();
    loop->source = Items(budget_, Eval(*statement.value));
    // The condition's closure lives no longer than the loop, though `loop` may be kept by a name outside.
    struct Ends {
      explicit Ends(Loop& l) : loop(l) {}
      ~Ends() { loop = Loop{}; }
      Ends(const Ends&) = delete;
      Ends& operator=(const Ends&) = delete;
      Loop& loop;
    };
    const Ends ends(*loop);
    if (statement.condition) {
      loop->accepts = [this, &statement, around = scope_](const Value& item) {
        Scope scope(around);
        Bind(scope, statement.names, item);
        const Inside inside(*this, &scope);
        return Truth(Eval(*statement.condition));
      };
    }
    bool finished_one = false;  // as in Jinja: a loop whose every turn ends in continue runs its else
    while (auto item = loop->Pull()) {
      budget_.Step();
      if (loop->index0 >= 0) loop->previous = std::move(loop->current);
      loop->current = std::move(*item);
      ++loop->index0;
      Scope scope(scope_);
      scope.Set("loop", std::shared_ptr<Loop>(loop));
      Bind(scope, statement.names, loop->current);
      const Inside inside(*this, &scope);
      const Flow flow = Execute(statement.block);
      if (flow == Flow::kBreak) break;
      finished_one = finished_one || flow == Flow::kNext;
    }
    if (finished_one || statement.else_block.empty()) return Flow::kNext;
    Scope scope(scope_);
    const Inside inside(*this, &scope);
    return Execute(statement.else_block);
  }

  void Assign(const Statement& statement, Value value) {
    if (statement.name_space.empty()) return Bind(*scope_, statement.names, value);
    const Value* holder = Find(statement.name_space);
    const auto* space = holder ? holder->As<Namespace*>() : nullptr;
    if (space == nullptr) Fail(fmt::format("'{}' is no namespace", OneLine(statement.name_space)));
    budget_.Make(sizeof(Value));
    for (auto& [name, member] : (*space)->members) {
      if (name == statement.names[0]) {
        member = std::move(value);
        return;
      }
    }
    (*space)->members.emplace_back(statement.names[0], std::move(value));
  }

  [[gnu::noinline]] void SetBlock(const Statement& statement) {
    Scope scope(scope_);
    Text out;
    {
      const Inside inside(*this, &scope, &out);
      Execute(statement.block);
    }
    Assign(statement, MakeText(budget_, std::move(out)));
  }

  // ---- expressions

  const Value* Find(std::string_view name) const {
    for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
      for (const auto& [known, value] : scope->variables) {
        if (known == name) return &value;
      }
    }
    return nullptr;
  }

  // The name's value, functions included: for calls and the test `defined`.
  Value Named(const std::string& name) const {
    if (const Value* found = Find(name)) return *found;
    const auto* global = std::find(kFunctions.begin(), kFunctions.end(), name);
    if (global != kFunctions.end()) return Function{.macro = nullptr, .scope = nullptr, .global = *global};
    return Undefined{.why = fmt::format("'{}' is undefined", OneLine(name))};
  }

  Value Eval(const Expression& node) {
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

  std::vector<Value> EvalAll(const Expression& node, size_t from) {
    std::vector<Value> values;
    for (size_t i = from; i < node.parts.size(); ++i) values.push_back(Eval(*node.parts[i]));
    return values;
  }

  [[gnu::noinline]] Value Name(const Expression& node) {
    Value value = Named(node.text);
    if (value.Is<Function>()) {
      Fail(fmt::format("'{}' is used without being called; that is not in the subset", OneLine(node.text)));
    }
    return value;
  }

  [[gnu::noinline]] Value DictLiteral(const Expression& node) {
    std::vector<std::pair<Text, Value>> members;
    for (size_t i = 0; i + 1 < node.parts.size(); i += 2) {
      const Value key = Eval(*node.parts[i]);
      if (!key.AsText()) Fail("a dict's key that is no string is not in the subset");
      PutMember(members, *key.AsText(), Eval(*node.parts[i + 1]));
    }
    return MakeDict(budget_, std::move(members));
  }

  void PutMember(std::vector<std::pair<Text, Value>>& members, const Text& key, Value value) {
    budget_.Step(1 + members.size() / 8);
    for (auto& [known, old] : members) {
      if (known.bytes == key.bytes) {
        old = std::move(value);
        return;
      }
    }
    members.emplace_back(key, std::move(value));
  }

  [[gnu::noinline]] Value MemberOf(const Expression& node) {
    const Value object = Eval(*node.parts[0]);
    line_ = node.line;
    if (const auto* loop = object.As<std::shared_ptr<Loop>>()) return LoopAttribute(**loop, node.text);
    return Attribute(budget_, object, node.text);
  }

  [[gnu::noinline]] Value ItemOf(const Expression& node) {
    const Value object = Eval(*node.parts[0]);
    const Value key = Eval(*node.parts[1]);
    line_ = node.line;
    if (object.Is<std::shared_ptr<Loop>>()) Fail("loop[..] is not in the subset");
    return Subscript(budget_, object, key);
  }

  [[gnu::noinline]] Value SliceOf(const Expression& node) {
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

  [[gnu::noinline]] Value Signed(const Expression& node) {
    const Value value = Eval(*node.parts[0]);
    if (const auto* undefined = value.As<Undefined>()) Fail(undefined->why);
    if (!value.IsNumber()) Fail(fmt::format("a sign before {}", TypeName(value)));
    if (node.kind == ExpressionKind::kPlus) return value.AsInteger() ? Value(*value.AsInteger()) : value;
    if (value.AsInteger()) return Arithmetic(budget_, "-", int64_t{0}, value);
    return -value.AsDouble();
  }

  [[gnu::noinline]] Value AndOr(const Expression& node) {
    Value left = Eval(*node.parts[0]);
    return Truth(left) == (node.kind == ExpressionKind::kOr) ? left : Eval(*node.parts[1]);
  }

  bool Holds(const std::string& op, const Value& left, const Value& right) {
    if (op == "==") return Equal(budget_, left, right);
    if (op == "!=") return !Equal(budget_, left, right);
    if (op == "in") return Contains(budget_, right, left);
    if (op == "not in") return !Contains(budget_, right, left);
    const int order = Compare(budget_, left, right);
    if (op == "<") return order < 0;
    if (op == "<=") return order <= 0;
    return op == ">" ? order > 0 : order >= 0;
  }

  [[gnu::noinline]] Value Comparison(const Expression& node) {
    Value left = Eval(*node.parts[0]);
    for (size_t i = 0; i < node.operators.size(); ++i) {
      Value right = Eval(*node.parts[i + 1]);
      line_ = node.line;
      if (!Holds(node.operators[i], left, right)) return false;
      left = std::move(right);
    }
    return true;
  }

  [[gnu::noinline]] Value Calculated(const Expression& node) {
    const Value left = Eval(*node.parts[0]);
    const Value right = Eval(*node.parts[1]);
    line_ = node.line;
    return Arithmetic(budget_, node.text, left, right);
  }

  [[gnu::noinline]] Value Joined(const Expression& node) {
    Text out;
    for (const auto& part : node.parts) {
      out.Append(ToText(budget_, Eval(*part)));
      if (out.bytes.size() > kMostTextBytes) Fail("text longer than 8 MiB");
    }
    return MakeText(budget_, std::move(out));
  }

  [[gnu::noinline]] Value Chosen(const Expression& node) {
    if (Truth(Eval(*node.parts[1]))) return Eval(*node.parts[0]);
    if (node.parts.size() > 2) return Eval(*node.parts[2]);
    return Undefined{.why = "an inline if without else came out false"};
  }

  // Positional arguments (parts from 1 on) and named ones in the order of the parameters.
  Arguments Matched(const Expression& node, std::string_view parameters) {
    const std::vector<std::string_view> names = ParameterNames(parameters);
    Arguments arguments(names.size());
    for (size_t i = 1; i < node.parts.size(); ++i) arguments[i - 1] = Eval(*node.parts[i]);
    for (const auto& [name, value] : node.named) {
      const auto at = std::find(names.begin(), names.end(), name) - names.begin();
      arguments[static_cast<size_t>(at)] = Eval(*value);
    }
    return arguments;
  }

  [[gnu::noinline]] Value Filter(const Expression& node) {
    const Value input = Eval(*node.parts[0]);
    const Arguments arguments = Matched(node, node.filter->parameters);
    line_ = node.line;
    if (IsSafe(input) && std::find(kKeepSafe.begin(), kKeepSafe.end(), node.text) == kKeepSafe.end()) {
      Fail(fmt::format("the filter '{}' behind 'safe' is not in the subset", node.text));
    }
    return node.filter->apply(budget_, input, arguments);
  }

  [[gnu::noinline]] Value Test(const Expression& node) {
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

  [[gnu::noinline]] Value CallMethod(const Expression& node) {
    const Value receiver = Eval(*node.parts[0]);
    line_ = node.line;
    if (const auto* loop = receiver.As<std::shared_ptr<Loop>>(); loop && node.text == "cycle") {
      const std::vector<Value> values = EvalAll(node, 1);
      return values[static_cast<size_t>((*loop)->index0) % values.size()];
    }
    if (const auto* undefined = receiver.As<Undefined>()) Fail(undefined->why);
    const bool fits =
        node.method && (node.method->of_dict ? receiver.AsDict() != nullptr : receiver.AsText() != nullptr);
    if (!fits || IsSafe(receiver))
      Fail(fmt::format("a {} has no method '{}' in this subset", TypeName(receiver), node.text));
    const Arguments arguments = Matched(node, node.method->parameters);
    line_ = node.line;
    return node.method->apply(budget_, receiver, arguments);
  }

  [[gnu::noinline]] Value Call(const Expression& node) {
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

  // namespace(..) and dict(..).
  Value MakeMembers(bool name_space, const std::vector<Value>& values,
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

  Value Range(const std::vector<Value>& values) {
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

  [[gnu::noinline]] Value CallMacro(const Function& function, std::vector<Value> values,
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
    Execute(macro.block);
    return MakeText(budget_, std::move(out));
  }

  Budget& budget_;
  Scope globals_;
  Scope* scope_ = nullptr;
  Text* out_ = nullptr;
  std::deque<Namespace> namespaces_;  // they may refer to each other, so none owns another
  uint32_t depth_ = 0;
  int line_ = 0;
};

}  // namespace

Text Evaluate(const Block& block, Variables variables, Budget& budget) {
  Evaluator evaluator(budget, std::move(variables));
  return evaluator.Run(block);
}

}  // namespace pointsman::jinja
