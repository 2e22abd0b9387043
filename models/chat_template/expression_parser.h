// Expressions in Jinja's order of precedence. Filters, tests and methods are resolved here; what is called by name is
// noted for the block parser, which knows the macros.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/chat_template/token_reader.h"

namespace pointsman::jinja {

class ExpressionParser : protected TokenReader {
 protected:
  using TokenReader::TokenReader;

  // a, b: a tuple without brackets, as after `=`; one expression alone is itself.
  ExpressionPointer ReadTuple();
  ExpressionPointer ReadExpression();
  ExpressionPointer ReadOr();  // without `if`

  // Names that are called and no function of the language, with their lines.
  std::vector<std::pair<std::string, int>> called_;

 private:
  ExpressionPointer ReadTupleRest(ExpressionPointer first, int line);
  ExpressionPointer ReadAnd();
  ExpressionPointer ReadNot();
  // The comparison at hand, consumed, or "".
  std::string TakeComparison();
  ExpressionPointer ReadCompare();
  ExpressionPointer ReadSum();
  ExpressionPointer ReadJoin();
  ExpressionPointer ReadProduct();
  ExpressionPointer ReadUnary(bool with_filters);

  ExpressionPointer ReadPrimary();
  ExpressionPointer ReadNameOrConstant();
  ExpressionPointer ReadParentheses(int line);
  ExpressionPointer ReadSequence(ExpressionKind kind, std::string_view close, int line);

  ExpressionPointer ReadPostfix(ExpressionPointer node);
  ExpressionPointer ReadAttribute(ExpressionPointer object, int line);
  ExpressionPointer ReadSubscript(ExpressionPointer object, int line);
  // (a, b, name=c): appended to node's parts and named.
  void ReadArguments(Expression& node);
  // Arguments of a filter or method against its parameters; parts[0] is the value it works on.
  void CheckArguments(const Expression& node, std::string_view what, std::string_view parameters, int required,
                      bool named) const;
  ExpressionPointer ReadCall(ExpressionPointer callee, int line);

  ExpressionPointer ReadFilters(ExpressionPointer node);
  // Filters that take the name of a test or filter: it must be known now.
  void CheckNamedOperation(const Expression& node) const;
  ExpressionPointer ReadFilter(ExpressionPointer input, int line);
  bool BeginsArgument() const;
  ExpressionPointer ReadTest(ExpressionPointer input, int line);
};

}  // namespace pointsman::jinja
