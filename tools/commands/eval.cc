// pointsman eval and probe: the verdict on a memory, and the headroom before there is one.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "indexer/builder.h"
#include "memory/file_layer.h"
#include "tools/command.h"
#include "tools/corpus_settings.h"
#include "tools/rewire_settings.h"

namespace pointsman {
namespace {

constexpr int kRequirementNotMet = 3;

Status CheckVariants(const std::vector<std::string>& names) {
  std::vector<std::string> known = VariantNames();
  known.emplace_back("all");
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--variants: '{}' is not in this version; use {}", name, fmt::join(known, ", "))};
  }
  return {};
}

}  // namespace

Result<Output> RunEval(const Settings& settings) {
  EvalOptions options;
  options.data = CorpusOptionsOf(settings);
  options.memory = settings.Path("memory");
  options.test_corpus = settings.Texts("test-corpus");
  options.variants = settings.Texts("variants");
  options.min_gain = settings.Real("min-gain");
  options.damage_bound = settings.Real("damage-bound");
  POINTSMAN_TRY(options.rerouting, ReroutingOptionsOf(settings));
  options.rewire_interval = static_cast<uint32_t>(settings.Integer("rewire-interval"));
  options.rewire_recompute = settings.Text("rewire-kv") == "recompute";
  POINTSMAN_CHECK_OK(CheckVariants(options.variants));
  if (options.memory.empty() && options.data.corpus.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--corpus PATH is missing: give it, or a --memory that knows its own"};
  }
  POINTSMAN_TRY(const EvalReport report, Evaluate(options));
  if (settings.Has("report")) {
    const std::string title = options.memory.empty() ? options.data.corpus.front() : options.memory.string();
    POINTSMAN_CHECK_OK(FileSystem::Real().WriteAtomically(settings.Path("report"), ToHtml(report, title)));
  }
  Output output{.json = ToJson(report), .text = ToTable(report, isatty(STDOUT_FILENO) != 0), .exit_code = 0};
  if (settings.Has("require") && DecisionText(report.verdict) != settings.Text("require")) {
    output.exit_code = kRequirementNotMet;
  }
  return output;
}

Result<Output> RunProbe(const Settings& settings) {
  ProbeOptions options;
  options.data = CorpusOptionsOf(settings);
  options.sample_tokens = static_cast<uint64_t>(settings.Integer("sample-tokens"));
  POINTSMAN_TRY(const ProbeReport report, Probe(options));
  return Output{.json = ToJson(report), .text = ToTable(report), .exit_code = 0};
}

}  // namespace pointsman
