#include "models/chat_template/text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <cmath>
#include <utility>

#include "models/tokenizer/unicode.h"

namespace pointsman::jinja {
namespace {

// `change(code point)` of every character; its bytes keep the origin of the character they come from.
template <typename Change>
Text Mapped(const Text& text, Change change) {
  Text out;
  std::string one;
  for (size_t at = 0; at < text.bytes.size();) {
    const DecodedCodePoint decoded = DecodeUtf8(text.bytes, at);
    one.clear();
    AppendUtf8(change(decoded.value), one);
    out.bytes += one;
    out.origins.append(one.size(), text.origins[at]);
    at += decoded.bytes;
  }
  return out;
}

// Python writes ß as SS, which is not one character: it stays (utf8proc would make the rare capital of it).
uint32_t UpperOf(uint32_t c) {
  return c == 0xDF ? c : static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
uint32_t LowerOf(uint32_t c) { return static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))); }
uint32_t TitleOf(uint32_t c) {
  return c == 0xDF ? c : static_cast<uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
}

// str.isprintable: repr() escapes the others.
bool IsPrintable(uint32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return c == ' ';
    default:
      return true;
  }
}

std::string PythonEscape(uint32_t c) {
  if (c < 0x100) return fmt::format("\\x{:02x}", c);
  return c < 0x10000 ? fmt::format("\\u{:04x}", c) : fmt::format("\\U{:08x}", c);
}

std::string JsonEscape(uint32_t c) {
  if (c < 0x10000) return fmt::format("\\u{:04x}", c);
  return fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + ((c - 0x10000) & 0x3FF));
}

}  // namespace

void Text::Append(std::string_view text, Origin origin) {
  bytes += text;
  origins.append(text.size(), static_cast<char>(origin));
}

void Text::Append(const Text& text, size_t begin, size_t end) {
  bytes.append(text.bytes, begin, end - begin);
  origins.append(text.origins, begin, end - begin);
}

Text Text::Slice(size_t begin, size_t end) const {
  Text out;
  out.Append(*this, begin, end);
  return out;
}

std::vector<size_t> CharacterStarts(std::string_view text) {
  std::vector<size_t> starts;
  starts.reserve(text.size() + 1);
  for (size_t at = 0; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0) != 0x80) starts.push_back(at);
  }
  starts.push_back(text.size());
  return starts;
}

bool IsPythonSpace(uint32_t code_point) {
  return IsWhiteSpace(code_point) || (code_point >= 0x1C && code_point <= 0x1F);
}

size_t SpaceAtEnd(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const DecodedCodePoint decoded = DecodeUtf8Before(text, end);
    if (!IsPythonSpace(decoded.value)) break;
    end -= decoded.bytes;
  }
  return end;
}

size_t SpaceAtStart(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const DecodedCodePoint decoded = DecodeUtf8(text, at);
    if (!IsPythonSpace(decoded.value)) break;
    at += decoded.bytes;
  }
  return at;
}

Text Upper(const Text& text) { return Mapped(text, UpperOf); }
Text Lower(const Text& text) { return Mapped(text, LowerOf); }

Text Capitalize(const Text& text) {
  bool first = true;
  return Mapped(text, [&](uint32_t c) { return std::exchange(first, false) ? TitleOf(c) : LowerOf(c); });
}

Text Title(const Text& text) {
  bool first = true;
  return Mapped(text, [&](uint32_t c) {
    const uint32_t changed = first ? UpperOf(c) : LowerOf(c);
    first = IsPythonSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    return changed;
  });
}

Text TitleWords(const Text& text) {
  bool inside = false;
  return Mapped(text, [&](uint32_t c) {
    const uint32_t changed = inside ? LowerOf(c) : TitleOf(c);
    const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
    inside = category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL || category == UTF8PROC_CATEGORY_LT;
    return changed;
  });
}

void AppendQuoted(const Text& text, Text& out) {
  const bool both = text.bytes.find('\'') != std::string::npos && text.bytes.find('"') != std::string::npos;
  const char quote = !both && text.bytes.find('\'') != std::string::npos ? '"' : '\'';
  out.Append(std::string_view(&quote, 1), Origin::kTemplate);
  for (size_t at = 0; at < text.bytes.size();) {
    const DecodedCodePoint decoded = DecodeUtf8(text.bytes, at);
    const auto origin = static_cast<Origin>(text.origins[at]);
    const uint32_t c = decoded.value;
    if (c == '\n') {
      out.Append("\\n", origin);
    } else if (c == '\r') {
      out.Append("\\r", origin);
    } else if (c == '\t') {
      out.Append("\\t", origin);
    } else if (c == '\\') {
      out.Append("\\\\", origin);
    } else if (c == static_cast<unsigned char>(quote)) {
      out.Append(fmt::format("\\{}", quote), origin);
    } else if (!IsPrintable(c)) {
      out.Append(PythonEscape(c), origin);
    } else {
      out.Append(text, at, at + decoded.bytes);
    }
    at += decoded.bytes;
  }
  out.Append(std::string_view(&quote, 1), Origin::kTemplate);
}

void AppendJsonString(const Text& text, bool ascii, Text& out) {
  out.Append("\"", Origin::kTemplate);
  for (size_t at = 0; at < text.bytes.size();) {
    const DecodedCodePoint decoded = DecodeUtf8(text.bytes, at);
    const auto origin = static_cast<Origin>(text.origins[at]);
    switch (decoded.value) {
      case '"':
        out.Append("\\\"", origin);
        break;
      case '\\':
        out.Append("\\\\", origin);
        break;
      case '\n':
        out.Append("\\n", origin);
        break;
      case '\r':
        out.Append("\\r", origin);
        break;
      case '\t':
        out.Append("\\t", origin);
        break;
      case '\b':
        out.Append("\\b", origin);
        break;
      case '\f':
        out.Append("\\f", origin);
        break;
      default:
        if (decoded.value < 0x20 || (ascii && decoded.value > 0x7E)) {
          out.Append(JsonEscape(decoded.value), origin);
        } else {
          out.Append(text, at, at + decoded.bytes);
        }
    }
    at += decoded.bytes;
  }
  out.Append("\"", Origin::kTemplate);
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

}  // namespace pointsman::jinja
