#include "adapt/online_rerouting.h"

#include <memory>
#include <utility>
#include <vector>

namespace pointsman {
namespace {

// All tokens are inputs, so that the pass is also the prompt's; the last has no target yet.
Batch ContextBatch(std::span<const int32_t> context) {
  Sequence sequence;
  sequence.inputs.assign(context.begin(), context.end());
  sequence.targets.assign(context.begin() + 1, context.end());
  sequence.targets.push_back(0);
  sequence.mask.assign(context.size(), 1);
  sequence.mask.back() = 0;
  const std::vector<uint32_t> members{0};
  return MakeBatch(std::span(&sequence, 1), members);
}

}  // namespace

OnlineRerouting::OnlineRerouting(const MoeModel& model, Router& router, RouterHook& hook, uint32_t slot,
                                 OnlineReroutingOptions options)
    : model_(model), router_(router), hook_(hook), slot_(slot), options_(std::move(options)), vectors_(options_.start) {
  router_.SetSession(slot_, std::make_shared<const SessionVectors>(vectors_));
}

Result<at::Tensor> OnlineRerouting::OnContext(std::span<const int32_t> context, KvCache& cache) {
  if (context.size() < 2) return at::Tensor();
  const bool fills = options_.fill_cache && (options_.recompute || cache.length == 0);
  router_.SetSession(slot_, nullptr);  // the vectors being learned act instead
  if (fills) cache.length = 0;
  Rerouter rerouter(model_, &hook_, {slot_}, options_.rerouting);
  POINTSMAN_TRY(const Rerouted learned,
                rerouter.Learn(ContextBatch(context), VectorsOf(options_.start), fills ? &cache : nullptr));
  at::Tensor logits;
  if (fills) {
    POINTSMAN_TRY(logits, rerouter.Prefill(learned.vectors));
  }
  Adopt(learned.vectors);
  return logits;
}

Result<OnlineRerouting::Fed> OnlineRerouting::Feed(std::span<const int32_t> text) {
  router_.SetSession(slot_, nullptr);
  Rerouter rerouter(model_, &hook_, {slot_}, options_.rerouting);
  const VectorBatch start = VectorsOf(options_.start);
  POINTSMAN_TRY(const Rerouted learned, rerouter.Learn(ContextBatch(text), start));
  POINTSMAN_TRY(const std::vector<double> after, rerouter.Losses(learned.vectors));
  Adopt(learned.vectors);
  // Without a step there is no gradient to read the first loss from, and nothing was changed.
  return Fed{.loss_before = learned.before.empty() ? after[0] : learned.before[0],
             .loss_after = after[0],
             .kept = learned.kept[0] != 0};
}

void OnlineRerouting::Adopt(const VectorBatch& learned) {
  vectors_ = SessionOf(learned, 0);
  router_.SetSession(slot_, std::make_shared<const SessionVectors>(vectors_));
  hook_.TakeTrace();
}

}  // namespace pointsman
