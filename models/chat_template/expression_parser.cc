#include "models/chat_template/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "memory/one_line.h"

namespace pointsman::jinja {

ExpressionPointer ExpressionParser::ReadTuple() {
  const int line = Now().line;
  ExpressionPointer first = ReadExpression();
  if (!IsOperator(",")) return first;
  return ReadTupleRest(std::move(first), line);
}

ExpressionPointer ExpressionParser::ReadTupleRest(ExpressionPointer first, int line) {
  ExpressionPointer tuple = Join(ExpressionKind::kTuple, line, std::move(first));
  while (TakeOperator(",")) {
    const TokenKind kind = Now().kind;
    if (kind == TokenKind::kBlockEnd || kind == TokenKind::kVariableEnd || IsOperator(")")) break;
    Adopt(*tuple, ReadExpression());
  }
  return tuple;
}

ExpressionPointer ExpressionParser::ReadExpression() {
  const Level level(*this);
  const int line = Now().line;
  ExpressionPointer node = ReadOr();
  while (TakeName("if")) {
    ExpressionPointer choice = Join(ExpressionKind::kChoose, line, std::move(node), ReadOr());
    if (TakeName("else")) Adopt(*choice, ReadExpression());
    node = std::move(choice);
  }
  return node;
}

ExpressionPointer ExpressionParser::ReadOr() {
  ExpressionPointer left = ReadAnd();
  while (IsName("or")) {
    const int line = Take().line;
    left = Join(ExpressionKind::kOr, line, std::move(left), ReadAnd());
  }
  return left;
}

ExpressionPointer ExpressionParser::ReadAnd() {
  ExpressionPointer left = ReadNot();
  while (IsName("and")) {
    const int line = Take().line;
    left = Join(ExpressionKind::kAnd, line, std::move(left), ReadNot());
  }
  return left;
}

ExpressionPointer ExpressionParser::ReadNot() {
  if (!IsName("not")) return ReadCompare();
  const Level level(*this);
  const int line = Take().line;
  return Join(ExpressionKind::kNot, line, ReadNot());
}

std::string ExpressionParser::TakeComparison() {
  constexpr std::array<std::string_view, 6> kComparisons = {"==", "!=", "<", "<=", ">", ">="};
  if (Now().kind == TokenKind::kOperator && Has(kComparisons, Now().text)) return Take().text;
  if (TakeName("in")) return "in";
  if (IsName("not") && Next().kind == TokenKind::kName && Next().text == "in") {
    Take();
    Take();
    return "not in";
  }
  return {};
}

ExpressionPointer ExpressionParser::ReadCompare() {
  const int line = Now().line;
  ExpressionPointer left = ReadSum();
  std::string comparison = TakeComparison();
  if (comparison.empty()) return left;
  ExpressionPointer node = Join(ExpressionKind::kCompare, line, std::move(left));
  for (; !comparison.empty(); comparison = TakeComparison()) {
    node->operators.push_back(comparison);
    Adopt(*node, ReadSum());
  }
  return node;
}

ExpressionPointer ExpressionParser::ReadSum() {
  ExpressionPointer left = ReadJoin();
  while (IsOperator("+") || IsOperator("-")) {
    const Token token = Take();
    left = Join(ExpressionKind::kArithmetic, token.line, std::move(left), ReadJoin(), token.text);
  }
  return left;
}

ExpressionPointer ExpressionParser::ReadJoin() {
  ExpressionPointer left = ReadProduct();
  if (!IsOperator("~")) return left;
  ExpressionPointer node = Join(ExpressionKind::kJoin, Now().line, std::move(left));
  while (TakeOperator("~")) Adopt(*node, ReadProduct());
  return node;
}

ExpressionPointer ExpressionParser::ReadProduct() {
  ExpressionPointer left = ReadUnary(true);
  while (true) {
    if (IsOperator("**")) NotInSubset("the operator", "**", Now().line);
    if (!IsOperator("*") && !IsOperator("/") && !IsOperator("//") && !IsOperator("%")) return left;
    const Token token = Take();
    left = Join(ExpressionKind::kArithmetic, token.line, std::move(left), ReadUnary(true), token.text);
  }
}

ExpressionPointer ExpressionParser::ReadUnary(bool with_filters) {
  const Level level(*this);
  ExpressionPointer node;
  if (IsOperator("-") || IsOperator("+")) {
    const Token token = Take();
    node = Join(token.text == "-" ? ExpressionKind::kNegate : ExpressionKind::kPlus, token.line, ReadUnary(false));
  } else {
    node = ReadPrimary();
  }
  node = ReadPostfix(std::move(node));
  return with_filters ? ReadFilters(std::move(node)) : std::move(node);
}

ExpressionPointer ExpressionParser::ReadPrimary() {
  const Token token = Now();
  switch (token.kind) {
    case TokenKind::kName:
      return ReadNameOrConstant();
    case TokenKind::kString: {
      ExpressionPointer node = New(ExpressionKind::kText, token.line);
      while (Now().kind == TokenKind::kString) node->text += Take().text;
      return node;
    }
    case TokenKind::kInteger: {
      Take();
      ExpressionPointer node = New(ExpressionKind::kInteger, token.line);
      node->integer = std::strtoll(token.text.c_str(), nullptr, 10);
      return node;
    }
    case TokenKind::kFloat: {
      Take();
      ExpressionPointer node = New(ExpressionKind::kFloat, token.line);
      node->real = std::strtod(token.text.c_str(), nullptr);
      return node;
    }
    default:
      break;
  }
  if (TakeOperator("(")) return ReadParentheses(token.line);
  if (TakeOperator("[")) return ReadSequence(ExpressionKind::kList, "]", token.line);
  if (TakeOperator("{")) return ReadSequence(ExpressionKind::kDict, "}", token.line);
  Unexpected("an expression");
}

ExpressionPointer ExpressionParser::ReadNameOrConstant() {
  const Token token = Take();
  const std::string& name = token.text;
  if (name == "true" || name == "True") return New(ExpressionKind::kTrue, token.line);
  if (name == "false" || name == "False") return New(ExpressionKind::kFalse, token.line);
  if (name == "none" || name == "None") return New(ExpressionKind::kNone, token.line);
  if (IsRefused(name)) NotInSubset("the name", name, token.line);
  if (IsReserved(name)) FailAt(token.line, fmt::format("an expression expected, not '{}'", name));
  ExpressionPointer node = New(ExpressionKind::kName, token.line);
  node->text = name;
  return node;
}

ExpressionPointer ExpressionParser::ReadParentheses(int line) {
  if (TakeOperator(")")) return New(ExpressionKind::kTuple, line);
  ExpressionPointer node = ReadExpression();
  if (IsOperator(",")) node = ReadTupleRest(std::move(node), line);
  Expect(")");
  return node;
}

ExpressionPointer ExpressionParser::ReadSequence(ExpressionKind kind, std::string_view close, int line) {
  ExpressionPointer node = New(kind, line);
  while (!IsOperator(close)) {
    if (!node->parts.empty()) {
      Expect(",");
      if (IsOperator(close)) break;
    }
    Adopt(*node, ReadExpression());
    if (kind != ExpressionKind::kDict) continue;
    Expect(":");
    Adopt(*node, ReadExpression());
  }
  Expect(close);
  return node;
}

ExpressionPointer ExpressionParser::ReadPostfix(ExpressionPointer node) {
  while (true) {
    const int line = Now().line;
    if (TakeOperator(".")) {
      node = ReadAttribute(std::move(node), line);
    } else if (TakeOperator("[")) {
      node = ReadSubscript(std::move(node), line);
    } else if (IsOperator("(")) {
      node = ReadCall(std::move(node), line);
    } else {
      return node;
    }
  }
}

ExpressionPointer ExpressionParser::ReadAttribute(ExpressionPointer object, int line) {
  if (Now().kind == TokenKind::kInteger) {
    ExpressionPointer index = New(ExpressionKind::kInteger, line);
    index->integer = std::strtoll(Take().text.c_str(), nullptr, 10);
    return Join(ExpressionKind::kItem, line, std::move(object), std::move(index));
  }
  std::string name = ExpectName();
  if (name.starts_with("__")) NotInSubset("the attribute", name, line);
  return Join(ExpressionKind::kAttribute, line, std::move(object), nullptr, std::move(name));
}

ExpressionPointer ExpressionParser::ReadSubscript(ExpressionPointer object, int line) {
  ExpressionPointer bounds[3];
  bool slice = false;
  if (!IsOperator(":")) bounds[0] = ReadExpression();
  for (int i = 1; i < 3 && TakeOperator(":"); ++i) {
    slice = true;
    if (!IsOperator(":") && !IsOperator("]") && !IsOperator(",")) bounds[i] = ReadExpression();
  }
  if (IsOperator(",")) FailHere("a subscript of several parts is not in the subset of Jinja that is supported");
  Expect("]");
  if (!slice) return Join(ExpressionKind::kItem, line, std::move(object), std::move(bounds[0]));
  ExpressionPointer node = Join(ExpressionKind::kSlice, line, std::move(object));
  for (ExpressionPointer& bound : bounds) Adopt(*node, std::move(bound));
  return node;
}

void ExpressionParser::ReadArguments(Expression& node) {
  Expect("(");
  bool first = true;
  while (!IsOperator(")")) {
    if (!std::exchange(first, false)) {
      Expect(",");
      if (IsOperator(")")) break;
    }
    if (IsOperator("*") || IsOperator("**")) NotInSubset("the argument", Now().text, Now().line);
    if (Now().kind == TokenKind::kName && Next().kind == TokenKind::kOperator && Next().text == "=") {
      std::string name = Take().text;
      Take();
      for (const auto& [known, value] : node.named) {
        if (known == name) FailHere(fmt::format("the argument '{}' is given twice", OneLine(name)));
      }
      ExpressionPointer value = ReadExpression();
      node.depth = std::max(node.depth, value->depth + 1);
      node.named.emplace_back(std::move(name), std::move(value));
      continue;
    }
    if (!node.named.empty()) FailHere("an argument without a name after one with a name");
    Adopt(node, ReadExpression());
  }
  Expect(")");
}

void ExpressionParser::CheckArguments(const Expression& node, std::string_view what, std::string_view parameters,
                                      int required, bool named) const {
  const std::vector<std::string_view> names = ParameterNames(parameters);
  const size_t given = node.parts.size() - 1;
  if (given > names.size()) {
    FailAt(node.line, fmt::format("{} '{}' takes at most {} arguments", what, node.text, names.size()));
  }
  for (const auto& [name, value] : node.named) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (!named || found == names.end() || static_cast<size_t>(found - names.begin()) < given) {
      FailAt(node.line, fmt::format("{} '{}': the argument '{}' is not in the subset", what, node.text, OneLine(name)));
    }
  }
  if (given + node.named.size() < static_cast<size_t>(required)) {
    FailAt(node.line, fmt::format("{} '{}' needs {} arguments", what, node.text, required));
  }
}

ExpressionPointer ExpressionParser::ReadCall(ExpressionPointer callee, int line) {
  if (callee->kind == ExpressionKind::kName) {
    ExpressionPointer node = New(ExpressionKind::kCall, line);
    node->text = callee->text;
    ReadArguments(*node);
    if (!Has(kFunctions, node->text)) called_.emplace_back(node->text, line);
    for (const auto& [name, value] : node->named) {
      if (name.starts_with('_') || (node->text == "raise_exception" && name != "message")) {
        NotInSubset("the argument", name, line);
      }
    }
    return node;
  }
  if (callee->kind != ExpressionKind::kAttribute)
    FailAt(line, "only names and methods are called in the subset of Jinja that is supported");
  ExpressionPointer node = New(ExpressionKind::kMethod, line);
  node->text = callee->text;
  const bool of_loop = callee->parts[0]->kind == ExpressionKind::kName && callee->text == "cycle";
  node->method = FindMethod(node->text);
  if (node->method == nullptr && !of_loop) NotInSubset("the method", node->text, line);
  Adopt(*node, std::move(callee->parts[0]));
  ReadArguments(*node);
  if (node->method) {
    CheckArguments(*node, "the method", node->method->parameters, node->method->required, node->method->named);
  } else if (!node->named.empty() || node->parts.size() < 2) {
    FailAt(line, "loop.cycle takes values");
  }
  return node;
}

ExpressionPointer ExpressionParser::ReadFilters(ExpressionPointer node) {
  while (true) {
    const int line = Now().line;
    if (TakeOperator("|")) {
      node = ReadFilter(std::move(node), line);
    } else if (TakeName("is")) {
      node = ReadTest(std::move(node), line);
    } else if (IsOperator("(")) {
      FailHere("the result of a filter or test is called; that is not in the subset of Jinja that is supported");
    } else {
      return node;
    }
  }
}

void ExpressionParser::CheckNamedOperation(const Expression& node) const {
  const size_t at = node.text == "selectattr" || node.text == "rejectattr" ? 2 : 1;
  const bool maps = node.text == "map";
  if (!maps && node.text != "select" && node.text != "reject" && at == 1) return;
  if (!maps && !node.named.empty())
    FailAt(node.line, fmt::format("'{}' with named arguments is not in the subset", node.text));
  if (node.parts.size() <= at) return;
  const Expression& name = *node.parts[at];
  if (name.kind != ExpressionKind::kText) FailAt(node.line, fmt::format("'{}' needs a name in quotes", node.text));
  if (maps ? FindFilter(name.text) == nullptr : FindTest(name.text) == nullptr) {
    NotInSubset(maps ? "the filter" : "the test", name.text, node.line);
  }
}

ExpressionPointer ExpressionParser::ReadFilter(ExpressionPointer input, int line) {
  ExpressionPointer node = Join(ExpressionKind::kFilter, line, std::move(input), nullptr, ExpectName());
  node->filter = FindFilter(node->text);
  if (node->filter == nullptr || IsOperator(".")) NotInSubset("the filter", node->text, line);
  if (IsOperator("(")) ReadArguments(*node);
  CheckArguments(*node, "the filter", node->filter->parameters, 0, true);
  CheckNamedOperation(*node);
  return node;
}

bool ExpressionParser::BeginsArgument() const {
  switch (Now().kind) {
    case TokenKind::kName:
      return !IsName("else") && !IsName("or") && !IsName("and");
    case TokenKind::kString:
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return true;
    default:
      return IsOperator("[") || IsOperator("{");
  }
}

ExpressionPointer ExpressionParser::ReadTest(ExpressionPointer input, int line) {
  const bool negated = TakeName("not");
  ExpressionPointer node = Join(ExpressionKind::kTest, line, std::move(input), nullptr, ExpectName());
  node->test = FindTest(node->text);
  if (node->test == nullptr || IsOperator(".")) NotInSubset("the test", node->text, line);
  if (IsOperator("(")) {
    ReadArguments(*node);
  } else if (BeginsArgument()) {
    const Level level(*this);
    Adopt(*node, ReadPostfix(ReadPrimary()));
  }
  if (!node->named.empty() || node->parts.size() != static_cast<size_t>(1 + node->test->arguments)) {
    FailAt(line, fmt::format("the test '{}' takes {} arguments", node->text, node->test->arguments));
  }
  return negated ? Join(ExpressionKind::kNot, line, std::move(node)) : std::move(node);
}

}  // namespace pointsman::jinja
