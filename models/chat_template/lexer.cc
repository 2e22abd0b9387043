#include "models/chat_template/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "memory/one_line.h"
#include "models/chat_template/text.h"
#include "models/chat_template/value.h"
#include "models/tokenizer/unicode.h"

namespace pointsman::jinja {
namespace {

constexpr std::array<std::string_view, 25> kOperators = {"**", "//", "==", "!=", ">=", "<=", "+", "-", "/",
                                                         "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                         ">",  "<",  "=",  ".",  ":",  "|",  ","};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool StartsName(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// \r\n and \r are line ends too; one line end at the template's end is not written out.
std::string Normalized(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    const bool pair = source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n';
    out += source[i] == '\r' ? '\n' : source[i];
    i += pair ? 1 : 0;
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(Normalized(source)) {}

  std::vector<Token> Run() {
    while (at_ < source_.size()) {
      const size_t tag = NextTag();
      if (tag == std::string::npos) {
        Add(TokenKind::kData, source_.substr(at_));
        break;
      }
      TextBefore(tag);
      const char kind = source_[tag + 1];
      Advance(tag + 2);
      if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) ++at_;
      if (kind == '#') {
        SkipComment();
      } else {
        if (kind == '%' && Word() == "raw") FailHere("'raw' blocks are not in the subset of Jinja that is supported");
        ReadTag(kind == '%');
      }
    }
    Add(TokenKind::kEnd, {});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void FailHere(std::string message) const {
    throw Failure{.code = ErrorCode::kUnsupported, .message = std::move(message), .line = line_};
  }

  void Add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  void Advance(size_t to) {
    line_ += static_cast<int>(
        std::count(source_.begin() + static_cast<ptrdiff_t>(at_), source_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  size_t NextTag() const {
    for (size_t i = at_; i + 1 < source_.size(); ++i) {
      if (source_[i] == '{' && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) return i;
    }
    return std::string::npos;
  }

  // The text before a tag, without the white space that the tag's "-" or lstrip_blocks takes.
  void TextBefore(size_t tag) {
    std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    if (sign == '-') {
      text = text.substr(0, SpaceAtEnd(text));
    } else if (sign != '+' && source_[tag + 1] != '{') {
      const size_t line_start = text.rfind('\n') + 1;
      // As in Jinja: what is to go must not be empty, which makes no difference.
      if ((line_start > 0 || line_starting_) && SpaceAtEnd(text.substr(line_start)) == 0) {
        text = text.substr(0, line_start);
      }
    }
    if (!text.empty()) Add(TokenKind::kData, std::string(text));
  }

  std::string_view Word() const {
    size_t begin = at_ + SpaceAtStart(std::string_view(source_).substr(at_)), end = begin;
    while (end < source_.size() && (StartsName(source_[end]) || IsDigit(source_[end]))) ++end;
    return std::string_view(source_).substr(begin, end - begin);
  }

  // Behind a tag's end: the white space that its "-" takes, or one line end (trim_blocks).
  void FinishTag(size_t end, bool strip, bool trim) {
    Advance(end);
    if (strip) {
      Advance(at_ + SpaceAtStart(std::string_view(source_).substr(at_)));
    } else if (trim && at_ < source_.size() && source_[at_] == '\n') {
      Advance(at_ + 1);
    }
    line_starting_ = source_[at_ - 1] == '\n';
  }

  void SkipComment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) FailHere("a comment without an end");
    const char sign = end > at_ ? source_[end - 1] : ' ';
    FinishTag(end + 2, sign == '-', sign != '+');
  }

  bool TryEnd(bool block) {
    const std::string_view rest = std::string_view(source_).substr(at_);
    const bool strip = rest.starts_with('-'), keep = block && rest.starts_with('+');
    if (rest.substr(strip || keep ? 1 : 0, 2) != (block ? "%}" : "}}")) return false;
    Add(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, {});
    FinishTag(at_ + (strip || keep ? 3 : 2), strip, block && !keep);
    return true;
  }

  void ReadTag(bool block) {
    Add(block ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, {});
    std::string open;
    while (at_ < source_.size()) {
      if (open.empty() && TryEnd(block)) return;
      const std::string_view rest = std::string_view(source_).substr(at_);
      if (const size_t space = SpaceAtStart(rest); space > 0) {
        Advance(at_ + space);
      } else if (IsDigit(rest[0])) {
        ReadNumber();
      } else if (StartsName(rest[0])) {
        const std::string word(Word());
        Add(TokenKind::kName, word);
        at_ += word.size();
      } else if (rest[0] == '\'' || rest[0] == '"') {
        ReadString();
      } else {
        ReadOperator(open);
      }
    }
    FailHere(block ? "a {% without its %}" : "a {{ without its }}");
  }

  // The end of digits with single underscores between them.
  size_t DigitsEnd(size_t from) const {
    size_t end = from;
    while (end < source_.size() && (IsDigit(source_[end]) || (source_[end] == '_' && end > from &&
                                                              end + 1 < source_.size() && IsDigit(source_[end + 1])))) {
      ++end;
    }
    return end;
  }

  void ReadNumber() {
    size_t end = DigitsEnd(at_);
    bool real = false;
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';  // "x.0.1" is two subscripts
    if (!after_dot && end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1])) {
      end = DigitsEnd(end + 1);
      real = true;
    }
    if (!after_dot && end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (DigitsEnd(exponent) > exponent) {
        end = DigitsEnd(exponent);
        real = true;
      }
    }
    std::string digits = source_.substr(at_, end - at_);
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    const bool prefixed = digits == "0" && end < source_.size() && StartsName(source_[end]);
    if (prefixed || (!real && digits.size() > 1 && digits[0] == '0') || digits.size() > 18) {
      FailHere(fmt::format("the number '{}' is not in the subset of Jinja that is supported", OneLine(digits)));
    }
    Add(real ? TokenKind::kFloat : TokenKind::kInteger, digits);
    at_ = end;
  }

  void ReadOperator(std::string& open) {
    const std::string_view rest = std::string_view(source_).substr(at_);
    const auto* found = std::find_if(kOperators.begin(), kOperators.end(), [&](auto o) { return rest.starts_with(o); });
    if (found == kOperators.end()) {
      FailHere(fmt::format("unexpected character '{}'", OneLine(rest.substr(0, DecodeUtf8(rest, 0).bytes))));
    }
    const char c = (*found)[0];
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) FailHere(fmt::format("unexpected '{}'", c));
      open.pop_back();
    }
    Add(TokenKind::kOperator, std::string(*found));
    at_ += found->size();
  }

  // One to `most` digits of the base behind the escape.
  uint32_t EscapedNumber(size_t& at, size_t end, uint32_t base, size_t least, size_t most) const {
    uint32_t number = 0;
    size_t digits = 0;
    for (; digits < most && at < end; ++digits, ++at) {
      const char c = source_[at];
      const uint32_t digit = IsDigit(c)             ? static_cast<uint32_t>(c - '0')
                             : c >= 'a' && c <= 'f' ? static_cast<uint32_t>(c - 'a' + 10)
                             : c >= 'A' && c <= 'F' ? static_cast<uint32_t>(c - 'A' + 10)
                                                    : 99;
      if (digit >= base) break;
      number = number * base + digit;
    }
    if (digits < least) FailHere("a string's escape with too few digits");
    if (number > 0x10FFFF || (number >= 0xD800 && number < 0xE000)) FailHere("a string's escape that is no character");
    return number;
  }

  void AppendEscape(size_t& at, size_t end, std::string& out) const {
    const char c = source_[at++];
    switch (c) {
      case '\n':
        return;
      case 'n':
        out += '\n';
        return;
      case 't':
        out += '\t';
        return;
      case 'r':
        out += '\r';
        return;
      case 'a':
        out += '\a';
        return;
      case 'b':
        out += '\b';
        return;
      case 'f':
        out += '\f';
        return;
      case 'v':
        out += '\v';
        return;
      case '\\':
      case '\'':
      case '"':
        out += c;
        return;
      case 'x':
        return AppendUtf8(EscapedNumber(at, end, 16, 2, 2), out);
      case 'u':
        return AppendUtf8(EscapedNumber(at, end, 16, 4, 4), out);
      case 'U':
        return AppendUtf8(EscapedNumber(at, end, 16, 8, 8), out);
      default:
        break;
    }
    if (c >= '0' && c <= '7') return AppendUtf8(EscapedNumber(--at, end, 8, 1, 3), out);
    if (c == 'N' || static_cast<unsigned char>(c) >= 0x80) {
      FailHere("this escape in a string is not in the subset of Jinja that is supported");
    }
    out += '\\';
    out += c;
  }

  void ReadString() {
    const char quote = source_[at_];
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) FailHere("a string without its end");
    std::string value;
    for (size_t i = at_ + 1; i < end;) {
      if (source_[i] == '\\') {
        AppendEscape(++i, end, value);
      } else {
        value += source_[i++];
      }
    }
    Add(TokenKind::kString, std::move(value));
    Advance(end + 1);
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Tokenize(std::string_view source) { return Lexer(source).Run(); }

}  // namespace pointsman::jinja
