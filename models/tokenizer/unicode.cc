#include "models/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>

namespace pointsman {
namespace {

#include "models/tokenizer/unicode_tables.inc"

// Numbers of Unicode 17: Rust's char::is_numeric is newer than the pattern engine.
constexpr CodePointRange kNumbersOfUnicode17[] = {{0x11de0, 0x11de9}, {0x16ff4, 0x16ff6}};
// Alphabetic symbols (category So): circled and squared letters.
constexpr CodePointRange kAlphabeticSymbols[] = {
    {0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}};
constexpr CodePointRange kWhiteSpace[] = {{0x9, 0xd},       {0x20, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},
                                          {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f},
                                          {0x205f, 0x205f}, {0x3000, 0x3000}};

bool Contains(std::span<const CodePointRange> ranges, uint32_t code_point) {
  auto after = std::upper_bound(ranges.begin(), ranges.end(), code_point,
                                [](uint32_t value, const CodePointRange& range) { return value < range.first; });
  return after != ranges.begin() && code_point <= std::prev(after)->last;
}

// Length of the valid sequence at the front of `text`, or minus the length of the maximal invalid subpart
// (Unicode 15, table 3-7 and section 3.9).
int ScanSequence(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return -1;
  const int length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  uint8_t low = 0x80, high = 0xbf;  // of the second byte: no overlong forms, surrogates or values above 10FFFF
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) >= text.size() || byte(i) < low || byte(i) > high) return -i;
    low = 0x80, high = 0xbf;
  }
  return length;
}

}  // namespace

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const int length = ScanSequence(text);
    if (length > 0) {
      out.append(text.substr(0, length));
    } else {
      out += "\xef\xbf\xbd";
    }
    text.remove_prefix(static_cast<size_t>(std::abs(length)));
  }
  return out;
}

DecodedCodePoint DecodeUtf8(std::string_view text, size_t offset) {
  const auto lead = static_cast<uint8_t>(text[offset]);
  if (lead < 0x80) return {lead, 1};
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  uint32_t value = lead & (0xffu >> (length + 1));
  for (size_t i = 1; i < length; ++i) value = value << 6 | (static_cast<uint8_t>(text[offset + i]) & 0x3fu);
  return {value, length};
}

DecodedCodePoint DecodeUtf8Before(std::string_view text, size_t offset) {
  do {
    --offset;
  } while (offset > 0 && (static_cast<uint8_t>(text[offset]) & 0xc0) == 0x80);
  return DecodeUtf8(text, offset);
}

void AppendUtf8(uint32_t code_point, std::string& out) {
  utf8proc_uint8_t bytes[4];
  const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}

bool IsWhiteSpace(uint32_t code_point) { return Contains(kWhiteSpace, code_point); }

bool IsNumeric(uint32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return true;
    default:
      return Contains(kNewerN, code_point) || Contains(kNumbersOfUnicode17, code_point);
  }
}

bool IsWordCharacter(uint32_t code_point) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
  if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) return true;  // L*, M*, Nd, Nl
  return category == UTF8PROC_CATEGORY_PC || code_point == 0x200c || code_point == 0x200d ||
         Contains(kAlphabeticSymbols, code_point) || Contains(kNewerL, code_point) || Contains(kNewerM, code_point) ||
         Contains(kNewerNd, code_point);
}

// Whatever came after Unicode 14 counts too, so that the result does not depend on utf8proc's version.
bool IsInertInNormalization(uint32_t code_point) {
  return Contains(kInertInNormalization, code_point) || Contains(kNewerM, code_point) ||
         Contains(kNewerL, code_point) || Contains(kNewerN, code_point) || Contains(kNewerS, code_point);
}

bool NewerMembers(std::string_view property, std::span<const CodePointRange>& ranges) {
  struct Named {
    std::string_view name;
    std::span<const CodePointRange> ranges;
  };
  static constexpr Named kTables[] = {{"L", kNewerL},   {"Lu", kNewerLu}, {"Ll", kNewerLl}, {"Lt", {}},
                                      {"Lm", kNewerLm}, {"Lo", kNewerLo}, {"M", kNewerM},   {"N", kNewerN},
                                      {"Nd", kNewerNd}, {"P", kNewerP},   {"S", kNewerS}};
  for (const Named& table : kTables) {
    if (table.name != property) continue;
    ranges = table.ranges;
    return true;
  }
  return false;
}

}  // namespace pointsman
