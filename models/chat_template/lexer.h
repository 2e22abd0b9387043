// The tokens of a template, with white space treated as Jinja does under trim_blocks and lstrip_blocks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pointsman::jinja {

enum class TokenKind : uint8_t {
  kData,  // text to write out; never empty
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,  // its value, escapes resolved
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int line = 1;
};

// Ends with one kEnd. REQUIRES: source is valid UTF-8. Throws Failure.
std::vector<Token> Tokenize(std::string_view source);

}  // namespace pointsman::jinja
