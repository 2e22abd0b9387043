// The llama.cpp side of tests/test_llamacpp.py: reads token ids, writes raw fp32 logits, prints greedy continuations.
//
//   pointsman_llama_probe GGUF IDS LOGITS [--plain | --memory MEM | --session FILE] [--greedy N] [--batch N]
//                         [--half-cache]
//
// IDS: text, one sequence of ids a line, each decoded alone. LOGITS: for each line [T, V] fp32. --plain: no callback.
// --session: raw fp32 [L, E], one vector a MoE layer. --batch: tokens of one llama_decode and micro-batch.
// The cache of keys and values is fp32, as our runtime's; --half-cache: llama.cpp's default, fp16.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "hosts/llamacpp/gguf_identity.h"
#include "hosts/llamacpp/llama_handles.h"
#include "hosts/llamacpp/llama_routing.h"

namespace pointsman {
namespace {

struct Settings {
  std::string model, ids, logits, memory, session;
  bool plain = false, shadow = false, half_cache = false;
  float strength = 1;
  size_t greedy = 0;
  uint32_t batch = 512;
};

std::vector<std::vector<int32_t>> ReadSequences(const std::string& path) {
  std::vector<std::vector<int32_t>> sequences;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    sequences.emplace_back(std::istream_iterator<int32_t>(words), std::istream_iterator<int32_t>());
  }
  return sequences;
}

std::shared_ptr<const SessionVectors> ReadSession(const std::string& path, const std::vector<int32_t>& layers) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const size_t experts = bytes.size() / sizeof(float) / layers.size();
  auto session = std::make_shared<SessionVectors>();
  session->by_layer.resize(static_cast<size_t>(layers.back()) + 1);
  const auto* values = reinterpret_cast<const float*>(bytes.data());
  for (size_t i = 0; i < layers.size(); ++i) {
    session->by_layer[static_cast<size_t>(layers[i])].assign(values + i * experts, values + (i + 1) * experts);
  }
  return session;
}

class Probe {
 public:
  static Result<Probe> Make(const Settings& settings) {
    POINTSMAN_TRY(LlamaModel model, LoadLlama(settings.model));
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 0;
    params.n_batch = params.n_ubatch = settings.batch;
    params.n_threads = params.n_threads_batch = 1;
    if (!settings.half_cache) UseExactCache(params);
    std::unique_ptr<LlamaRouting> routing;
    if (!settings.plain) {
      POINTSMAN_TRY(routing, LlamaRouting::Create(model.get()));
      POINTSMAN_CHECK_OK(routing->Install(params));
    }
    POINTSMAN_TRY(LlamaContext context, MakeContext(model.get(), params));
    Binding binding{.tables = nullptr, .session = nullptr, .strength = settings.strength, .shadow = settings.shadow};
    if (!settings.memory.empty()) {
      POINTSMAN_TRY(GgufMemory memory, OpenMemoryFor(settings.model, settings.memory, {.allow_rejected = true}));
      binding.tables = memory.tables;
    }
    if (!settings.session.empty()) binding.session = ReadSession(settings.session, routing->layers());
    return Probe(settings, std::move(model), std::move(routing), std::move(context), std::move(binding));
  }

  // Appends the logits of every row to `out`, if there is one, and returns the best next token.
  Result<int32_t> Feed(const std::vector<int32_t>& tokens, std::ostream* out) {
    const int32_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model_.get()));
    int32_t best = -1;
    for (size_t start = 0; start < tokens.size(); start += settings_.batch) {
      const auto part = std::span(tokens).subspan(start, std::min<size_t>(settings_.batch, tokens.size() - start));
      const SequenceBatch batch(part, position_, /*all_outputs=*/out != nullptr);
      int32_t code = 0;
      if (routing_ == nullptr) {
        code = llama_decode(context_.get(), batch.get());
      } else {
        POINTSMAN_TRY(code, routing_->Decode(context_.get(), batch.get()));
      }
      if (code != 0) return Error{ErrorCode::kInternal, "llama_decode gave " + std::to_string(code)};
      position_ += static_cast<uint32_t>(part.size());
      for (size_t row = 0; out != nullptr && row < part.size(); ++row) {
        const float* logits = llama_get_logits_ith(context_.get(), static_cast<int32_t>(row));
        out->write(reinterpret_cast<const char*>(logits), static_cast<std::streamsize>(sizeof(float)) * vocabulary);
      }
      const float* logits = llama_get_logits_ith(context_.get(), static_cast<int32_t>(part.size()) - 1);
      best = static_cast<int32_t>(std::max_element(logits, logits + vocabulary) - logits);
    }
    return best;
  }

  Result<std::vector<int32_t>> Greedy(const std::vector<int32_t>& prompt) {
    POINTSMAN_TRY(int32_t token, Feed(prompt, nullptr));
    std::vector<int32_t> tokens;
    const llama_vocab* vocab = llama_model_get_vocab(model_.get());
    while (!llama_vocab_is_eog(vocab, token)) {
      tokens.push_back(token);
      if (tokens.size() == settings_.greedy) break;
      POINTSMAN_TRY(token, Feed({token}, nullptr));
    }
    return tokens;
  }

  // The next sequence begins at position 0, its gate too.
  Status Restart() {
    llama_memory_clear(llama_get_memory(context_.get()), true);
    position_ = 0;
    if (routing_ != nullptr && (binding_.tables || binding_.session)) return routing_->Bind(0, binding_);
    return {};
  }

 private:
  Probe(Settings settings, LlamaModel model, std::unique_ptr<LlamaRouting> routing, LlamaContext context,
        Binding binding)
      : settings_(std::move(settings)),
        model_(std::move(model)),
        routing_(std::move(routing)),
        context_(std::move(context)),
        binding_(std::move(binding)) {}

  Settings settings_;
  LlamaModel model_;
  std::unique_ptr<LlamaRouting> routing_;
  LlamaContext context_;
  Binding binding_;
  uint32_t position_ = 0;
};

Status Run(const Settings& settings) {
  POINTSMAN_TRY(Probe probe, Probe::Make(settings));
  std::ofstream out(settings.logits, std::ios::binary);
  for (const std::vector<int32_t>& sequence : ReadSequences(settings.ids)) {
    POINTSMAN_CHECK_OK(probe.Restart());
    POINTSMAN_TRY([[maybe_unused]] const int32_t best, probe.Feed(sequence, &out));
    if (settings.greedy == 0) continue;
    POINTSMAN_CHECK_OK(probe.Restart());
    POINTSMAN_TRY(const std::vector<int32_t> tokens, probe.Greedy(sequence));
    for (const int32_t token : tokens) std::printf("%d ", token);
    std::printf("\n");
  }
  out.close();
  return out ? Status() : Status(Error{ErrorCode::kIo, settings.logits + ": could not be written"});
}

int Main(int argc, char** argv) {
  Settings settings;
  CLI::App app{"Logits and greedy tokens of llama.cpp with and without a memory"};
  app.add_option("model", settings.model, "a GGUF file")->required();
  app.add_option("ids", settings.ids, "a sequence of token ids a line")->required();
  app.add_option("logits", settings.logits, "the file to write")->required();
  app.add_flag("--plain", settings.plain, "without a callback");
  app.add_option("--memory", settings.memory, "a memory");
  app.add_option("--session", settings.session, "raw fp32 [L, E]");
  app.add_option("--strength", settings.strength, "0..1");
  app.add_flag("--shadow", settings.shadow, "compute and write nothing");
  app.add_option("--greedy", settings.greedy, "tokens");
  app.add_flag("--half-cache", settings.half_cache, "keys and values in fp16");
  app.add_option("--batch", settings.batch, "tokens of one llama_decode");
  CLI11_PARSE(app, argc, argv);
  QuietLlama();
  const Status status = Run(settings);
  if (status.ok()) return 0;
  std::fprintf(stderr, "pointsman_llama_probe: %s\n", status.error().message.c_str());
  return 1;
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) { return pointsman::Main(argc, argv); }
