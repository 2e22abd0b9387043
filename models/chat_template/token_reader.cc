#include "models/chat_template/token_reader.h"

#include <fmt/format.h>

#include <array>

#include "memory/one_line.h"
#include "models/chat_template/limits.h"

namespace pointsman::jinja {
namespace {

constexpr std::array<std::string_view, 9> kReserved = {"if", "else", "elif", "and", "or", "not", "in", "is", "for"};
// strftime_now: what a model reads must not depend on the day.
constexpr std::array<std::string_view, 9> kRefused = {"self",   "super",  "varargs", "kwargs",      "caller",
                                                      "lipsum", "cycler", "joiner",  "strftime_now"};

}  // namespace

bool IsReserved(std::string_view name) { return Has(kReserved, name); }
bool IsRefused(std::string_view name) { return Has(kRefused, name); }

TokenReader::Level::Level(TokenReader& reader) : reader_(reader) {
  if (++reader_.depth_ > kDeepestNesting) reader_.FailHere(fmt::format("nested deeper than {}", kDeepestNesting));
}

void TokenReader::FailAt(int line, std::string message) {
  throw Failure{.code = ErrorCode::kUnsupported, .message = std::move(message), .line = line};
}

void TokenReader::Unexpected(std::string_view wanted) const {
  const Token& token = Now();
  std::string found = token.text;
  if (token.kind == TokenKind::kEnd) found = "the template's end";
  if (token.kind == TokenKind::kBlockEnd) found = "%}";
  if (token.kind == TokenKind::kVariableEnd) found = "}}";
  FailHere(fmt::format("{} expected, not '{}'", wanted, OneLine(found)));
}

void TokenReader::NotInSubset(std::string_view what, std::string_view name, int line) const {
  FailAt(line, fmt::format("{} '{}' is not in the subset of Jinja that is supported", what, OneLine(name)));
}

bool TokenReader::TakeOperator(std::string_view text) {
  const bool is = IsOperator(text);
  if (is) Take();
  return is;
}

bool TokenReader::TakeName(std::string_view text) {
  const bool is = IsName(text);
  if (is) Take();
  return is;
}

void TokenReader::Expect(std::string_view text) {
  if (!TakeOperator(text)) Unexpected(fmt::format("'{}'", text));
}

void TokenReader::ExpectKind(TokenKind kind, std::string_view wanted) {
  if (Now().kind != kind) Unexpected(wanted);
  Take();
}

std::string TokenReader::ExpectName() {
  if (Now().kind != TokenKind::kName) Unexpected("a name");
  return Take().text;
}

void TokenReader::CountNode() {
  if (++nodes_ > kMostNodes) FailHere(fmt::format("more than {} expressions and statements", kMostNodes));
}

ExpressionPointer TokenReader::New(ExpressionKind kind, int line) {
  CountNode();
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  return node;
}

void TokenReader::Adopt(Expression& parent, ExpressionPointer child) {
  if (child) parent.depth = std::max(parent.depth, child->depth + 1);
  if (parent.depth > 2 * kDeepestNesting)
    FailAt(parent.line, fmt::format("an expression nested deeper than {}", 2 * kDeepestNesting));
  parent.parts.push_back(std::move(child));
}

ExpressionPointer TokenReader::Join(ExpressionKind kind, int line, ExpressionPointer left, ExpressionPointer right,
                                    std::string text) {
  ExpressionPointer node = New(kind, line);
  node->text = std::move(text);
  Adopt(*node, std::move(left));
  if (right) Adopt(*node, std::move(right));
  return node;
}

}  // namespace pointsman::jinja
