// GPT-2's alphabet: every byte as one printable character, so that a vocabulary of any bytes is valid text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace pointsman {

// The bytes that a token's characters stand for, or nothing if one of them is not in the alphabet.
std::optional<std::string> BytesOfToken(std::string_view token);

}  // namespace pointsman
