#include "models/chat_template/evaluator.h"

#include <fmt/format.h>

#include "memory/one_line.h"
#include "models/chat_template/expression_evaluator.h"
#include "models/chat_template/limits.h"

namespace pointsman::jinja {
namespace {

enum class Flow : uint8_t { kNext, kBreak, kContinue };

// Statements: what is written, and which names are set.
class Evaluator final : private ExpressionEvaluator {
 public:
  Evaluator(Budget& budget, Variables variables) : ExpressionEvaluator(budget, std::move(variables)) {}

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
  void RunMacro(const Block& block) override { Execute(block); }

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
};

}  // namespace

Text Evaluate(const Block& block, Variables variables, Budget& budget) {
  Evaluator evaluator(budget, std::move(variables));
  return evaluator.Run(block);
}

}  // namespace pointsman::jinja
