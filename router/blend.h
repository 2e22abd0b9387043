// How the neighbours' values change one row of router logits z (design.md 5). With w = softmax(s / tau), g the
// confidence, G the context gate and lambda = min(1, strength * G * g):
//   delta        z' = z + strength * G * (g * scale * sum_i w_i v_i + router_delta h + token_table[token])
//   logits       z' = (1 - lambda) z + lambda * sum_i w_i r_i
//   assignments  q = softmax(z), m = mass of the top-k of z in q (a tie goes to the lower expert),
//                p = (1 - lambda) q + lambda * (m * sum_i w_i a_i + (q with its top-k removed)),  z' = log(max(p,
//                1e-9))
// A weight of 0 writes nothing: a branch, not `+ 0 * delta`, so that the row keeps its bits.
// fp32 in a fixed order; schemas/blend_golden.json holds this, the LibTorch and the Python implementation together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/layer_index.h"
#include "memory/routing_tables.h"

namespace pointsman {

inline constexpr int32_t kNoToken = -1;

// What one row brings to the blend.
struct BlendInput {
  std::span<const Neighbour> neighbours;  // best first; absent ones (similarity -2) at the end are skipped
  std::span<const float> hidden;          // [H]; read only with a router delta
  int32_t token = kNoToken;               // outside the token table: adds nothing
  float strength = 1;
  float gate = 1;  // G
};

struct BlendOutcome {
  float confidence = 0;  // g
  bool touched = false;  // the weight was above 0 and the logits were changed
};

// The rules and their scratch memory. One thread at a time.
class Blender {
 public:
  // REQUIRES: logits is [layer.experts]; neighbour rows are below layer.keys.rows; top_k is used by kAssignments only.
  BlendOutcome Blend(const LayerView& layer, ValueKind kind, uint32_t top_k, const BlendInput& input,
                     std::span<float> logits);

 private:
  void MixValues(const LayerView& layer, std::span<const Neighbour> found);
  bool AddDelta(const LayerView& layer, const BlendInput& input, float confidence, std::span<float> logits);
  void MoveAssignments(float lambda, uint32_t top_k, std::span<float> logits);

  std::vector<float> weights_;        // [k]
  std::vector<float> mix_;            // [E]: sum_i w_i v_i
  std::vector<float> probabilities_;  // [E]
  std::vector<uint32_t> order_;       // [E]
};

}  // namespace pointsman
