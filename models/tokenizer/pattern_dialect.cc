#include "models/tokenizer/pattern_dialect.h"

#include <fmt/format.h>

#include <cctype>
#include <span>

#include "models/tokenizer/unicode.h"

namespace pointsman {
namespace {

// White_Space, spelled out: PCRE2's \s also has U+180E.
constexpr std::string_view kSpaceItems =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

Error Unsupported(std::string_view construct) {
  return Error{ErrorCode::kUnsupported, fmt::format("pattern uses {}, which is not supported", construct)};
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> Run() {
    while (at_ < in_.size()) POINTSMAN_CHECK_OK(in_class_ ? ClassItem() : Item());
    if (in_class_) return Unsupported("an unterminated character class");
    return std::move(out_);
  }

 private:
  bool NextIs(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  void Copy(size_t count) {
    out_.append(in_.substr(at_, count));
    at_ += count;
  }

  Status Item() {
    switch (in_[at_]) {
      case '\\':
        return Escape();
      case '[':
        in_class_ = true;
        Copy(NextIs("[^") ? 2 : 1);
        return NextIs("]") ? Status(Unsupported("']' at the start of a character class")) : Status();
      case '(':
        return Group();
      case '{':
        return Interval();
      case '^':
      case '$':
        return Unsupported(fmt::format("the anchor '{}'", in_[at_]));
      case '.':
        out_ += "[^\\n]";
        ++at_;
        return {};
      case ']':
      case '}':
        out_ += '\\';
        Copy(1);
        return {};
      default:
        Copy(1);
        return {};
    }
  }

  Status ClassItem() {
    if (NextIs("\\")) return Escape();
    if (NextIs("[")) return Unsupported("a nested character class");
    if (NextIs("&&")) return Unsupported("'&&' in a character class");
    in_class_ = in_[at_] != ']';
    Copy(1);
    return {};
  }

  Status Group() {
    for (std::string_view open : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (NextIs(open)) return Copy(open.size()), Status();
    }
    if (NextIs("(?") || NextIs("(*")) return Unsupported(fmt::format("the group '{}'", in_.substr(at_, 4)));
    out_ += "(?:";
    ++at_;
    return {};
  }

  // {n}, {n,} or {n,m}. A following '+' or '?' means something else in Oniguruma.
  Status Interval() {
    size_t end = at_ + 1;
    auto digits = [&] {
      const size_t start = end;
      while (end < in_.size() && std::isdigit(static_cast<unsigned char>(in_[end]))) ++end;
      return end > start;
    };
    bool well_formed = digits();
    if (end < in_.size() && in_[end] == ',') {
      ++end;
      digits();
    }
    well_formed = well_formed && end < in_.size() && in_[end] == '}';
    if (!well_formed) return Unsupported("'{' outside an interval");
    Copy(end + 1 - at_);
    return NextIs("+") || NextIs("?") ? Status(Unsupported("'+' or '?' after an interval")) : Status();
  }

  Status Escape() {
    if (at_ + 1 >= in_.size()) return Unsupported("a trailing backslash");
    const char letter = in_[at_ + 1];
    at_ += 2;
    switch (letter) {
      case 's':
      case 'S':
        return Items(kSpaceItems, letter == 'S');
      case 'd':
      case 'D':
        return Property("Nd", letter == 'D');
      case 'p':
      case 'P':
        return NamedProperty(letter == 'P');
      case 'x':
      case 'u':
        return Hexadecimal(letter);
      case 'n':
      case 'r':
      case 't':
      case 'f':
        out_ += {'\\', letter};
        return {};
      default:
        if (!std::ispunct(static_cast<unsigned char>(letter)) && letter != ' ') {
          return Unsupported(fmt::format("the escape '\\{}'", letter));
        }
        out_ += {'\\', letter};
        return {};
    }
  }

  Status NamedProperty(bool negated) {
    const size_t end = in_.find('}', at_);
    if (!NextIs("{") || end == std::string_view::npos) return Unsupported("'\\p' without braces");
    std::string_view name = in_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    return Property(name, negated);
  }

  Status Property(std::string_view name, bool negated) {
    std::span<const CodePointRange> newer;
    if (!NewerMembers(name, newer)) return Unsupported(fmt::format("the property '{}'", name.substr(0, 40)));
    std::string items = fmt::format("\\p{{{}}}", name);
    for (const CodePointRange& range : newer) items += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", range.first, range.last);
    return Items(items, negated);
  }

  Status Items(std::string_view items, bool negated) {
    if (in_class_ && negated) return Unsupported("a negated property in a character class");
    if (in_class_) {
      out_ += items;
    } else {
      out_ += fmt::format("[{}{}]", negated ? "^" : "", items);
    }
    return {};
  }

  // \xHH, \x{H..} and \uHHHH.
  Status Hexadecimal(char letter) {
    const bool braces = letter == 'x' && NextIs("{");
    const size_t start = at_ + (braces ? 1 : 0);
    const size_t most = braces ? 6 : letter == 'x' ? 2 : 4;
    size_t end = start;
    while (end < in_.size() && end - start < most && std::isxdigit(static_cast<unsigned char>(in_[end]))) ++end;
    const bool complete = braces ? end > start && end < in_.size() && in_[end] == '}' : end - start == most;
    if (!complete) return Unsupported("an incomplete hexadecimal escape");
    out_ += fmt::format("\\x{{{}}}", in_.substr(start, end - start));
    at_ = end + (braces ? 1 : 0);
    return {};
  }

  std::string_view in_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

Result<std::string> TranslatePattern(std::string_view pattern) { return Translator(pattern).Run(); }

}  // namespace pointsman
