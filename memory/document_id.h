// A document's id as everything shows and takes it: its hash in 16 lower-case hex digits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pointsman {

std::string DocumentIdText(uint64_t hash);
std::optional<uint64_t> ReadDocumentId(std::string_view text);  // nothing for any other text

}  // namespace pointsman
