// Online rerouting inside Generate(): learns when the generator shows the context, and routes with what was learned.
//
//   OnlineRerouting rerouting(model, router, hook, slot, {.rerouting = options});
//   generate.hook = &hook; generate.slot = slot;
//   generate.on_context = [&](auto context, KvCache& cache) { return rerouting.OnContext(context, cache); };
//
// Each time it learns from the whole text so far, from `start` on: zeros (a request by itself) or the vectors of an
// earlier request (a session that goes on). Threads: one request at a time.
#pragma once

#include <cstdint>
#include <span>

#include "adapt/rerouting.h"
#include "memory/result.h"
#include "models/kv_cache.h"
#include "models/model.h"
#include "models/router_hook.h"
#include "router/router.h"

namespace pointsman {

struct OnlineReroutingOptions {
  ReroutingOptions rerouting;
  SessionVectors start = {};  // empty: zeros
  bool recompute = false;     // keys and values of earlier text are computed anew with the new vectors; else they stay
  bool fill_cache = true;     // false: the generator reads the prompt itself (tracing: one pass, as it was routed)
};

class OnlineRerouting {
 public:
  // `hook` belongs to `router`, `slot` is live there; all are borrowed.
  OnlineRerouting(const MoeModel& model, Router& router, RouterHook& hook, uint32_t slot,
                  OnlineReroutingOptions options);

  // For GenerateOptions::on_context. After an error the slot has no session and the request cannot go on. A single
  // token says nothing about what follows it: the start vectors stay.
  Result<at::Tensor> OnContext(std::span<const int32_t> context, KvCache& cache);

  // Learns from a whole text, at least two tokens, without generating: a session that is fed. Losses are nats per
  // token of the text, before with the start vectors; `kept`: what the guard decided.
  struct Fed {
    double loss_before = 0, loss_after = 0;
    bool kept = true;
  };
  Result<Fed> Feed(std::span<const int32_t> text);

  const SessionVectors& vectors() const { return vectors_; }

 private:
  void Adopt(const VectorBatch& learned);

  const MoeModel& model_;
  Router& router_;
  RouterHook& hook_;
  uint32_t slot_;
  OnlineReroutingOptions options_;
  SessionVectors vectors_;
};

}  // namespace pointsman
