// "did you mean": the known word nearest to a mistyped one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pointsman {

// The candidate nearest to `word` by edit distance; empty if none is near (more than a third of it wrong).
std::string Nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace pointsman
