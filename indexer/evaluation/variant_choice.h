// Which variants a report has: those that were asked for and what they are compared with, in the report's order.
#pragma once

#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct VariantChoice {
  std::vector<std::string> asked;  // of VariantNames(), or {"all"}
  bool in_host = false;            // another engine computes: VariantNamesInHost() alone
  bool has_memory = false;
  std::string retrained_kind;  // what `memory` is trained again as; empty: it is not
};
// kInvalidArgument for a name that is none, or that the engine cannot make.
Result<std::vector<std::string>> ChooseVariants(const VariantChoice& choice);

// `output_published`: the memory holds what memory+output asks for.
bool NeedsReference(const std::string& variant, bool output_published);

}  // namespace pointsman
