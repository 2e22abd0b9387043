#include "memory/one_line.h"

namespace pointsman {

std::string OneLine(std::string_view text) {
  constexpr size_t kMaxQuoted = 80;
  size_t size = text.size();
  if (size > kMaxQuoted) {
    size = kMaxQuoted;
    while (size > kMaxQuoted - 3 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  }
  std::string out(text.substr(0, size));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (size < text.size()) out += "...";
  return out;
}

}  // namespace pointsman
