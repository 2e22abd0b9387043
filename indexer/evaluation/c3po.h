// Variant `c3po`: our reading of C3PO's kernel regression (arXiv 2504.07964, section 3) for next-token loss on equal
// data.
//
// The paper, for one question: find the k = 3 references nearest to the question in a text-embedding space, among those
// that the model answers correctly; average their routing weights omega (of the last token, layers x experts) with a
// Gaussian kernel; mix, omega <- a * omega + (1 - a) * omega_hat; last 5 layers, only the top 20 of 64 experts.
// Here every token of a text is a question (the text so far) with one answer (the next token):
//
//   references   the tokens of the reference text whose next token the frozen model has first, with the routing
//                probabilities that it used there: p_i [layer, E], nothing optimised
//   embedding    e_t = normalize(sum over j <= t of decay^(t - j) * q_j) in a window; q_j = the last MoE layer's router
//                input in the frozen model, whitened to 64 dimensions and normalized. decay 1 is the plain mean of the
//                text so far, 0 the last token alone. It takes a frozen pass of its own, as the paper's embedder does,
//                and is causal: token t sees tokens 0..t.
//   kernel       w_i ~ exp(-|e_i - e_t|^2 / (2 sigma^2)) over the 3 nearest, sum 1; p_hat = sum of w_i * p_i
//   mix          S = the ceil(20/64 * E) experts that the router likes most (at least top-k + 1), m = p's mass in S:
//                p'_S = a * p_S + (1 - a) * m * p_hat_S / sum(p_hat_S); outside S p stays. Logits = log p', so that the
//                model selects its own top-k of p' and weighs it by its own rule. Last 5 layers, all where fewer.
//   a, decay, sigma  chosen on the calibration split, one after the other, by its loss; a = 1 (frozen) is among them
//
// Differs from the paper: the embedding comes from the model itself and not from a 7.8 B text encoder; a is one number
// and not chosen per question by the neighbours' own loss (that would take 3 forward passes a candidate and token);
// every token is routed anew and not only the last of a prompt; near-duplicates are kept out by the split by cluster
// and not by a similarity of .95, which successive tokens of one text exceed. Its gradient variant (NGD) is not built.
// `c3po+gate` replaces a by 1 - G * (1 - a); rows with G = 0 are not written.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adapt/objective.h"
#include "indexer/reference_set.h"
#include "memory/result.h"
#include "memory/routing_tables_owned.h"
#include "models/model.h"

namespace pointsman {

struct C3poOptions {
  int neighbours = 3;
  int layers = 5;                   // the last ones
  double expert_share = 20.0 / 64;  // of the experts, the router's own favorites
  int threads = 1;
};

// What the calibration split decides.
struct C3poSetting {
  double decay = 0.9;
  double sigma = 0.5;  // of unit vectors: |e_i - e|^2 = 2 - 2 cos
  double own = 0.5;    // a: how much of its own routing a token keeps
};

class C3po {
 public:
  // Captures the references and chooses the setting. Errors: none of the reference tokens is predicted correctly.
  static Result<std::unique_ptr<C3po>> Create(const MoeModel& model, const ReferenceSet& set,
                                              const C3poOptions& options,
                                              const std::function<void(const std::string& line)>& say);

  // Valid while this object lives. `gate` may be null.
  HookFactory Hooks(const C3poSetting& setting, std::shared_ptr<const OwnedGate> gate) const;
  const C3poSetting& setting() const { return setting_; }
  double bytes() const;  // held in half precision: embeddings and routing of the references

  // e_t of every row, [B * T, D]. Public for the tests.
  static at::Tensor Embed(const at::Tensor& keys, int64_t length, double decay);
  // p' of rows p [N, E] and p_hat [N, E] (see above); own [N, 1] or a scalar. Public for the tests.
  static at::Tensor Mix(const at::Tensor& p, const at::Tensor& p_hat, const at::Tensor& own, int64_t experts);

 private:
  C3po(const MoeModel& model, const C3poOptions& options) : model_(model), options_(options) {}
  void SetReferenceKeys(double decay);
  double CalibrationNll(const ReferenceSet& set, const C3poSetting& setting);
  Status Choose(const ReferenceSet& set, const std::function<void(const std::string& line)>& say);

  const MoeModel& model_;
  C3poOptions options_;
  C3poSetting setting_;
  at::Tensor mean_, projection_;  // of the last layer's keys
  at::Tensor all_keys_;           // [N, D] of the reference text, frozen
  std::vector<int64_t> lengths_;  // tokens of each reference window
  at::Tensor correct_;            // [M] rows of the reference text that the frozen model predicts
  at::Tensor keys_;               // [M, D] embeddings under the present decay
  double keys_decay_ = -1;
  std::vector<at::Tensor> routing_;  // [layer] = [M, E] fp16; undefined below the first adapted layer
};

}  // namespace pointsman
