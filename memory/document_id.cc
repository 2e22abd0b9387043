#include "memory/document_id.h"

#include <fmt/format.h>

#include <charconv>

namespace pointsman {

std::string DocumentIdText(uint64_t hash) { return fmt::format("{:016x}", hash); }

std::optional<uint64_t> ReadDocumentId(std::string_view text) {
  if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != std::string_view::npos) return std::nullopt;
  uint64_t hash = 0;
  std::from_chars(text.data(), text.data() + text.size(), hash, 16);
  return hash;
}

}  // namespace pointsman
