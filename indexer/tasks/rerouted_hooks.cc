#include "indexer/tasks/rerouted_hooks.h"

#include <numeric>
#include <utility>
#include <vector>

#include "models/router_hook.h"
#include "router/router.h"

namespace pointsman {
namespace {

// Every item's memory and vectors in a slot of its own: whichever items share a step, each row finds its own.
class ReroutedHook : public RouterHook {
 public:
  ReroutedHook(std::unique_ptr<Router> router, std::shared_ptr<HookErrors> errors)
      : RouterHook(*router), router_(std::move(router)), errors_(std::move(errors)) {}
  ~ReroutedHook() override { errors_->Report(status()); }

 private:
  std::unique_ptr<Router> router_;
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
    auto router = std::make_unique<Router>();
    slots->clear();
    for (const uint32_t member : members) {
      std::shared_ptr<const SessionVectors> vectors;
      if (learned.ok()) vectors = std::make_shared<const SessionVectors>(SessionOf(learned.value().vectors, member));
      slots->push_back(router->AddSlot(
          {.tables = memory.tables, .session = std::move(vectors), .strength = memory.strength, .shadow = false}));
    }
    auto hook = std::make_unique<ReroutedHook>(std::move(router), errors);
    return hook;
  };
}

}  // namespace pointsman
