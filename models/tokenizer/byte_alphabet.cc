#include "models/tokenizer/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "models/tokenizer/unicode.h"

namespace pointsman {
namespace {

constexpr int16_t kNoByte = -1;

// Printable Latin-1 stands for itself; the other 68 bytes take U+0100.. in order (bytes_to_unicode of GPT-2).
constexpr std::array<int16_t, 0x144> MakeByteOfCharacter() {
  std::array<int16_t, 0x144> bytes{};
  bytes.fill(kNoByte);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    bytes[printable ? byte : next++] = static_cast<int16_t>(byte);
  }
  return bytes;
}
constexpr std::array<int16_t, 0x144> kByteOfCharacter = MakeByteOfCharacter();

}  // namespace

std::optional<std::string> BytesOfToken(std::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const DecodedCodePoint decoded = DecodeUtf8(token, at);
    if (decoded.value >= kByteOfCharacter.size() || kByteOfCharacter[decoded.value] == kNoByte) return std::nullopt;
    bytes += static_cast<char>(kByteOfCharacter[decoded.value]);
    at += decoded.bytes;
  }
  return bytes;
}

}  // namespace pointsman
