// What filters and methods on text share.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "models/chat_template/value.h"

namespace pointsman::jinja {

// str.strip and its halves; `characters`: none or None takes white space.
Text Strip(Budget& budget, const Text& text, const std::optional<Value>& characters, bool left, bool right);
// str.replace; most < 0: all.
Text ReplaceAll(Budget& budget, const Text& text, const Text& old, const Text& by, int64_t most);
// Items with `glue` between them; `strict` fails for what is no string, else str() of it.
Text JoinTexts(Budget& budget, const Text& glue, const std::vector<Value>& items, bool strict);
std::vector<Value> DictPairs(Budget& budget, const Dict& dict);  // tuples (key, value)
int64_t RequireInteger(const Value& value, std::string_view what);

}  // namespace pointsman::jinja
