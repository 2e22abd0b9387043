// The C++ tokenizer as a filter, for tests/test_tokenizer_parity.py.
//
//   pointsman_tokenize tokenizer.json < texts > results
//
// Numbers are 32 bits, little-endian. In: a text's length in bytes, the text; repeated. Out, for each: the number of
// ids, the ids, the length of what they decode to (special tokens kept), those bytes.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "models/tokenizer/tokenizer.h"

namespace {

bool ReadText(std::string& text) {
  uint32_t size = 0;
  if (std::fread(&size, sizeof size, 1, stdin) != 1) return false;
  text.resize(size);
  return std::fread(text.data(), 1, size, stdin) == size;
}

bool Write(const void* data, size_t bytes) { return std::fwrite(data, 1, bytes, stdout) == bytes; }

bool WriteResult(const std::vector<int32_t>& ids, const std::string& decoded) {
  const auto count = static_cast<uint32_t>(ids.size()), size = static_cast<uint32_t>(decoded.size());
  return Write(&count, sizeof count) && Write(ids.data(), ids.size() * sizeof(int32_t)) && Write(&size, sizeof size) &&
         Write(decoded.data(), decoded.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: pointsman_tokenize tokenizer.json < texts > results\n"), 2;
  const auto tokenizer = pointsman::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) return std::fprintf(stderr, "%s\n", tokenizer.error().message.c_str()), 1;
  std::string text;
  while (ReadText(text)) {
    const std::vector<int32_t> ids = tokenizer.value()->Encode(text);
    if (!WriteResult(ids, tokenizer.value()->Decode(ids, /*skip_special=*/false))) return 1;
  }
  return 0;
}
