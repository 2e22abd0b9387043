// OLMoE (Muennighoff et al. 2024): pre-norm transformer, q/k RMSNorm over the whole projection, every feed-forward
// layer sparse. Tensor names are the hub's, with experts one by one (transformers 4, the hub) or fused (transformers
// 5).
//
// Weights are widened to fp32 once, on loading; everything is computed in fp32. See models/model.h for threads.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "models/attention.h"
#include "models/experts.h"
#include "models/model.h"
#include "models/safetensors.h"

namespace pointsman {

class OlmoeModel : public MoeModel {
 public:
  // Errors: kCorrupt (a tensor is absent or of another shape: names tensor and file), kUnsupported.
  static Result<std::unique_ptr<MoeModel>> Create(MoeConfig config, const SafetensorsFiles& files,
                                                  std::shared_ptr<const Tokenizer> tokenizer, Fingerprint fingerprint);
  // A model of this shape with random weights, for measuring: all layers share the weights of one, so that a shape of
  // many layers fits in memory while each layer still reads more than a cache holds. Has no tokenizer: tokenizer() must
  // not be called.
  static std::unique_ptr<OlmoeModel> CreateRandom(MoeConfig config, uint64_t seed);

  const MoeConfig& config() const override { return config_; }
  const Fingerprint& fingerprint() const override { return fingerprint_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  at::Tensor Forward(const at::Tensor& ids, const ForwardOptions& options) const override;
  at::Tensor ForwardRows(std::span<const RowSegment> segments, RoutingHook* hook) const override;
  Cut ForwardTo(int layer, const at::Tensor& ids, const ForwardOptions& options) const override;
  at::Tensor ForwardFrom(const Cut& cut, const at::Tensor& logits, const ForwardOptions& options) const override;
  std::vector<std::pair<std::string, at::Tensor>> Weights() const override;
  at::Tensor RouterWeight(int layer) const override { return layers_.at(layer).router; }
  std::unique_ptr<MoeModel> CloneWithTrainableWeights() const override;
  KvCache NewCache(int64_t batch) const override;

 private:
  struct Layer {
    at::Tensor input_norm, post_attention_norm;  // [H]
    AttentionWeights attention;
    at::Tensor router;  // [E, H]
    ExpertWeights experts;
  };

  OlmoeModel(MoeConfig config, std::shared_ptr<const Tokenizer> tokenizer, Fingerprint fingerprint);
  // Calls visit(hub name, tensor member) for every weight in a fixed order; undefined biases are skipped.
  template <typename Self, typename Visit>
  static void VisitWeights(Self& self, Visit visit);
  // A layer's attention and router: where its experts are added, what they read, and by which logits.
  Cut RouteLayer(int index, const at::Tensor& x, std::span<const AttentionBlock> blocks, RoutingHook* hook) const;
  at::Tensor AddExperts(const Cut& cut, const at::Tensor& logits) const;
  // The layers after the cut's: rows of the last one's output.
  at::Tensor RunFrom(const Cut& cut, const at::Tensor& logits, std::span<const AttentionBlock> blocks,
                     RoutingHook* hook) const;
  // Logits [n, V] of some of a pass's rows [n, H].
  at::Tensor Output(const at::Tensor& rows, RoutingHook* hook) const;

  MoeConfig config_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  Fingerprint fingerprint_;
  RopeTables rope_;
  at::Tensor embedding_;   // [V, H]
  at::Tensor final_norm_;  // [H]
  at::Tensor output_;      // [V, H]; the embedding itself when tied
  std::vector<Layer> layers_;
};

}  // namespace pointsman
