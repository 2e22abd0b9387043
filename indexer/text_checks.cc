#include "indexer/text_checks.h"

#include <utf8proc.h>

#include <cstdint>
#include <cstring>

namespace pointsman {

bool LooksBinary(std::string_view bytes) { return bytes.substr(0, 8192).find('\0') != std::string_view::npos; }

bool IsValidUtf8(std::string_view bytes) {
  const auto* data = reinterpret_cast<const utf8proc_uint8_t*>(bytes.data());
  size_t i = 0;
  while (i < bytes.size()) {
    // Most text is ASCII: 8 bytes at a time until one has its top bit set.
    uint64_t word = 0;
    if (i + 8 <= bytes.size()) {
      std::memcpy(&word, data + i, 8);
      if ((word & 0x8080808080808080ull) == 0) {
        i += 8;
        continue;
      }
    }
    utf8proc_int32_t codepoint = 0;
    const auto used = utf8proc_iterate(data + i, static_cast<utf8proc_ssize_t>(bytes.size() - i), &codepoint);
    if (used <= 0) return false;
    i += static_cast<size_t>(used);
  }
  return true;
}

bool IsBlank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

std::string_view WithoutByteOrderMark(std::string_view text) {
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  return text.starts_with(kMark) ? text.substr(kMark.size()) : text;
}

}  // namespace pointsman
