// The example: continues a prompt with llama.cpp, routed by a memory.
//
//   pointsman_llama --model olmoe.gguf --memory memory/ --prompt "Once upon a time"
//
// Flags = environment: POINTSMAN_MEMORY, POINTSMAN_STRENGTH, POINTSMAN_SHADOW=1, POINTSMAN_DISABLE=1.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hosts/llamacpp/gguf_identity.h"
#include "hosts/llamacpp/llama_handles.h"
#include "hosts/llamacpp/llama_routing.h"

namespace pointsman {
namespace {

struct Settings {
  std::string model, memory, prompt;
  float strength = 1.0f;
  bool shadow = false, disable = false, allow_rejected = false, json = false;
  int32_t max_tokens = 64, threads = 0;
  uint32_t context = 0;
};

std::vector<int32_t> Tokenize(const llama_vocab* vocab, const std::string& text) {
  std::vector<int32_t> tokens(text.size() + 2);
  const int32_t count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                                       static_cast<int32_t>(tokens.size()), /*add_special=*/true,
                                       /*parse_special=*/true);
  tokens.resize(static_cast<size_t>(std::max(count, 0)));
  return tokens;
}

std::string Piece(const llama_vocab* vocab, int32_t token) {
  char text[256];
  const int32_t length = llama_token_to_piece(vocab, token, text, sizeof(text), 0, /*special=*/true);
  return std::string(text, static_cast<size_t>(std::max(length, 0)));
}

Result<nlohmann::json> Generate(const Settings& settings) {
  POINTSMAN_TRY(const LlamaModel model, LoadLlama(settings.model));
  POINTSMAN_TRY(const auto routing, LlamaRouting::Create(model.get()));
  llama_context_params params = llama_context_default_params();
  params.n_ctx = settings.context;  // 0: the model's
  if (settings.threads > 0) params.n_threads = params.n_threads_batch = settings.threads;
  POINTSMAN_CHECK_OK(routing->Install(params));
  POINTSMAN_TRY(const LlamaContext context, MakeContext(model.get(), params));
  if (!settings.memory.empty()) {
    POINTSMAN_TRY(const GgufMemory memory,
                  OpenMemoryFor(settings.model, settings.memory, {.allow_rejected = settings.allow_rejected}));
    for (const std::string& warning : memory.warnings) std::fprintf(stderr, "pointsman_llama: %s\n", warning.c_str());
    POINTSMAN_CHECK_OK(routing->Bind(
        0, {.tables = memory.tables, .session = nullptr, .strength = settings.strength, .shadow = settings.shadow}));
  }
  routing->SetKillSwitch(settings.disable);

  const llama_vocab* vocab = llama_model_get_vocab(model.get());
  const std::vector<int32_t> prompt = Tokenize(vocab, settings.prompt);
  if (prompt.empty()) return Error{ErrorCode::kInvalidArgument, "--prompt: there is no text to go on from"};
  std::vector<int32_t> generated, fed = prompt;
  std::string text;
  for (uint32_t position = 0; static_cast<int32_t>(generated.size()) < settings.max_tokens;) {
    const SequenceBatch batch(fed, position, /*all_outputs=*/false);
    POINTSMAN_TRY(const int32_t code, routing->Decode(context.get(), batch.get()));
    if (code != 0) return Error{ErrorCode::kInternal, "llama_decode failed; give a larger --context"};
    position += static_cast<uint32_t>(fed.size());
    const float* logits = llama_get_logits_ith(context.get(), -1);
    const auto token = static_cast<int32_t>(std::max_element(logits, logits + llama_vocab_n_tokens(vocab)) - logits);
    if (llama_vocab_is_eog(vocab, token) || position >= llama_n_ctx(context.get())) break;
    generated.push_back(token);
    text += Piece(vocab, token);
    fed = {token};
  }
  const RouterCounters counts = routing->router_counters();
  const LlamaCounters calls = routing->counters();
  return nlohmann::json{{"text", text},
                        {"tokens", generated},
                        {"prompt_tokens", prompt},
                        {"gate", routing->GateHistory(0)},
                        {"rows", counts.rows},
                        {"written", counts.written},
                        {"layer_calls", calls.layer_calls},
                        {"routing_seconds", calls.seconds}};
}

int Main(int argc, char** argv) {
  Settings settings;
  CLI::App app{"Continues a prompt with llama.cpp, routed by a Pointsman memory"};
  app.add_option("--model", settings.model, "a GGUF file")->required()->check(CLI::ExistingFile);
  app.add_option("--memory", settings.memory, "a memory that was built for this model")->envname("POINTSMAN_MEMORY");
  app.add_option("--prompt", settings.prompt, "the text to go on from")->required();
  app.add_option("--max-tokens", settings.max_tokens, "tokens to generate, greedily");
  app.add_option("--strength", settings.strength, "0..1, scales the memory's change")->envname("POINTSMAN_STRENGTH");
  app.add_flag("--shadow", settings.shadow, "compute and count, write nothing")->envname("POINTSMAN_SHADOW");
  app.add_flag("--disable", settings.disable, "the kill switch: no logits change")->envname("POINTSMAN_DISABLE");
  app.add_flag("--allow-rejected", settings.allow_rejected, "use a memory whose verdict is reject");
  app.add_option("--context", settings.context, "positions, 0: the model's");
  app.add_option("--threads", settings.threads, "of llama.cpp, 0: its default");
  app.add_flag("--json", settings.json, "print tokens, gates and counters");
  CLI11_PARSE(app, argc, argv);
  QuietLlama();
  const auto result = Generate(settings);
  if (!result.ok()) {
    std::fprintf(stderr, "pointsman_llama: %s\n", result.error().message.c_str());
    return 1;
  }
  if (settings.json) {
    std::printf("%s\n", result.value().dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    std::printf("%s%s\n", settings.prompt.c_str(), result.value()["text"].get<std::string>().c_str());
  }
  return 0;
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) { return pointsman::Main(argc, argv); }
