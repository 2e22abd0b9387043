// "Did you mean": the known word that is nearest to what somebody typed. Pure function.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pointsman {

// The candidate nearest to `word` by edit distance; empty if none is near, or if `word` is longer than anybody means
// (64 bytes: the distance takes quadratic time, and the word may come from a stranger).
std::string NearestWord(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace pointsman
