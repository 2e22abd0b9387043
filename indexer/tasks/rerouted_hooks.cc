#include "indexer/tasks/rerouted_hooks.h"

#include <numeric>
#include <utility>
#include <vector>

namespace pointsman {
namespace {

class ReroutedHook : public RoutingHook {
 public:
  ReroutedHook(const MemoryBinding& memory, VectorBatch vectors, int64_t sequences, std::shared_ptr<HookErrors> errors)
      : memory_(memory, sequences),
        vectors_(std::move(vectors)),
        hook_(&memory_, vectors_),
        errors_(std::move(errors)) {}
  ~ReroutedHook() override { errors_->Report(hook_.status()); }
  const std::vector<uint32_t>& slots() const { return memory_.slots(); }
  void BeginStep(const StepInfo& step) override { hook_.BeginStep(step); }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    return hook_.Route(layer, hidden, logits);
  }
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    return hook_.Output(hidden, logits);
  }
  Status status() const override { return hook_.status(); }

 private:
  ConstantMemory memory_;
  VectorBatch vectors_;
  VectorHook hook_;
  std::shared_ptr<HookErrors> errors_;
};

}  // namespace

HookFactory ReroutedHooks(const MoeModel& model, std::function<std::span<const int32_t>(uint32_t member)> prompt_of,
                          const MemoryBinding& memory, const ReroutingOptions& options,
                          std::shared_ptr<HookErrors> errors) {
  return [=, &model](const Batch& batch, std::vector<uint32_t>* slots) -> std::unique_ptr<RoutingHook> {
    std::vector<Sequence> contexts;
    for (const uint32_t member : batch.members) {
      const std::span<const int32_t> prompt = prompt_of(member);
      Sequence context;
      context.inputs.assign(prompt.begin(), prompt.end() - 1);
      context.targets.assign(prompt.begin() + 1, prompt.end());
      context.mask.assign(context.inputs.size(), 1);
      contexts.push_back(std::move(context));
    }
    std::vector<uint32_t> members(contexts.size());
    std::iota(members.begin(), members.end(), 0u);
    auto learned = Reroute(model, MakeBatch(contexts, members), memory, {}, options);
    if (!learned.ok()) errors->Report(learned.error());
    auto hook =
        std::make_unique<ReroutedHook>(memory, learned.ok() ? std::move(learned).value().vectors : VectorBatch(),
                                       static_cast<int64_t>(members.size()), errors);
    *slots = hook->slots();
    return hook;
  };
}

}  // namespace pointsman
