// What a memory costs in llama.cpp, by part:   pointsman_llama_bench --model GGUF [--memory MEM | --entries N]
//
//   plain      no callback
//   idle       callback installed, nothing bound: llama.cpp asks once a tensor
//   attached   bound to nothing: the graph stops at each router, rows are read, no search
//   memory     the memory given, or N random entries a layer, 64 dimensions, without a gate: every row is searched
//
// The rounds of the variants take turns; medians. JSON on stdout.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "hosts/llamacpp/gguf_identity.h"
#include "hosts/llamacpp/llama_handles.h"
#include "hosts/llamacpp/llama_routing.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {
namespace {

constexpr std::array<const char*, 4> kVariants = {"plain", "idle", "attached", "memory"};
constexpr uint32_t kDimensions = 64;  // of keys, as builds have it

struct Settings {
  std::string model, memory;
  uint32_t entries = 100000;
  int32_t prompt = 128, decode = 32, rounds = 5, threads = 1;
};

struct Times {
  double prefill_s = 0, decode_s = 0;  // of all tokens
};

// Random codes and values: the scan's time does not depend on them.
std::shared_ptr<const RoutingTables> RandomTables(const GgufIdentity& model, const std::vector<int32_t>& layers,
                                                  uint32_t entries) {
  std::mt19937 random(1);
  const auto fill = [&](auto& out, size_t count, auto value) {
    out.resize(count);
    for (auto& element : out) element = value();
  };
  const auto byte = [&] { return static_cast<int8_t>(random() % 255 - 127); };
  const auto small = [&] { return (static_cast<float>(random() % 2001) - 1000) / 1e4f; };
  OwnedTables tables;
  tables.top_k = 1;
  for (const int32_t index : layers) {
    OwnedLayer layer;
    layer.layer = index;
    layer.experts = static_cast<uint32_t>(model.experts);
    layer.keys.hidden = static_cast<uint32_t>(model.hidden);
    layer.keys.dim = kDimensions;
    fill(layer.keys.mean, layer.keys.hidden, small);
    fill(layer.keys.projection, size_t{kDimensions} * layer.keys.hidden, small);
    fill(layer.keys.codes, size_t{entries} * kDimensions, byte);
    layer.keys.code_scales.assign(entries, 1.0f / 600);
    fill(layer.values, size_t{entries} * layer.experts, byte);
    layer.value_scales.assign(entries, 1e-3f);
    tables.layers.push_back(std::move(layer));
  }
  return MakeTables(std::move(tables));
}

class Variant {
 public:
  Status Open(llama_model* model, const Settings& settings, size_t kind, const Binding* binding) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(settings.prompt + settings.decode);
    params.n_batch = params.n_ubatch = static_cast<uint32_t>(std::max(settings.prompt, 32));
    params.n_threads = params.n_threads_batch = settings.threads;
    if (kind > 0) {
      POINTSMAN_TRY(routing_, LlamaRouting::Create(model));
      POINTSMAN_CHECK_OK(routing_->Install(params));
    }
    POINTSMAN_TRY(context_, MakeContext(model, params));
    if (binding != nullptr) binding_ = *binding;
    bound_ = binding != nullptr;
    return {};
  }

  Result<Times> Round(const std::vector<int32_t>& tokens, size_t prompt) {
    llama_memory_clear(llama_get_memory(context_.get()), true);
    if (bound_) POINTSMAN_CHECK_OK(routing_->Bind(0, binding_));
    Times times;
    POINTSMAN_TRY(times.prefill_s, Feed(std::span(tokens).first(prompt), 0));
    for (size_t i = prompt; i < tokens.size(); ++i) {
      POINTSMAN_TRY(const double seconds, Feed(std::span(tokens).subspan(i, 1), static_cast<uint32_t>(i)));
      times.decode_s += seconds;
    }
    return times;
  }

  LlamaCounters counters() const { return routing_ == nullptr ? LlamaCounters() : routing_->counters(); }

 private:
  Result<double> Feed(std::span<const int32_t> tokens, uint32_t first) {
    const SequenceBatch batch(tokens, first, /*all_outputs=*/false);
    const auto start = std::chrono::steady_clock::now();
    int32_t code = 0;
    if (routing_ == nullptr) {
      code = llama_decode(context_.get(), batch.get());
    } else {
      POINTSMAN_TRY(code, routing_->Decode(context_.get(), batch.get()));
    }
    llama_synchronize(context_.get());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (code != 0) return Error{ErrorCode::kInternal, "llama_decode gave " + std::to_string(code)};
    return seconds;
  }

  std::unique_ptr<LlamaRouting> routing_;
  LlamaContext context_{nullptr, &llama_free};
  Binding binding_;
  bool bound_ = false;
};

double Median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

Result<nlohmann::json> Measure(const Settings& settings) {
  POINTSMAN_TRY(const GgufIdentity identity, ReadGgufIdentity(settings.model));
  POINTSMAN_TRY(const LlamaModel model, LoadLlama(settings.model));
  POINTSMAN_TRY(const auto layers_of, LlamaRouting::Create(model.get()));
  Binding memory;
  if (settings.memory.empty()) {
    memory.tables = RandomTables(identity, layers_of->layers(), settings.entries);
  } else {
    POINTSMAN_TRY(const GgufMemory opened, OpenMemoryFor(settings.model, settings.memory, {.allow_rejected = true}));
    memory.tables = opened.tables;
  }
  const Binding nothing;
  const std::array<const Binding*, kVariants.size()> bindings = {nullptr, nullptr, &nothing, &memory};
  std::array<Variant, kVariants.size()> variants;
  for (size_t i = 0; i < variants.size(); ++i) {
    POINTSMAN_CHECK_OK(variants[i].Open(model.get(), settings, i, bindings[i]));
  }
  std::vector<int32_t> tokens(static_cast<size_t>(settings.prompt + settings.decode));
  std::mt19937 random(2);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint32_t>(identity.vocabulary));
  std::array<std::vector<double>, kVariants.size()> prefill, decode;
  for (int32_t round = -1; round < settings.rounds; ++round) {  // the first one warms up
    for (size_t i = 0; i < variants.size(); ++i) {
      POINTSMAN_TRY(const Times times, variants[i].Round(tokens, static_cast<size_t>(settings.prompt)));
      if (round < 0) continue;
      prefill[i].push_back(times.prefill_s);
      decode[i].push_back(times.decode_s);
    }
  }
  const auto layers = static_cast<double>(layers_of->layers().size());
  nlohmann::json runs = nlohmann::json::array();
  for (size_t i = 0; i < variants.size(); ++i) {
    const double prefill_s = Median(prefill[i]), decode_s = Median(decode[i]);
    const double step_us = (decode_s - Median(decode[0])) / settings.decode * 1e6;
    runs.push_back({{"variant", kVariants[i]},
                    {"prefill_tokens_per_s", settings.prompt / prefill_s},
                    {"decode_tokens_per_s", settings.decode / decode_s},
                    {"prefill_overhead", prefill_s / Median(prefill[0]) - 1},
                    {"decode_overhead", decode_s / Median(decode[0]) - 1},
                    {"decode_us_per_layer", step_us / layers}});
  }
  return nlohmann::json{{"host", "llama.cpp"},
                        {"layers", layers_of->layers().size()},
                        {"hidden", identity.hidden},
                        {"experts", identity.experts},
                        {"entries_per_layer", memory.tables->layers.empty() ? 0 : memory.tables->layers[0].keys.rows},
                        {"threads", settings.threads},
                        {"prompt", settings.prompt},
                        {"runs", runs}};
}

int Main(int argc, char** argv) {
  Settings settings;
  CLI::App app{"What a memory costs in llama.cpp"};
  app.add_option("--model", settings.model, "a GGUF file")->required()->check(CLI::ExistingFile);
  app.add_option("--memory", settings.memory, "a memory (default: random entries)");
  app.add_option("--entries", settings.entries, "random entries a layer");
  app.add_option("--prompt", settings.prompt, "tokens of the prefill")->check(CLI::PositiveNumber);
  app.add_option("--decode", settings.decode, "tokens decoded one by one")->check(CLI::PositiveNumber);
  app.add_option("--rounds", settings.rounds, "of each variant")->check(CLI::PositiveNumber);
  app.add_option("--threads", settings.threads, "of llama.cpp")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  QuietLlama();
  const auto result = Measure(settings);
  if (!result.ok()) {
    std::fprintf(stderr, "pointsman_llama_bench: %s\n", result.error().message.c_str());
    return 1;
  }
  std::printf("%s\n", result.value().dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) { return pointsman::Main(argc, argv); }
