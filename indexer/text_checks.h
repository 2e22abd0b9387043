// What makes bytes usable as a document's text.
#pragma once

#include <string_view>

namespace pointsman {

// A NUL byte in the first 8 KiB: the rule of git and grep; catches UTF-16 too.
bool LooksBinary(std::string_view bytes);
// Well-formed UTF-8: no overlong form, no surrogate, nothing above U+10FFFF, no truncated tail.
bool IsValidUtf8(std::string_view bytes);
// Nothing but ASCII white space.
bool IsBlank(std::string_view text);
// Without a leading UTF-8 byte order mark.
std::string_view WithoutByteOrderMark(std::string_view text);

}  // namespace pointsman
