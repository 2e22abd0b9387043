// Which variants a report has: those that were asked for and what they are compared with, in the report's order.
#pragma once

#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

// Before a model is loaded. `in_host`: another engine computes, which makes VariantNamesInHost() alone.
// kInvalidArgument for a name that is none, or that the engine cannot make; {"all"} is all of them.
Status CheckVariants(const std::vector<std::string>& asked, bool in_host);

struct VariantChoice {
  std::vector<std::string> asked;  // CheckVariants let them pass
  bool in_host = false;
  bool has_memory = false;
  std::string retrained_kind;  // what `memory` is trained again as; empty: it is not
};
std::vector<std::string> ChooseVariants(const VariantChoice& choice);

// `output_published`: the memory holds what memory+output asks for.
bool NeedsReference(const std::string& variant, bool output_published);

}  // namespace pointsman
