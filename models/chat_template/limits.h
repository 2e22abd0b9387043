// What a chat template may cost. A template comes with the model, the messages from clients: neither is trusted.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pointsman::jinja {

inline constexpr size_t kMostSourceBytes = 256 << 10;
inline constexpr size_t kMostNodes = 50'000;         // expressions and statements
inline constexpr uint32_t kDeepestNesting = 64;      // of the source: expressions, blocks
inline constexpr uint32_t kDeepestValue = 64;        // lists and dicts inside each other
inline constexpr uint32_t kDeepestEvaluation = 512;  // expressions and blocks being evaluated, over all macro calls
inline constexpr size_t kMostItems = 100'000;        // of one list
inline constexpr size_t kMostTextBytes = 8 << 20;    // of one string, the output included
inline constexpr uint64_t kMostSteps = 20'000'000;
inline constexpr uint64_t kBytesPerStep = 16;  // text that is read or made counts, too: at most 320 MB in one rendering

}  // namespace pointsman::jinja
