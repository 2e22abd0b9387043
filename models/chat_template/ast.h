// The tree of a template. Immutable once parsed: any number of threads may evaluate it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/chat_template/operations.h"

namespace pointsman::jinja {

enum class ExpressionKind : uint8_t {
  kText,     // `text`
  kInteger,  // `integer`
  kFloat,    // `real`
  kTrue,
  kFalse,
  kNone,
  kName,  // `text`
  kList,  // `parts`
  kTuple,
  kDict,       // `parts`: key, value, key, value
  kAttribute,  // parts[0].text
  kItem,       // parts[0][parts[1]]
  kSlice,      // parts[0][begin:end:step]; parts[1..3] may be null
  kCall,       // text(parts, named): a macro or a global function
  kMethod,     // parts[0].text(parts[1..], named), with `method`
  kFilter,     // parts[0] | text(parts[1..], named), with `filter`
  kTest,       // parts[0] is text(parts[1]?), with `test`
  kNot,
  kNegate,
  kPlus,
  kAnd,  // two parts, as kOr
  kOr,
  kCompare,     // parts[0] operators[0] parts[1] operators[1] ..
  kArithmetic,  // parts[0] text parts[1]: + - * / // %
  kJoin,        // parts with ~ between
  kChoose,      // parts[0] if parts[1] else parts[2]?
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kNone;
  int line = 0;
  uint32_t depth = 1;
  std::string text;
  int64_t integer = 0;
  double real = 0;
  std::vector<std::unique_ptr<Expression>> parts;
  std::vector<std::pair<std::string, std::unique_ptr<Expression>>> named;
  std::vector<std::string> operators;
  const FilterSpec* filter = nullptr;
  const TestSpec* test = nullptr;
  const MethodSpec* method = nullptr;
};
using ExpressionPointer = std::unique_ptr<Expression>;

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

enum class StatementKind : uint8_t {
  kData,      // `text`
  kOutput,    // `value`
  kIf,        // branches, else_block
  kFor,       // `names` in `value` if `condition`: block, else_block
  kSet,       // `names` = `value`; or name_space.names[0]
  kSetBlock,  // names[0] = what `block` writes
  kMacro,
  kBreak,
  kContinue,
  kGeneration,  // transformers' marks around an answer: the block in a scope of its own
};

struct Statement {
  StatementKind kind = StatementKind::kData;
  int line = 0;
  std::string text;
  std::string name_space;
  std::vector<std::string> names;  // more than one are unpacked
  ExpressionPointer value, condition;
  std::vector<std::pair<ExpressionPointer, Block>> branches;
  Block block, else_block;
  std::unique_ptr<Macro> macro;
};

struct Macro {
  std::string name;
  struct Parameter {
    std::string name;
    ExpressionPointer fallback;  // may be null
  };
  std::vector<Parameter> parameters;
  Block block;
};

}  // namespace pointsman::jinja
