// One request on its way: what it has read, what it has said, what it wants next. Compute thread.
//
// Its text is the prompt and the tokens so far; its cache says how much of it the model has read. The rest is what it
// wants to read: a prompt at first, then one token at a time, and everything again after a rerouting with `recompute`.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "adapt/online_rerouting.h"
#include "daemon/engine/compute.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/shared_pass.h"
#include "models/generated_text.h"

namespace pointsman {

class Completion {
 public:
  using Clock = std::chrono::steady_clock;

  // Takes a router slot where the task has a memory, a session or rewire. Throws what LibTorch throws when there is no
  // memory for a cache. REQUIRES: CheckTask accepted the task.
  Completion(Compute& compute, uint64_t id, CompletionTask task, Clock::time_point submitted);
  ~Completion();
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  uint64_t id() const { return id_; }
  bool ended() const { return text_.ended(); }
  bool decoding() const { return !text_.tokens().empty(); }
  size_t said() const { return text_.tokens().size(); }
  // It has to learn before it reads on.
  bool WantsAdaptation() const;
  // Learns from its text, or leaves it at that. Errors: the router's. Throws as the constructor.
  Status Adapt();
  void SkipAdaptation() { adapted_at_ = text_.tokens().size(); }

  // Tokens to read before the next one can be said; 1 while decoding. REQUIRES: not ended.
  int64_t unread() const { return static_cast<int64_t>(context_.size()) - cache_.length; }
  MoeModel::RowSegment Next(int64_t rows);
  bool wants_trace() const { return task_.explain || task_.binding.tables != nullptr; }

  // What the pass over its segment gave. Delivers a token where there is one.
  Status Accept(PassResult result);

  void Cancel() {
    cancelled_ = true;
    text_.End(FinishReason::kCancelled);
  }
  void Fail(Error error) {
    Cancel();
    failure_ = std::move(error);
  }
  // Delivers the text that was held back, unless it was cancelled or failed, and tells on_done. Last.
  void Report();

 private:
  void Deliver(int32_t token, PassResult& result);
  CompletionTask::Done Finish();

  Compute& compute_;
  uint64_t id_;
  CompletionTask task_;
  uint32_t slot_ = 0;
  std::vector<int32_t> context_;
  KvCache cache_;
  GeneratedText text_;
  std::optional<OnlineRerouting> rerouting_;
  bool cancelled_ = false;
  std::optional<Error> failure_;
  int64_t adapted_at_ = -1;  // tokens that there were when it last learned
  Clock::time_point started_, first_token_ = {};
  CompletionTask::Done done_;
  double prompt_adapt_s_ = 0;  // of done_.adapt_s, before the first token
};

// The request's part of GenerateOptions.
GenerateOptions OptionsOf(const CompletionTask& task);

}  // namespace pointsman
