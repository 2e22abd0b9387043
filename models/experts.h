// The sparse feed-forward layer: softmax over all experts, the k best, their weighted SwiGLU outputs.
//
//   p = softmax(logits);  S = k largest p (ties: lower expert);  w_e = p_e, or p_e / sum over S if `normalize`
//   y = sum over e in S of w_e * down_e (silu(gate_e x) * (up_e x))          (Muennighoff et al. 2024, OLMoE, eq. 1)
//
// Rows are grouped by expert, one matrix product an expert and projection; outputs are summed in ascending order of
// experts, so a row's result does not depend on which other rows are present beyond the matrix product's own rounding.
// One hand-written autograd function for the whole layer: gradients reach x, the logits (through w; the choice of S is
// constant) and, when they require it, the weights. Pure; runs on the calling thread (and LibTorch's pool).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace pointsman {

struct ExpertWeights {
  at::Tensor gate_up;  // [E, 2F, H]: gate rows first
  at::Tensor down;     // [E, H, F]
};

// x [N, H], logits [N, E], both fp32 and contiguous -> [N, H].
at::Tensor MixExperts(const at::Tensor& x, const at::Tensor& logits, const ExpertWeights& weights, int64_t k,
                      bool normalize);

// Indices of the chosen.size() largest scores, best first; ties go to the lower index. REQUIRES: k <= scores.size().
void SelectTopK(std::span<const float> scores, std::span<int32_t> chosen);

}  // namespace pointsman
