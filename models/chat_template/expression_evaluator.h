// Expressions: their values, calls of filters, methods, functions and macros. What a macro's body writes comes from the
// statements, which stand on this.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/chat_template/ast.h"
#include "models/chat_template/scope.h"

namespace pointsman::jinja {

class ExpressionEvaluator {
 protected:
  ExpressionEvaluator(Budget& budget, std::vector<std::pair<std::string, Value>> variables)
      : budget_(budget), globals_(nullptr) {
    globals_.variables = std::move(variables);
  }
  ~ExpressionEvaluator() = default;

  // Runs a macro's statements: what they write goes to out_.
  virtual void RunMacro(const Block& block) = 0;

  // Counts what is being evaluated; every expression and block holds one.
  class Deeper {
   public:
    explicit Deeper(ExpressionEvaluator& evaluator);
    ~Deeper() { --evaluator_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    ExpressionEvaluator& evaluator_;
  };

  // Another scope, and perhaps another place to write to, until it goes.
  class Inside {
   public:
    Inside(ExpressionEvaluator& evaluator, Scope* scope, Text* out = nullptr)
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
    ExpressionEvaluator& evaluator_;
    Scope* scope_;
    Text* out_;
  };

  Value Eval(const Expression& node);
  const Value* Find(std::string_view name) const;  // nullptr: not there

  Budget& budget_;
  Scope globals_;
  Scope* scope_ = nullptr;
  Text* out_ = nullptr;
  int line_ = 0;

 private:
  // The name's value, functions included: for calls and the test `defined`.
  Value Named(const std::string& name) const;

  // Not inlined into Eval, which calls itself: their local variables would be in every level of its stack.
  std::vector<Value> EvalAll(const Expression& node, size_t from);
  [[gnu::noinline]] Value Name(const Expression& node);
  [[gnu::noinline]] Value DictLiteral(const Expression& node);
  void PutMember(std::vector<std::pair<Text, Value>>& members, const Text& key, Value value);
  [[gnu::noinline]] Value MemberOf(const Expression& node);
  [[gnu::noinline]] Value ItemOf(const Expression& node);
  [[gnu::noinline]] Value SliceOf(const Expression& node);
  [[gnu::noinline]] Value Signed(const Expression& node);
  [[gnu::noinline]] Value AndOr(const Expression& node);
  bool Holds(const std::string& op, const Value& left, const Value& right);
  [[gnu::noinline]] Value Comparison(const Expression& node);
  [[gnu::noinline]] Value Calculated(const Expression& node);
  [[gnu::noinline]] Value Joined(const Expression& node);
  [[gnu::noinline]] Value Chosen(const Expression& node);

  // Positional arguments (parts from 1 on) and named ones in the order of the parameters.
  Arguments Matched(const Expression& node, std::string_view parameters);
  [[gnu::noinline]] Value Filter(const Expression& node);
  [[gnu::noinline]] Value Test(const Expression& node);
  [[gnu::noinline]] Value CallMethod(const Expression& node);
  [[gnu::noinline]] Value Call(const Expression& node);
  // namespace(..) and dict(..).
  Value MakeMembers(bool name_space, const std::vector<Value>& values,
                    std::vector<std::pair<std::string, Value>> named);
  Value Range(const std::vector<Value>& values);
  [[gnu::noinline]] Value CallMacro(const Function& function, std::vector<Value> values,
                                    std::vector<std::pair<std::string, Value>> named);

  std::deque<Namespace> namespaces_;  // they may refer to each other, so none owns another
  uint32_t depth_ = 0;
};

}  // namespace pointsman::jinja
