// Patterns of tokenizer.json are written for Oniguruma; PCRE2 reads most of them, but not all, in the same way.
#pragma once

#include <string>
#include <string_view>

#include "memory/result.h"

namespace pointsman {

// The PCRE2 pattern that matches what Oniguruma's `pattern` matches: \s without U+180E, \p{..} with the characters of
// Unicode 15 and 16, groups that do not capture. kUnsupported (naming the construct) where the two may differ:
// anchors, \w, \b, back references, nested classes, && and the rarer escapes.
Result<std::string> TranslatePattern(std::string_view pattern);

}  // namespace pointsman
