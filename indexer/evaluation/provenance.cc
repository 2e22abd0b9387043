#include "indexer/evaluation/provenance.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "indexer/corpus.h"
#include "indexer/progress.h"

namespace pointsman {
namespace {

constexpr size_t kNamedPaths = 20;

std::string Joined(const std::vector<std::string>& paths) {
  const size_t shown = std::min(paths.size(), kNamedPaths);
  std::string text = fmt::format("{}", fmt::join(paths.begin(), paths.begin() + static_cast<ptrdiff_t>(shown), "\n"));
  if (shown < paths.size()) text += fmt::format("\nand {} more", paths.size() - shown);
  return text;
}

// A memory without text knows its documents, not their tokens.
std::string Counted(std::span<const Document> documents, SplitRole role) {
  const uint64_t tokens = CountTokens(documents, role);
  return fmt::format("{} documents", FormatCount(CountDocuments(documents, role))) +
         (tokens > 0 ? fmt::format(", {} tokens", FormatCount(tokens)) : "");
}

void AddMemory(const Memory& memory, std::vector<ReportFact>& facts) {
  const Manifest& manifest = memory.manifest();
  facts.push_back({"memory", memory.directory().string()});
  facts.push_back({"kind", manifest.kind == MemoryKind::kEntries ? "entries" : "prototypes"});
  facts.push_back({"generation", fmt::format("{}, published {}", manifest.generation, manifest.created)});
  facts.push_back({"digest", manifest.digest});
  facts.push_back({"bytes to route with", FormatCount(memory.stats().derived_bytes)});
  std::string settings;
  for (const auto& [name, value] : manifest.settings) {
    settings += fmt::format("{}{} {}", settings.empty() ? "" : ", ", name, value);
  }
  facts.push_back({"built with", settings});
}

}  // namespace

std::vector<ReportFact> ProvenanceOf(const EvalOptions& options, const LossModel& model, const Memory* memory,
                                     std::span<const Document> documents, const ScoredText& unrelated) {
  const Fingerprint& fingerprint = model.fingerprint();
  std::vector<ReportFact> facts{{"model", options.data.model.string()},
                                {"architecture", fingerprint.architecture + ", " + fingerprint.dtype},
                                {"configuration, SHA-256", fingerprint.config_sha256},
                                {"router weights, SHA-256", fingerprint.router_sha256},
                                {"tokenizer, SHA-256", fingerprint.tokenizer_sha256},
                                {"expert weights, SHA-256", fingerprint.experts_sha256}};
  if (memory != nullptr) AddMemory(*memory, facts);
  if (options.data.groups.empty()) facts.push_back({"corpus", Joined(options.data.corpus)});
  for (const CorpusGroup& group : options.data.groups) facts.push_back({"corpus, " + group.name, Joined(group.paths)});
  if (!options.test_corpus.empty()) facts.push_back({"test corpus", Joined(options.test_corpus)});
  const bool given = !options.data.off_domain.empty();
  const auto& off_domain = given || memory == nullptr ? options.data.off_domain : memory->manifest().off_domain_sources;
  facts.push_back({"unrelated text", off_domain.empty() ? "found on this machine" : Joined(off_domain)});
  facts.push_back({"reference text", Counted(documents, SplitRole::kReference)});
  facts.push_back({"calibration text", Counted(documents, SplitRole::kCalibration)});
  facts.push_back({"unrelated text, scored", Counted(unrelated.documents, SplitRole::kTest)});
  const uint64_t seed = memory != nullptr ? memory->manifest().seed : options.data.seed;
  facts.push_back({"seed of the split", std::to_string(seed)});
  facts.push_back({"seed of the evaluation", std::to_string(options.data.seed)});
  return facts;
}

}  // namespace pointsman
