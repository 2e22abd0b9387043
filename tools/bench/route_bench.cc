#include "tools/bench/route_bench.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "memory/layer_index.h"
#include "models/families/olmoe.h"
#include "models/router_hook.h"
#include "tools/bench/bench_clock.h"
#include "tools/bench/random_memory.h"

namespace pointsman {
namespace {

constexpr double kTie = 1e-5;  // cosine; a query is rounded to 16 bits before it is compared

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// How many of `found` are among the k nearest stored keys of one query, in double precision.
uint64_t CountTrue(const KeyIndexView& keys, std::span<const float> hidden, std::span<const Neighbour> found) {
  std::vector<float> query(keys.dim);
  TransformQueries(keys, hidden, query);
  std::vector<double> cosines(keys.rows);
  for (uint64_t row = 0; row < keys.rows; ++row) {
    const int8_t* codes = keys.codes.data() + row * keys.dim;
    cosines[row] = std::inner_product(query.begin(), query.end(), codes, 0.0) * keys.code_scales[row];
  }
  std::vector<double> best = cosines;
  std::nth_element(best.begin(), best.begin() + static_cast<ptrdiff_t>(found.size()) - 1, best.end(), std::greater<>());
  const double least = best[found.size() - 1] - kTie;
  return std::count_if(found.begin(), found.end(), [&](const Neighbour& n) { return cosines[n.row] >= least; });
}

// Runs a router as the model's hook and adds up the time that it takes.
class TimedRouter : public RoutingHook {
 public:
  TimedRouter(std::shared_ptr<const RoutingTables> tables, int64_t context, BenchClock clock)
      : clock_(clock),
        tables_(std::move(tables)),
        slot_(router_.AddSlot({.tables = tables_, .session = nullptr})),
        hook_(router_) {
    // The sequence has a past that the router has not seen: its gate counts it as unknown text.
    std::vector<uint32_t> positions(context);
    std::iota(positions.begin(), positions.end(), 0u);
    past_ = router_.BeginStep(std::vector<uint32_t>(context, slot_), positions, {}).ok();
  }

  void BeginStep(const StepInfo& step) override {
    seconds_ = 0;
    const double started = clock_.Now();
    hook_.BeginStep(step);
    seconds_ += clock_.Now() - started;
  }

  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    const double started = clock_.Now();
    const at::Tensor changed = hook_.Route(layer, hidden, logits);
    seconds_ += clock_.Now() - started;
    if (checks_) Check(layer, hidden);
    return changed;
  }

  Status status() const override {
    if (!past_) return Error{ErrorCode::kInternal, "bench route: the router refused the context's positions"};
    return hook_.status();
  }
  uint32_t slot() const { return slot_; }
  double seconds() const { return seconds_; }  // of the last step

  // While on, every Route also searches by brute force, outside of the clock.
  void CheckRecall(bool on) {
    checks_ = on;
    hook_.CollectTrace(on);
  }
  double recall() const { return expected_ == 0 ? 0 : static_cast<double>(correct_) / static_cast<double>(expected_); }

 private:
  void Check(int layer, const at::Tensor& hidden) {
    for (const RowTrace& row : hook_.TakeTrace()) {
      correct_ += CountTrue(tables_->layers[layer].keys,
                            {hidden.const_data_ptr<float>(), static_cast<size_t>(hidden.numel())}, row.neighbours);
      expected_ += static_cast<uint64_t>(tables_->layers[layer].calibration.k);
    }
  }

  BenchClock clock_;
  std::shared_ptr<const RoutingTables> tables_;
  Router router_;
  uint32_t slot_;
  RouterHook hook_;
  bool past_ = false, checks_ = false;
  double seconds_ = 0;
  uint64_t correct_ = 0, expected_ = 0;
};

// Decodes one token after `context` random ones, again and again.
class Decoder {
 public:
  explicit Decoder(const RouteBenchSpec& spec)
      : spec_(spec),
        model_(OlmoeModel::CreateRandom(spec.shape, spec.seed)),
        cache_(model_->NewCache(1)),
        random_(spec.seed),
        clock_(spec.threads) {
    for (const auto* tensors : {&cache_.keys, &cache_.values}) {
      for (const at::Tensor& tensor : *tensors) tensor.narrow(2, 0, spec.context).normal_();
    }
  }

  // Seconds of one step; `router` may be null.
  double Step(TimedRouter* router) {
    c10::AutoGradMode no_grad(false);
    cache_.length = spec_.context;
    const at::Tensor id = at::full({1, 1}, static_cast<int64_t>(random_() % spec_.shape.vocab_size), at::kLong);
    MoeModel::ForwardOptions options{.hook = router, .slots = {}, .cache = &cache_, .last_only = true};
    if (router) options.slots = {router->slot()};
    const double started = clock_.Now();
    model_->Forward(id, options);
    return clock_.Now() - started;
  }

 private:
  const RouteBenchSpec& spec_;
  std::unique_ptr<OlmoeModel> model_;
  KvCache cache_;
  std::mt19937_64 random_;
  BenchClock clock_;
};

struct Contender {
  RouteBenchRun run;
  std::unique_ptr<TimedRouter> router;
  std::vector<double> route, mixed;
};

Contender MakeContender(const RouteBenchSpec& spec, MemoryKind kind) {
  const bool prototypes = kind == MemoryKind::kPrototypes;
  Contender contender;
  contender.run.index = prototypes ? "prototypes" : "exact";
  contender.run.rows = prototypes ? spec.prototypes : spec.entries;
  const auto tables = RandomMemory(spec.shape, {.kind = kind, .rows = contender.run.rows, .seed = spec.seed});
  for (const LayerView& layer : tables->layers) {
    contender.run.bytes += layer.keys.codes.size_bytes() + layer.keys.code_scales.size_bytes() +
                           layer.values.size_bytes() + layer.value_scales.size_bytes() +
                           layer.keys.projection.size_bytes() + layer.router_delta.size_bytes() +
                           layer.token_table.size_bytes();
  }
  contender.router = std::make_unique<TimedRouter>(tables, spec.context, BenchClock(spec.threads));
  return contender;
}

uint64_t DecodeBytes(const MoeConfig& c) {
  const int64_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  const int64_t attention = c.hidden_size * (2 * q + 2 * kv);
  const int64_t experts = c.experts_per_token * 3 * c.hidden_size * c.intermediate_size;
  const int64_t weights =
      c.num_layers * (attention + experts + c.num_experts * c.hidden_size) + c.vocab_size * c.hidden_size;
  return static_cast<uint64_t>(weights) * sizeof(float);
}

}  // namespace

MoeConfig BenchShape(const std::string& name) {
  MoeConfig c;
  c.model_type = "olmoe";
  if (name == "small") {
    c.vocab_size = 512, c.hidden_size = 96, c.intermediate_size = 48, c.num_layers = 3, c.num_heads = 4;
    c.num_experts = 16, c.experts_per_token = 4, c.max_positions = 256;
  } else {  // config.json of OLMoE-1B-7B-0924
    c.vocab_size = 50304, c.hidden_size = 2048, c.intermediate_size = 1024, c.num_layers = 16, c.num_heads = 16;
    c.num_experts = 64, c.experts_per_token = 8, c.max_positions = 4096;
  }
  c.num_kv_heads = c.num_heads;
  c.head_dim = c.hidden_size / c.num_heads;
  return c;
}

Result<RouteBenchReport> BenchRoute(const RouteBenchSpec& spec) {
  at::set_num_threads(spec.threads);
  at::manual_seed(spec.seed);
  Decoder decoder(spec);
  std::vector<Contender> contenders;
  for (const MemoryKind kind : {MemoryKind::kEntries, MemoryKind::kPrototypes}) {
    contenders.push_back(MakeContender(spec, kind));
  }
  for (Contender& contender : contenders) {  // the first pass of all: recall, and every page touched
    contender.router->CheckRecall(true);
    decoder.Step(contender.router.get());
    contender.router->CheckRecall(false);
    contender.run.recall = contender.router->recall();
  }
  std::vector<double> frozen;
  for (int round = 0; round < spec.rounds; ++round) {
    frozen.push_back(decoder.Step(nullptr));
    for (Contender& contender : contenders) {
      contender.mixed.push_back(decoder.Step(contender.router.get()));
      contender.route.push_back(contender.router->seconds());
    }
  }
  RouteBenchReport report;
  report.decode_bytes = DecodeBytes(spec.shape);
  for (Contender& contender : contenders) {
    POINTSMAN_CHECK_OK(contender.router->status());
    contender.run.route_s = Median(contender.route);
    contender.run.decode_s = Median(frozen);
    contender.run.mixed_s = Median(contender.mixed);
    report.runs.push_back(contender.run);
  }
  return report;
}

}  // namespace pointsman
