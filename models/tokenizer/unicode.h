// UTF-8 and the few Unicode properties that tokenisation asks for, at the Unicode version of the tokenizers library
// (tables in unicode_tables.inc, made by tools/generate_unicode_tables.py). Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace pointsman {

struct CodePointRange {
  uint32_t first, last;  // inclusive
};

// `text` with every maximal invalid subpart replaced by U+FFFD, as bytes.decode("utf-8", "replace") does.
std::string ReplaceInvalidUtf8(std::string_view text);

struct DecodedCodePoint {
  uint32_t value = 0;
  size_t bytes = 0;  // 1..4
};
// The code point that starts at `offset`. REQUIRES: text is valid UTF-8, offset < text.size() and on a boundary.
DecodedCodePoint DecodeUtf8(std::string_view text, size_t offset);
// The code point that ends at `offset`. REQUIRES: as above, offset > 0.
DecodedCodePoint DecodeUtf8Before(std::string_view text, size_t offset);
void AppendUtf8(uint32_t code_point, std::string& out);

bool IsWhiteSpace(uint32_t code_point);     // White_Space
bool IsNumeric(uint32_t code_point);        // Nd, Nl, No
bool IsWordCharacter(uint32_t code_point);  // \w of Rust's regex: Alphabetic, M, Nd, Pc, Join_Control
// True where the library's normaliser, which knows Unicode 10, neither decomposes, composes nor reorders.
bool IsInertInNormalization(uint32_t code_point);

// Members of a general category that came after PCRE2's Unicode 14. False if there is no table for `property`.
bool NewerMembers(std::string_view property, std::span<const CodePointRange>& ranges);

}  // namespace pointsman
