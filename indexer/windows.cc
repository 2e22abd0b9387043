#include "indexer/windows.h"

#include <algorithm>
#include <cassert>

namespace pointsman {

std::vector<Window> MakeWindows(std::span<const uint32_t> lengths, const WindowOptions& options) {
  const uint32_t stride = options.stride == 0 ? options.context : options.stride;
  assert(options.context > 0 && stride <= options.context);
  std::vector<Window> windows;
  for (uint32_t document = 0; document < lengths.size(); ++document) {
    // `scored`: targets covered so far. The first window scores all of its targets, later ones `stride` new ones.
    for (uint32_t scored = 0; scored < lengths[document];) {
      const uint32_t fresh = std::min(scored == 0 ? options.context : stride, lengths[document] - scored);
      const uint32_t end = scored + fresh;
      // Overlapping windows reach back to a full context; pieces without overlap start where the last one ended.
      const uint32_t begin = stride == options.context ? scored : end - std::min(end, options.context);
      windows.push_back({document, begin, end - begin, scored - begin});
      scored = end;
    }
  }
  return windows;
}

std::vector<int32_t> WindowInputs(const Window& window, std::span<const int32_t> tokens, int32_t end_of_text) {
  std::vector<int32_t> inputs(window.length);
  for (uint32_t i = 0; i < window.length; ++i) {
    const uint32_t position = window.begin + i;  // in [end-of-text] + tokens
    inputs[i] = position == 0 ? end_of_text : tokens[position - 1];
  }
  return inputs;
}

std::span<const int32_t> WindowTargets(const Window& window, std::span<const int32_t> tokens) {
  return tokens.subspan(window.begin, window.length);
}

std::vector<uint8_t> LossMask(std::span<const uint32_t> token_bytes, std::span<const ByteSpan> learn_spans) {
  if (learn_spans.empty()) return {};
  std::vector<uint8_t> mask(token_bytes.size(), 0);
  size_t begin = 0, span = 0;
  for (size_t i = 0; i < token_bytes.size(); ++i) {
    const size_t end = begin + token_bytes[i];
    while (span < learn_spans.size() && learn_spans[span].second <= begin) ++span;
    mask[i] = span < learn_spans.size() && learn_spans[span].first < end;
    begin = end;
  }
  return mask;
}

}  // namespace pointsman
