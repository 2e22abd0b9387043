// Renders a parsed template for one chat.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "models/chat_template/ast.h"
#include "models/chat_template/text.h"
#include "models/chat_template/value.h"

namespace pointsman::jinja {

using Variables = std::vector<std::pair<std::string, Value>>;

// Throws Failure: kInvalidArgument for raise_exception, kUnsupported for all else. The values were made with `budget`.
Text Evaluate(const Block& block, Variables variables, Budget& budget);

}  // namespace pointsman::jinja
