// Text that remembers, byte for byte, who wrote it: the template or a message.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pointsman::jinja {

enum class Origin : char { kTemplate = 0, kMessage = 1 };

struct Text {
  std::string bytes;    // valid UTF-8
  std::string origins;  // an Origin for each byte

  Text() = default;
  Text(std::string_view text, Origin origin) : bytes(text), origins(text.size(), static_cast<char>(origin)) {}

  void Append(std::string_view text, Origin origin);
  void Append(const Text& text) { Append(text, 0, text.bytes.size()); }
  void Append(const Text& text, size_t begin, size_t end);
  Text Slice(size_t begin, size_t end) const;  // bytes
};

// The start of every character and, last, the text's size. Characters are code points, as in Python.
std::vector<size_t> CharacterStarts(std::string_view text);

bool IsPythonSpace(uint32_t code_point);     // str.isspace
size_t SpaceAtEnd(std::string_view text);    // where the white space that ends the text begins
size_t SpaceAtStart(std::string_view text);  // where the white space that begins the text ends

// str.upper, lower, one character at a time: what becomes several characters (ß) or depends on its neighbours (final
// sigma) keeps its simple form.
Text Upper(const Text& text);
Text Lower(const Text& text);
Text Capitalize(const Text& text);
Text Title(const Text& text);       // the filter's: words begin behind white space, brackets and hyphens
Text TitleWords(const Text& text);  // the method's: words are runs of letters

// repr(): quoted and escaped as Python does.
void AppendQuoted(const Text& text, Text& out);
// A JSON string.
void AppendJsonString(const Text& text, bool ascii, Text& out);

std::string FloatText(double value);  // repr(float)

}  // namespace pointsman::jinja
