// A real model whose ragged passes a test looks into, or makes fail. Header-only; tests alone.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/model.h"

namespace pointsman::testing {

class WatchedModel : public MoeModel {
 public:
  // Called before each pass with its segments; what it returns routes in place of `hook`. It may throw.
  using Watch = std::function<RoutingHook*(std::span<const RowSegment> segments, RoutingHook* hook)>;
  WatchedModel(std::shared_ptr<const MoeModel> model, Watch watch)
      : model_(std::move(model)), watch_(std::move(watch)) {}

  const MoeConfig& config() const override { return model_->config(); }
  const Fingerprint& fingerprint() const override { return model_->fingerprint(); }
  const Tokenizer& tokenizer() const override { return model_->tokenizer(); }
  at::Tensor Forward(const at::Tensor& ids, const ForwardOptions& options) const override {
    return model_->Forward(ids, options);
  }
  at::Tensor ForwardRows(std::span<const RowSegment> segments, RoutingHook* hook) const override {
    return model_->ForwardRows(segments, watch_(segments, hook));
  }
  Cut ForwardTo(int layer, const at::Tensor& ids, const ForwardOptions& options) const override {
    return model_->ForwardTo(layer, ids, options);
  }
  at::Tensor ForwardFrom(const Cut& cut, const at::Tensor& logits, const ForwardOptions& options) const override {
    return model_->ForwardFrom(cut, logits, options);
  }
  std::vector<std::pair<std::string, at::Tensor>> Weights() const override { return model_->Weights(); }
  at::Tensor RouterWeight(int layer) const override { return model_->RouterWeight(layer); }
  std::unique_ptr<MoeModel> CloneWithTrainableWeights() const override { return model_->CloneWithTrainableWeights(); }
  KvCache NewCache(int64_t batch) const override { return model_->NewCache(batch); }

 private:
  std::shared_ptr<const MoeModel> model_;
  Watch watch_;
};

}  // namespace pointsman::testing
