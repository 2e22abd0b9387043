// Windows: a document's tokens cut into pieces of the model's context, each token predicted exactly once.
//
// The sequence that the model sees is s = [end-of-text] + tokens, so that the first token has a context too. A window's
// inputs are s[begin, begin + length), its targets are the tokens one further on: tokens[begin, begin + length).
// With stride < context, windows overlap: the first `scored_from` targets were scored by an earlier window and only
// give context here.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "indexer/ingest.h"

namespace pointsman {

struct Window {
  uint32_t document = 0;     // index into the lengths given
  uint32_t begin = 0;        // position of the first target in the document
  uint32_t length = 0;       // inputs = targets = length, at most the context
  uint32_t scored_from = 0;  // first target that counts, in [0, length)
  uint32_t scored() const { return length - scored_from; }
};

struct WindowOptions {
  uint32_t context = 256;
  uint32_t stride = 0;  // new targets a window; 0 = the context (no overlap). REQUIRES: <= context
};

// `lengths`: tokens of each document; a document of 0 tokens has no window. Ordered by document, then begin.
std::vector<Window> MakeWindows(std::span<const uint32_t> lengths, const WindowOptions& options);

// Inputs of a window (see above); `tokens` are the document's.
std::vector<int32_t> WindowInputs(const Window& window, std::span<const int32_t> tokens, int32_t end_of_text);
// Targets: a view into `tokens`.
std::span<const int32_t> WindowTargets(const Window& window, std::span<const int32_t> tokens);

// Document::loss_mask from byte spans: a token is learned when any of its bytes lies in a span. `token_bytes` is the
// number of text bytes of each token (byte-level BPE: the length of Decode({id})). Empty spans give an empty mask (all
// 1).
std::vector<uint8_t> LossMask(std::span<const uint32_t> token_bytes, std::span<const ByteSpan> learn_spans);

}  // namespace pointsman
