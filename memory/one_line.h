// What a message may quote of a stranger's text.
#pragma once

#include <string>
#include <string_view>

namespace pointsman {

// `text` cut to 80 bytes ("..." follows) at the end of a UTF-8 character, control characters replaced by '?'.
std::string OneLine(std::string_view text);

}  // namespace pointsman
