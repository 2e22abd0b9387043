// pointsman_engine_study: what the daemon's engine makes of many clients at once, without HTTP.
//
//   build/release/pointsman_engine_study --model models/reference --memory MEM --threads 1
//
// Prints one JSON line: tokens/s by number of clients, and what one request costs more than Generate.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "daemon/engine/engine_bench.h"
#include "memory/memory.h"

namespace pointsman {
namespace {

// Read in parts, one a client, so that clients differ.
constexpr std::string_view kText =
    "template <typename T> class Queue { public: void Push(T value) { items_.push_back(std::move(value)); } T Pop(); "
    "bool empty() const { return items_.empty(); } private: std::deque<T> items_; }; // The router of a mixture of "
    "experts chooses which of them process a token. A memory keeps what made the right next token likelier. int "
    "main(int argc, char** argv) { if (argc < 2) { std::cerr << \"usage: \" << argv[0] << \" FILE\\n\"; return 2; } "
    "SELECT name, count(*) FROM orders JOIN customers USING (id) WHERE placed > now() - interval '1 day' GROUP BY 1;";

struct Arguments {
  std::filesystem::path model, memory;
  EngineBenchSpec spec;
  size_t prompt_tokens = 32;
};

Result<nlohmann::json> Run(Arguments arguments) {
  POINTSMAN_TRY(std::unique_ptr<MoeModel> loaded, MoeModel::Load(arguments.model));
  const std::shared_ptr<const MoeModel> model = std::move(loaded);
  std::vector<int32_t> text = model->tokenizer().Encode(kText);
  for (size_t i = 0; i < 16; ++i) {
    std::rotate(text.begin(), text.begin() + 11, text.end());
    arguments.spec.prompts.emplace_back(text.begin(), text.begin() + std::min(text.size(), arguments.prompt_tokens));
  }
  if (!arguments.memory.empty()) {
    POINTSMAN_TRY(std::shared_ptr<const Memory> memory, Memory::Open(arguments.memory, {}));
    POINTSMAN_CHECK_OK(memory->CheckFingerprint(model->fingerprint()));
    arguments.spec.tables = std::shared_ptr<const RoutingTables>(memory, &memory->tables());
  }
  POINTSMAN_TRY(const EngineBenchReport report, BenchEngine(model, arguments.spec));
  nlohmann::json runs = nlohmann::json::array();
  for (const EngineBenchRun& run : report.runs) {
    runs.push_back({{"clients", run.clients}, {"tokens_per_s", run.tokens_per_s}, {"seconds", run.seconds}});
  }
  return nlohmann::json{{"threads", arguments.spec.threads},
                        {"memory", arguments.memory.string()},
                        {"runs", runs},
                        {"generate_s", report.generate_s},
                        {"overhead", report.overhead}};
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) {
  using namespace pointsman;  // NOLINT(google-build-using-namespace): a program, not a header
  TuneRuntime();
  Arguments arguments;
  CLI::App app("The engine's speed by number of clients");
  app.add_option("--model", arguments.model)->required();
  app.add_option("--memory", arguments.memory);
  app.add_option("--threads", arguments.spec.threads);
  app.add_option("--rounds", arguments.spec.rounds);
  app.add_option("--clients", arguments.spec.clients)->delimiter(',');
  app.add_option("--prompt-tokens", arguments.prompt_tokens);
  app.add_option("--new-tokens", arguments.spec.new_tokens);
  CLI11_PARSE(app, argc, argv);
  const Result<nlohmann::json> result = Run(std::move(arguments));
  if (!result.ok()) {
    fmt::print(stderr, "{}\n", result.error().message);
    return 1;
  }
  fmt::print("{}\n", result.value().dump());
  return 0;
}
