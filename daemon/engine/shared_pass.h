// One forward pass for many requests, and what each of them needs of it. Where a pass fails, each part of it runs
// alone, so that the request at fault fails alone. Compute thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "daemon/engine/compute.h"
#include "memory/result.h"
#include "models/model.h"

namespace pointsman {

struct PassResult {
  // kInternal: memory ran out, or the logits are not finite. The router's own otherwise.
  Status status;
  // Where the segment wants logits; views into the pass's, [V].
  at::Tensor logits, logprobs;
  float gate = 0;               // G of the segment's last row; 0 on slot 0
  std::vector<RowTrace> trace;  // with `trace`: of the segment's last row, by layer; `row` is 0
};

// One result a segment, in order. The caches of segments that failed have their lengths still.
std::vector<PassResult> RunPass(Compute& compute, std::span<const MoeModel::RowSegment> segments, bool trace);

}  // namespace pointsman
