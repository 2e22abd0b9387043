#include "daemon/engine/completion.h"

#include <algorithm>
#include <utility>

#include "memory/stopwatch.h"
#include "models/experts.h"
#include "models/row_sources.h"

namespace pointsman {
namespace {

OnlineReroutingOptions ReroutingOf(const CompletionTask& task) {
  OnlineReroutingOptions options{.rerouting = task.rewire->rerouting,
                                 .start = task.rewire->start,
                                 .recompute = task.rewire->recompute,
                                 // The prompt is read with everybody else's rows: an adaptation is learning alone.
                                 .fill_cache = false};
  if (options.start.by_layer.empty() && task.binding.session) options.start = *task.binding.session;
  return options;
}

// The `count` likeliest tokens, best first, ties by id.
std::vector<LogProb> TopTokens(std::span<const float> logprobs, int count) {
  std::vector<int32_t> ids(std::min<size_t>(count, logprobs.size()));
  if (!ids.empty()) SelectTopK(logprobs, ids);
  std::vector<LogProb> top;
  for (const int32_t id : ids) top.push_back({id, logprobs[id]});
  return top;
}

// Of the memory's layers; a session's own are left out.
std::vector<LayerSignal> SignalsOf(std::span<const RowTrace> trace, const RoutingTables* tables, int64_t top_k) {
  std::vector<LayerSignal> signals;
  if (tables == nullptr) return signals;
  for (const RowTrace& row : trace) {
    if (row.neighbours.empty()) continue;
    const auto after = TopExperts(row.logits_after, top_k);
    signals.push_back({.layer = row.layer,
                       .weight = row.gate * row.confidence,
                       .similarity = row.neighbours.front().similarity,
                       .changed = !Without(TopExperts(row.logits_before, top_k), after).empty()});
  }
  return signals;
}

// Mean over the memory's layers of G * g.
float ConfidenceOf(std::span<const LayerSignal> signals, const RoutingTables* tables) {
  if (tables == nullptr || tables->layers.empty()) return 0;
  float sum = 0;
  for (const LayerSignal& signal : signals) sum += signal.weight;
  return sum / static_cast<float>(tables->layers.size());
}

double Seconds(Completion::Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

GenerateOptions OptionsOf(const CompletionTask& task) {
  GenerateOptions options;
  options.max_tokens = task.max_tokens;
  options.temperature = task.temperature;
  options.top_p = task.top_p;
  options.seed = task.seed;
  options.ignore_end = task.ignore_end;
  options.stop = task.stop;
  if (task.rewire) options.context_interval = task.rewire->interval;
  return options;
}

Completion::Completion(Compute& compute, uint64_t id, CompletionTask task, Clock::time_point submitted)
    : compute_(compute),
      id_(id),
      task_(std::move(task)),
      context_(task_.prompt),
      cache_(compute.model.NewCache(1)),
      text_(compute.model, OptionsOf(task_)),
      started_(Clock::now()) {
  done_.queued_s = Seconds(started_ - submitted);
  if (!task_.binding.tables && !task_.binding.session && !task_.rewire) return;
  slot_ = compute_.router.AddSlot(task_.binding);
  if (task_.rewire) rerouting_.emplace(compute_.model, compute_.router, compute_.hook, slot_, ReroutingOf(task_));
}

Completion::~Completion() {
  if (slot_ != 0) compute_.router.ReleaseSlot(slot_);
}

bool Completion::WantsAdaptation() const {
  const auto said = static_cast<int64_t>(text_.tokens().size());
  // The text is all there: nothing read of the prompt yet, or all but the newest token.
  const bool between = said == 0 ? cache_.length == 0 : unread() == 1;
  return rerouting_ && !ended() && between && said % task_.rewire->interval == 0 && said != adapted_at_;
}

Status Completion::Adapt() {
  const auto begun = Clock::now();
  adapted_at_ = static_cast<int64_t>(text_.tokens().size());
  POINTSMAN_CHECK_OK(rerouting_->OnContext(context_, cache_));
  if (task_.rewire->recompute) cache_.length = 0;
  done_.adapt_s += SecondsSince(begun);
  if (text_.tokens().empty()) prompt_adapt_s_ = done_.adapt_s;
  return {};
}

MoeModel::RowSegment Completion::Next(int64_t rows) {
  const std::span<const int32_t> rest = std::span(context_).subspan(cache_.length);
  return {.tokens = rest.first(rows),
          .cache = &cache_,
          .slot = slot_,
          .wants_logits = rows == static_cast<int64_t>(rest.size())};
}

Status Completion::Accept(PassResult result) {
  POINTSMAN_CHECK_OK(result.status);
  if (!result.logits.defined()) return {};
  const auto vocabulary = static_cast<size_t>(compute_.model.config().vocab_size);
  const int32_t token = text_.Take(std::span(result.logits.const_data_ptr<float>(), vocabulary));
  if (text_.tokens().size() <= 1) first_token_ = Clock::now();
  if (token < 0) return {};
  context_.push_back(token);
  // No position is left for the token itself.
  if (static_cast<int64_t>(context_.size()) > compute_.model.config().max_positions) text_.End(FinishReason::kLength);
  Deliver(token, result);
  return {};
}

void Completion::Deliver(int32_t token, PassResult& result) {
  if (!task_.on_token) return;
  const std::span logprobs(result.logprobs.const_data_ptr<float>(), result.logprobs.numel());
  TokenOutput output;
  output.token = token;
  output.text = text_.Release();
  output.logprob = logprobs[token];
  output.top = TopTokens(logprobs, task_.top_logprobs);
  output.gate = result.gate;
  output.layers = SignalsOf(result.trace, task_.binding.tables.get(), compute_.model.config().experts_per_token);
  output.confidence = ConfidenceOf(output.layers, task_.binding.tables.get());
  if (task_.explain) output.trace = std::move(result.trace);
  task_.on_token(output);
}

void Completion::Report() {
  Result<CompletionTask::Done> done = failure_ ? Result<CompletionTask::Done>(*failure_) : Finish();
  if (task_.on_done) task_.on_done(std::move(done));
}

CompletionTask::Done Completion::Finish() {
  const auto now = Clock::now();
  const auto first = first_token_ == Clock::time_point() ? now : first_token_;
  done_.prefill_s = Seconds(first - started_) - prompt_adapt_s_;
  done_.decode_s = Seconds(now - first) - (done_.adapt_s - prompt_adapt_s_);
  if (task_.on_token && !cancelled_) {
    TokenOutput rest;
    rest.text = text_.ReleaseRest();
    if (!rest.text.empty()) task_.on_token(rest);
  }
  done_.generation = text_.Finish();
  if (rerouting_) done_.vectors = rerouting_->vectors();
  return std::move(done_);
}

}  // namespace pointsman
