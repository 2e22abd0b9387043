// Continuous batching: many requests share each forward pass of one model, each with its own memory, session and
// sampling. One compute thread owns the model's steps and the Router; everything else posts to it.
//
//   auto engine = Engine::Start(model, options);
//   engine->Submit({.prompt = ids, .max_tokens = 64, .binding = {.tables = tables}, .on_token = ..., .on_done = ...});
//
// An iteration: admit waiting requests into free slots, run one adaptation (at most one, so that it delays the others
// by no more than one such step: EngineStats::longest_adaptation_s), prefill at most `prefill_tokens` rows of new
// prompts together with one row of every decoding request, sample, deliver.
//
// A request gets what it would get alone: logits within 1e-4 (a product's row may round differently in another batch),
// the same greedy tokens but for ties closer than 1e-3, and Route()'s own part bit for bit. What fails for one request
// (memory, numbers that are not finite) ends that request alone.
//
// Threads: public methods from any thread. Callbacks run on the compute thread, without a lock: they may submit and
// cancel, must be quick (post elsewhere) and not throw.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adapt/rerouting_options.h"
#include "daemon/live_window.h"
#include "memory/result.h"
#include "models/generate.h"
#include "models/model.h"
#include "router/router.h"

namespace pointsman {

struct EngineOptions {
  uint32_t slots = 16;            // sequences that run at once
  uint32_t waiting = 64;          // that wait for a slot; more are refused (kBusy)
  uint32_t prefill_tokens = 256;  // rows of prompts in one forward pass
  int threads = 0;                // of LibTorch inside a step; 0 = one a core
};

// Online rerouting of one request (adapt/online_rerouting.h): at the prompt and every `interval` new tokens. While the
// kill switch is on nothing is learned.
struct RewireRequest {
  ReroutingOptions rerouting;
  int64_t interval = 128;
  bool recompute = false;     // keys and values of earlier text are computed anew with the new vectors
  SessionVectors start = {};  // empty: the binding's session, or zeros
};

struct LogProb {
  int32_t token = 0;
  float logprob = 0;
};

struct TokenOutput {
  int32_t token = -1;        // -1: only text that was held back
  std::string text;          // that became final with it: whole UTF-8 characters, see GenerateOptions::on_token
  float logprob = 0;         // of the model's (routed) distribution, before temperature and top_p
  std::vector<LogProb> top;  // best first, `top_logprobs` of them
  float gate = 0;            // G of the row that predicted it; 0 without a memory
  float confidence = 0;      // mean over layers of G * g
  std::vector<LayerSignal> layers = {};  // of the memory, ascending; empty without one
  std::vector<RowTrace> trace = {};      // with `explain`: one a layer of the memory or session; `row` is 0
};

struct CompletionTask {
  std::vector<int32_t> prompt;
  int64_t max_tokens = 64;
  double temperature = 0;
  double top_p = 1;
  uint64_t seed = 0;
  bool ignore_end = false;
  std::vector<std::string> stop = {};
  int top_logprobs = 0;  // 0..20
  bool explain = false;
  Binding binding = {};
  std::optional<RewireRequest> rewire = {};
  std::function<void(const TokenOutput&)> on_token = {};
  struct Done {
    Generation generation;
    SessionVectors vectors;  // with rewire: what was learned
    // Waiting for a slot; from there to the first token; from there to the end; learning, which is in neither of both.
    double queued_s = 0, prefill_s = 0, decode_s = 0, adapt_s = 0;
  };
  // Exactly once, last, for every task that Submit accepted. A cancelled one is a Generation, not an error. Errors:
  // kInternal (memory, or logits that are not finite).
  std::function<void(Result<Done>)> on_done = {};
};

// Feeds a session: learns vectors from a text without generating (POST /v1/sessions/{id}/context).
struct LearnTask {
  std::vector<int32_t> context;  // at least 2 tokens, at most the model's context
  Binding binding = {};          // its session vectors are where learning starts
  ReroutingOptions rerouting;
  struct Done {
    SessionVectors vectors;
    double loss_before = 0, loss_after = 0;  // nats per token of the context
    bool kept = true;                        // what the guard decided
    double seconds = 0;
  };
  std::function<void(Result<Done>)> on_done = {};  // as CompletionTask's, but cancelled before it began: kBusy
};

struct EngineStats {
  uint32_t running = 0, waiting = 0, slots = 0;
  uint64_t steps = 0;               // forward passes
  uint64_t prompt_tokens = 0;       // read, those that were read again for `recompute` included
  uint64_t generated_tokens = 0;    // delivered
  uint64_t adaptations = 0;         // of requests and of LearnTasks
  double busy_s = 0;                // of the compute thread
  double longest_adaptation_s = 0;  // what another request may have to wait
  double mean_batch = 0;            // rows a decoding step, over the last minute
  RouterCounters router;
};

class Engine {
 public:
  // kInvalidArgument: options out of range.
  static Result<std::unique_ptr<Engine>> Start(std::shared_ptr<const MoeModel> model, const EngineOptions& options);
  ~Engine();  // cancels what runs and waits

  // The id to cancel it with. Errors, before anything runs: kInvalidArgument (a request, memory or session that the
  // model cannot serve: names what), kBusy (no place to wait, or draining).
  Result<uint64_t> Submit(CompletionTask task);
  Result<uint64_t> Submit(LearnTask task);
  // Whether Submit would find a place now: kBusy, with the same words.
  Status Admits() const;
  // Ends the request after the current step, with FinishReason::kCancelled. Unknown and ended ids: nothing.
  void Cancel(uint64_t id);

  // No new tasks (kBusy) from now on; returns true when the last on_done has returned, false after `timeout_s`. Not to
  // be called in a callback.
  bool Drain(double timeout_s);

  // true: all routing off at once, from the current step's next layer on (Router::SetKillSwitch). Tokens are the frozen
  // model's, but for what earlier text left in the keys and values of running requests.
  void SetKillSwitch(bool off);
  EngineStats stats() const;
  const MoeModel& model() const;

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pointsman
