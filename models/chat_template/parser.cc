#include "models/chat_template/parser.h"

#include <fmt/format.h>

#include <array>
#include <set>

#include "memory/one_line.h"
#include "models/chat_template/expression_parser.h"

namespace pointsman::jinja {
namespace {

// Assigning to these means something else in Jinja, or nothing.
constexpr std::array<std::string_view, 7> kNotAssigned = {"loop", "true", "false", "none", "True", "False", "None"};

// Blocks and their tags.
class Parser : private ExpressionParser {
 public:
  explicit Parser(std::string_view source) : ExpressionParser(source) {}

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
    if (Has(kNotAssigned, name) || IsReserved(name)) FailAt(line, fmt::format("'{}' cannot be assigned to", name));
    if (IsRefused(name)) NotInSubset("the name", name, line);
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

  int loops_ = 0;
  std::set<std::string> macros_;
};

}  // namespace

Block Parse(std::string_view source) { return Parser(source).Run(); }

}  // namespace pointsman::jinja
