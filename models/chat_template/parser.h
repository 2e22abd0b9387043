// From a template's source to its tree, or the first construct that is not in the subset.
#pragma once

#include <string_view>

#include "models/chat_template/ast.h"

namespace pointsman::jinja {

// REQUIRES: source is valid UTF-8 of at most kMostSourceBytes. Throws Failure with the line.
Block Parse(std::string_view source);

}  // namespace pointsman::jinja
