// Random damage for the short form of fuzzing: the same seed gives the same damage. Included by tests alone.
#pragma once

#include <cstdint>
#include <random>
#include <string>

namespace pointsman::testing {

// One to four edits: bytes flipped, set, removed, doubled, or a digit replaced.
inline std::string Mutate(std::string bytes, uint32_t seed) {
  std::mt19937 random(seed);
  for (uint32_t edits = 1 + random() % 4; edits > 0 && !bytes.empty(); --edits) {
    const size_t at = random() % bytes.size(), length = 1 + random() % 12;
    switch (random() % 6) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        break;
      case 1:
        bytes[at] = static_cast<char>(random());
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(at, bytes.substr(at, length));
        break;
      case 4: {
        const size_t digit = bytes.find_first_of("0123456789", at);
        if (digit != std::string::npos) bytes[digit] = static_cast<char>('0' + random() % 10);
        break;
      }
      default:
        bytes.insert(at, 1, "{}[],:\"-9e\\"[random() % 11]);
    }
  }
  return bytes;
}

}  // namespace pointsman::testing
