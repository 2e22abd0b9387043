#include "models/chat_template/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>

#include "memory/one_line.h"
#include "models/chat_template/lexer.h"
#include "models/chat_template/limits.h"

namespace pointsman::jinja {
namespace {

// Words of the language, which Jinja would take for variables in places where they can only be a mistake.
constexpr std::array<std::string_view, 9> kReserved = {"if", "else", "elif", "and", "or", "not", "in", "is", "for"};
// Names of Jinja and transformers that have no value here. strftime_now: what a model reads must not depend on the day.
constexpr std::array<std::string_view, 9> kRefused = {"self",   "super",  "varargs", "kwargs",      "caller",
                                                      "lipsum", "cycler", "joiner",  "strftime_now"};
constexpr std::array<std::string_view, 4> kFunctions = {"range", "namespace", "dict", "raise_exception"};
// Assigning to these means something else in Jinja, or nothing.
constexpr std::array<std::string_view, 7> kNotAssigned = {"loop", "true", "false", "none", "True", "False", "None"};

template <typename Names>
bool Has(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(Tokenize(source)) {}

  Block Run() {
    Block block = ReadBlock({}, nullptr);
    for (const auto& [name, line] : called_) {
      if (!macros_.contains(name))
        FailAt(line, fmt::format("'{}' is called, but no macro or function of that name is "
                                 "in the subset of Jinja that is supported",
                                 OneLine(name)));
    }
    return block;
  }

 private:
  using Ends = std::vector<std::string_view>;

  // Counts the levels of the source and ends a source that is nested too deep.
  class Level {
   public:
    explicit Level(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kDeepestNesting) parser_.FailHere(fmt::format("nested deeper than {}", kDeepestNesting));
    }
    ~Level() { --parser_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Parser& parser_;
  };

  [[noreturn]] static void FailAt(int line, std::string message) {
    throw Failure{.code = ErrorCode::kUnsupported, .message = std::move(message), .line = line};
  }
  [[noreturn]] void FailHere(std::string message) const { FailAt(Now().line, std::move(message)); }
  [[noreturn]] void Unexpected(std::string_view wanted) const {
    const Token& token = Now();
    std::string found = token.text;
    if (token.kind == TokenKind::kEnd) found = "the template's end";
    if (token.kind == TokenKind::kBlockEnd) found = "%}";
    if (token.kind == TokenKind::kVariableEnd) found = "}}";
    FailHere(fmt::format("{} expected, not '{}'", wanted, OneLine(found)));
  }
  [[noreturn]] void NotInSubset(std::string_view what, std::string_view name, int line) const {
    FailAt(line, fmt::format("{} '{}' is not in the subset of Jinja that is supported", what, OneLine(name)));
  }

  const Token& Now() const { return tokens_[at_]; }
  const Token& Next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token Take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool IsOperator(std::string_view text) const { return Now().kind == TokenKind::kOperator && Now().text == text; }
  bool IsName(std::string_view text) const { return Now().kind == TokenKind::kName && Now().text == text; }
  bool TakeOperator(std::string_view text) {
    const bool is = IsOperator(text);
    if (is) Take();
    return is;
  }
  bool TakeName(std::string_view text) {
    const bool is = IsName(text);
    if (is) Take();
    return is;
  }
  void Expect(std::string_view text) {
    if (!TakeOperator(text)) Unexpected(fmt::format("'{}'", text));
  }
  void ExpectKind(TokenKind kind, std::string_view wanted) {
    if (Now().kind != kind) Unexpected(wanted);
    Take();
  }
  std::string ExpectName() {
    if (Now().kind != TokenKind::kName) Unexpected("a name");
    return Take().text;
  }

  void CountNode() {
    if (++nodes_ > kMostNodes) FailHere(fmt::format("more than {} expressions and statements", kMostNodes));
  }

  ExpressionPointer New(ExpressionKind kind, int line) {
    CountNode();
    auto node = std::make_unique<Expression>();
    node->kind = kind;
    node->line = line;
    return node;
  }
  // Chains such as a + b + c grow to the left without the parser's own recursion.
  void Adopt(Expression& parent, ExpressionPointer child) {
    if (child) parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > 2 * kDeepestNesting)
      FailAt(parent.line, fmt::format("an expression nested deeper than {}", 2 * kDeepestNesting));
    parent.parts.push_back(std::move(child));
  }
  ExpressionPointer Join(ExpressionKind kind, int line, ExpressionPointer left, ExpressionPointer right = nullptr,
                         std::string text = {}) {
    ExpressionPointer node = New(kind, line);
    node->text = std::move(text);
    Adopt(*node, std::move(left));
    if (right) Adopt(*node, std::move(right));
    return node;
  }

  // ---- blocks

  // Up to the tag that begins with one of `ends`, which is consumed with its word; the word goes to `ended`.
  Block ReadBlock(const Ends& ends, std::string* ended) {
    const Level level(*this);
    Block block;
    while (Now().kind != TokenKind::kEnd) {
      CountNode();
      auto statement = std::make_unique<Statement>();
      statement->line = Now().line;
      if (Now().kind == TokenKind::kData) {
        statement->text = Take().text;
      } else if (Now().kind == TokenKind::kVariableBegin) {
        Take();
        statement->kind = StatementKind::kOutput;
        statement->value = ReadTuple();
        ExpectKind(TokenKind::kVariableEnd, "'}}'");
      } else {
        Take();
        const Token word = Now();
        const std::string name = ExpectName();
        if (Has(ends, name)) {
          *ended = name;
          return block;
        }
        ReadTag(name, word.line, *statement);
        ExpectKind(TokenKind::kBlockEnd, "'%}'");
      }
      block.push_back(std::move(statement));
    }
    if (!ends.empty()) Unexpected(fmt::format("'{}'", ends.back()));
    return block;
  }

  void ReadTag(const std::string& name, int line, Statement& statement) {
    if (name == "if") return ReadIf(statement);
    if (name == "for") return ReadFor(statement);
    if (name == "set") return ReadSet(statement);
    if (name == "macro") return ReadMacro(statement);
    if (name == "break" || name == "continue") {
      if (loops_ == 0) FailAt(line, fmt::format("'{}' outside a loop", name));
      statement.kind = name == "break" ? StatementKind::kBreak : StatementKind::kContinue;
      return;
    }
    if (name == "generation") {
      statement.kind = StatementKind::kGeneration;
      EndTag();
      statement.block = Isolated({"endgeneration"});
      return;
    }
    if (name.starts_with("end") || name == "else" || name == "elif") {
      FailAt(line, fmt::format("'{}' without its beginning", OneLine(name)));
    }
    NotInSubset("the tag", name, line);
  }

  void EndTag() { ExpectKind(TokenKind::kBlockEnd, "'%}'"); }

  // A block that Jinja makes a function of: break and continue do not reach out of it.
  Block Isolated(const Ends& ends) {
    const int loops = std::exchange(loops_, 0);
    std::string ended;
    Block block = ReadBlock(ends, &ended);
    loops_ = loops;
    return block;
  }

  void ReadIf(Statement& statement) {
    statement.kind = StatementKind::kIf;
    std::string ended = "if";
    while (ended != "endif") {
      if (ended == "else") {
        EndTag();
        statement.else_block = ReadBlock({"endif"}, &ended);
        return;
      }
      ExpressionPointer condition = ReadOr();
      EndTag();
      Block block = ReadBlock({"elif", "else", "endif"}, &ended);
      statement.branches.emplace_back(std::move(condition), std::move(block));
    }
  }

  std::string ReadTarget() {
    const int line = Now().line;
    std::string name = ExpectName();
    if (Has(kNotAssigned, name) || Has(kReserved, name)) FailAt(line, fmt::format("'{}' cannot be assigned to", name));
    if (Has(kRefused, name)) NotInSubset("the name", name, line);
    return name;
  }

  std::vector<std::string> ReadTargets(std::string_view end) {
    std::vector<std::string> names = {ReadTarget()};
    while (TakeOperator(",")) {
      if (IsName(end) || IsOperator(end))
        FailHere("unpacking into one name is not in the subset of Jinja that is supported");
      names.push_back(ReadTarget());
    }
    return names;
  }

  void ReadFor(Statement& statement) {
    statement.kind = StatementKind::kFor;
    statement.names = ReadTargets("in");
    if (!TakeName("in")) Unexpected("'in'");
    statement.value = ReadOr();
    if (IsOperator(","))
      FailHere("a for loop over a list without brackets is not in the subset of Jinja that is supported");
    if (TakeName("if")) statement.condition = ReadExpression();
    if (IsName("recursive")) NotInSubset("the loop modifier", "recursive", Now().line);
    EndTag();
    std::string ended;
    ++loops_;
    statement.block = ReadBlock({"else", "endfor"}, &ended);
    --loops_;
    if (ended == "else") {
      EndTag();
      statement.else_block = ReadBlock({"endfor"}, &ended);
    }
  }

  void ReadSet(Statement& statement) {
    if (Now().kind == TokenKind::kName && Next().kind == TokenKind::kOperator && Next().text == ".") {
      statement.name_space = Take().text;
      Take();
      const int line = Now().line;
      const std::string member = ExpectName();
      if (member.starts_with('_'))
        FailAt(line, fmt::format("the namespace member '{}' begins with _", OneLine(member)));
      statement.names = {member};
    } else {
      statement.names = ReadTargets("=");
    }
    if (TakeOperator("=")) {
      statement.kind = StatementKind::kSet;
      statement.value = ReadTuple();
      return;
    }
    if (IsOperator("|")) FailHere("a filter on a set block is not in the subset of Jinja that is supported");
    if (statement.names.size() > 1) Unexpected("'='");
    statement.kind = StatementKind::kSetBlock;
    EndTag();
    std::string ended;
    statement.block = ReadBlock({"endset"}, &ended);
  }

  void ReadMacro(Statement& statement) {
    statement.kind = StatementKind::kMacro;
    statement.macro = std::make_unique<Macro>();
    Macro& macro = *statement.macro;
    macro.name = ReadTarget();
    macros_.insert(macro.name);
    Expect("(");
    while (!IsOperator(")")) {
      if (!macro.parameters.empty()) Expect(",");
      Macro::Parameter parameter;
      parameter.name = ReadTarget();
      if (TakeOperator("=")) parameter.fallback = ReadExpression();
      if (!parameter.fallback && !macro.parameters.empty() && macro.parameters.back().fallback) {
        FailHere("a parameter without a default after one with a default");
      }
      macro.parameters.push_back(std::move(parameter));
    }
    Expect(")");
    EndTag();
    macro.block = Isolated({"endmacro"});
  }

  // ---- expressions, in Jinja's order of precedence

  ExpressionPointer ReadTuple() {
    const int line = Now().line;
    ExpressionPointer first = ReadExpression();
    if (!IsOperator(",")) return first;
    return ReadTupleRest(std::move(first), line);
  }

  ExpressionPointer ReadTupleRest(ExpressionPointer first, int line) {
    ExpressionPointer tuple = Join(ExpressionKind::kTuple, line, std::move(first));
    while (TakeOperator(",")) {
      const TokenKind kind = Now().kind;
      if (kind == TokenKind::kBlockEnd || kind == TokenKind::kVariableEnd || IsOperator(")")) break;
      Adopt(*tuple, ReadExpression());
    }
    return tuple;
  }

  ExpressionPointer ReadExpression() {
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

  ExpressionPointer ReadOr() {
    ExpressionPointer left = ReadAnd();
    while (IsName("or")) {
      const int line = Take().line;
      left = Join(ExpressionKind::kOr, line, std::move(left), ReadAnd());
    }
    return left;
  }

  ExpressionPointer ReadAnd() {
    ExpressionPointer left = ReadNot();
    while (IsName("and")) {
      const int line = Take().line;
      left = Join(ExpressionKind::kAnd, line, std::move(left), ReadNot());
    }
    return left;
  }

  ExpressionPointer ReadNot() {
    if (!IsName("not")) return ReadCompare();
    const Level level(*this);
    const int line = Take().line;
    return Join(ExpressionKind::kNot, line, ReadNot());
  }

  // The comparison at hand, consumed, or "".
  std::string TakeComparison() {
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

  ExpressionPointer ReadCompare() {
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

  ExpressionPointer ReadSum() {
    ExpressionPointer left = ReadJoin();
    while (IsOperator("+") || IsOperator("-")) {
      const Token token = Take();
      left = Join(ExpressionKind::kArithmetic, token.line, std::move(left), ReadJoin(), token.text);
    }
    return left;
  }

  ExpressionPointer ReadJoin() {
    ExpressionPointer left = ReadProduct();
    if (!IsOperator("~")) return left;
    ExpressionPointer node = Join(ExpressionKind::kJoin, Now().line, std::move(left));
    while (TakeOperator("~")) Adopt(*node, ReadProduct());
    return node;
  }

  ExpressionPointer ReadProduct() {
    ExpressionPointer left = ReadUnary(true);
    while (true) {
      if (IsOperator("**")) NotInSubset("the operator", "**", Now().line);
      if (!IsOperator("*") && !IsOperator("/") && !IsOperator("//") && !IsOperator("%")) return left;
      const Token token = Take();
      left = Join(ExpressionKind::kArithmetic, token.line, std::move(left), ReadUnary(true), token.text);
    }
  }

  ExpressionPointer ReadUnary(bool with_filters) {
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

  ExpressionPointer ReadPrimary() {
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

  ExpressionPointer ReadNameOrConstant() {
    const Token token = Take();
    const std::string& name = token.text;
    if (name == "true" || name == "True") return New(ExpressionKind::kTrue, token.line);
    if (name == "false" || name == "False") return New(ExpressionKind::kFalse, token.line);
    if (name == "none" || name == "None") return New(ExpressionKind::kNone, token.line);
    if (Has(kRefused, name)) NotInSubset("the name", name, token.line);
    if (Has(kReserved, name)) FailAt(token.line, fmt::format("an expression expected, not '{}'", name));
    ExpressionPointer node = New(ExpressionKind::kName, token.line);
    node->text = name;
    return node;
  }

  ExpressionPointer ReadParentheses(int line) {
    if (TakeOperator(")")) return New(ExpressionKind::kTuple, line);
    ExpressionPointer node = ReadExpression();
    if (IsOperator(",")) node = ReadTupleRest(std::move(node), line);
    Expect(")");
    return node;
  }

  ExpressionPointer ReadSequence(ExpressionKind kind, std::string_view close, int line) {
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

  ExpressionPointer ReadPostfix(ExpressionPointer node) {
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

  ExpressionPointer ReadAttribute(ExpressionPointer object, int line) {
    if (Now().kind == TokenKind::kInteger) {
      ExpressionPointer index = New(ExpressionKind::kInteger, line);
      index->integer = std::strtoll(Take().text.c_str(), nullptr, 10);
      return Join(ExpressionKind::kItem, line, std::move(object), std::move(index));
    }
    std::string name = ExpectName();
    if (name.starts_with("__")) NotInSubset("the attribute", name, line);
    return Join(ExpressionKind::kAttribute, line, std::move(object), nullptr, std::move(name));
  }

  ExpressionPointer ReadSubscript(ExpressionPointer object, int line) {
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

  // (a, b, name=c): appended to node's parts and named.
  void ReadArguments(Expression& node) {
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

  // Arguments of a filter or method against its parameters; parts[0] is the value it works on.
  void CheckArguments(const Expression& node, std::string_view what, std::string_view parameters, int required,
                      bool named) const {
    const std::vector<std::string_view> names = ParameterNames(parameters);
    const size_t given = node.parts.size() - 1;
    if (given > names.size()) {
      FailAt(node.line, fmt::format("{} '{}' takes at most {} arguments", what, node.text, names.size()));
    }
    for (const auto& [name, value] : node.named) {
      const auto found = std::find(names.begin(), names.end(), name);
      if (!named || found == names.end() || static_cast<size_t>(found - names.begin()) < given) {
        FailAt(node.line,
               fmt::format("{} '{}': the argument '{}' is not in the subset", what, node.text, OneLine(name)));
      }
    }
    if (given + node.named.size() < static_cast<size_t>(required)) {
      FailAt(node.line, fmt::format("{} '{}' needs {} arguments", what, node.text, required));
    }
  }

  ExpressionPointer ReadCall(ExpressionPointer callee, int line) {
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

  ExpressionPointer ReadFilters(ExpressionPointer node) {
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

  // Filters that take the name of a test or filter: it must be known now.
  void CheckNamedOperation(const Expression& node) const {
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

  ExpressionPointer ReadFilter(ExpressionPointer input, int line) {
    ExpressionPointer node = Join(ExpressionKind::kFilter, line, std::move(input), nullptr, ExpectName());
    node->filter = FindFilter(node->text);
    if (node->filter == nullptr || IsOperator(".")) NotInSubset("the filter", node->text, line);
    if (IsOperator("(")) ReadArguments(*node);
    CheckArguments(*node, "the filter", node->filter->parameters, 0, true);
    CheckNamedOperation(*node);
    return node;
  }

  bool BeginsArgument() const {
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

  ExpressionPointer ReadTest(ExpressionPointer input, int line) {
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

  const std::vector<Token> tokens_;
  size_t at_ = 0, nodes_ = 0;
  uint32_t depth_ = 0;
  int loops_ = 0;
  std::set<std::string> macros_;
  std::vector<std::pair<std::string, int>> called_;
};

}  // namespace

Block Parse(std::string_view source) { return Parser(source).Run(); }

}  // namespace pointsman::jinja
