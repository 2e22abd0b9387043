// The tokens of a template one after another, for the parsers that stand on it: what comes next, what must come next,
// and the errors in the words that a user reads. Counts what a template may cost (limits.h).
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/chat_template/ast.h"
#include "models/chat_template/lexer.h"

namespace pointsman::jinja {

// A word of the language, which Jinja would take for a variable in places where it can only be a mistake.
bool IsReserved(std::string_view name);
// A name of Jinja and transformers that has no value here.
bool IsRefused(std::string_view name);

template <typename Names>
bool Has(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class TokenReader {
 protected:
  explicit TokenReader(std::string_view source) : tokens_(Tokenize(source)) {}

  // Counts the levels of the source and ends a source that is nested too deep.
  class Level {
   public:
    explicit Level(TokenReader& reader);
    ~Level() { --reader_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    TokenReader& reader_;
  };

  // Errors: kUnsupported with the line.
  [[noreturn]] static void FailAt(int line, std::string message);
  [[noreturn]] void FailHere(std::string message) const { FailAt(Now().line, std::move(message)); }
  [[noreturn]] void Unexpected(std::string_view wanted) const;
  [[noreturn]] void NotInSubset(std::string_view what, std::string_view name, int line) const;

  // What comes next; after the last token it stays there.
  const Token& Now() const { return tokens_[at_]; }
  const Token& Next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token Take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool IsOperator(std::string_view text) const { return Now().kind == TokenKind::kOperator && Now().text == text; }
  bool IsName(std::string_view text) const { return Now().kind == TokenKind::kName && Now().text == text; }
  // Consumed, if it comes next.
  bool TakeOperator(std::string_view text);
  bool TakeName(std::string_view text);
  // Consumed; anything else is an error.
  void Expect(std::string_view text);
  void ExpectKind(TokenKind kind, std::string_view wanted);
  std::string ExpectName();

  // Nodes of the tree, each of which counts.
  void CountNode();
  ExpressionPointer New(ExpressionKind kind, int line);
  // Chains such as a + b + c grow to the left without the parser's own recursion.
  void Adopt(Expression& parent, ExpressionPointer child);
  ExpressionPointer Join(ExpressionKind kind, int line, ExpressionPointer left, ExpressionPointer right = nullptr,
                         std::string text = {});

 private:
  const std::vector<Token> tokens_;
  size_t at_ = 0, nodes_ = 0;
  uint32_t depth_ = 0;
};

}  // namespace pointsman::jinja
