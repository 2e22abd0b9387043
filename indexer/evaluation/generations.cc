#include "indexer/evaluation/generations.h"

#include <algorithm>
#include <set>
#include <utility>

#include "adapt/parallel.h"
#include "models/generate.h"
#include "models/router_hook.h"
#include "router/router.h"

namespace pointsman {
namespace {

using Gram = std::vector<int32_t>;

// Calls visit(n-gram) for every place in the text.
template <typename Visit>
void ForEachGram(const std::vector<int32_t>& text, size_t n, Visit visit) {
  for (size_t i = 0; i + n <= text.size(); ++i) visit(Gram(text.begin() + i, text.begin() + i + n));
}

double Share(size_t part, size_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

size_t Matches(const GenerationPrompt& prompt, const std::vector<int32_t>& text) {
  const size_t n = std::min({static_cast<size_t>(kMatchTokens), prompt.truth.size(), text.size()});
  size_t matches = 0;
  for (size_t i = 0; i < n; ++i) matches += text[i] == prompt.truth[i];
  return matches;
}

size_t CommonPrefix(const GenerationPrompt& prompt, const std::vector<int32_t>& text) {
  size_t n = 0;
  while (n < text.size() && n < prompt.truth.size() && text[n] == prompt.truth[n]) ++n;
  return n;
}

// Matching tokens by document, as the statistics take them.
std::vector<DocumentNll> MatchSums(std::span<const GenerationPrompt> prompts,
                                   std::span<const std::vector<int32_t>> texts) {
  std::vector<DocumentNll> documents;
  for (size_t i = 0; i < prompts.size(); ++i) {
    DocumentNll d;
    d.document = prompts[i].document;
    d.cluster = prompts[i].cluster;
    d.tokens = kMatchTokens;
    d.nll_sum = static_cast<double>(Matches(prompts[i], texts[i]));
    documents.push_back(d);
  }
  return documents;
}

}  // namespace

std::vector<GenerationPrompt> MakePrompts(const ScoredText& text, size_t count) {
  std::vector<GenerationPrompt> all;
  std::set<uint32_t> seen;
  for (const Sequence& s : text.sequences) {
    const size_t half = s.inputs.size() / 2;
    if (s.inputs.size() - half < kMatchTokens || half == 0 || !seen.insert(s.document).second) continue;
    GenerationPrompt prompt;
    prompt.prompt.assign(s.inputs.begin(), s.inputs.begin() + half);
    // targets[t] follows inputs[t]: the first token after the prompt is targets[half - 1].
    prompt.truth.assign(s.targets.begin() + (half - 1), s.targets.end());
    prompt.truth.resize(std::min(prompt.truth.size(), kContinuedTokens));
    prompt.document = text.documents[s.document].hash;
    prompt.cluster = text.documents[s.document].cluster;
    all.push_back(std::move(prompt));
  }
  if (all.size() <= count) return all;
  std::vector<GenerationPrompt> chosen;
  for (size_t i = 0; i < count; ++i) chosen.push_back(all[i * all.size() / count]);
  return chosen;
}

Result<std::vector<std::vector<int32_t>>> Continue(const MoeModel& model, std::span<const GenerationPrompt> prompts,
                                                   const std::shared_ptr<const RoutingTables>& tables,
                                                   const GenerationOptions& options) {
  std::vector<std::vector<int32_t>> texts(prompts.size());
  std::vector<Status> statuses(prompts.size());
  ParallelFor(static_cast<int>(prompts.size()), options.threads, [&](int i) {
    Router router;
    RouterHook hook(router);
    GenerateOptions generate;
    generate.max_tokens = static_cast<int64_t>(prompts[i].truth.size());
    generate.temperature = options.temperature;
    generate.seed = options.seed + prompts[i].document;
    if (tables) {
      Binding binding;
      binding.tables = tables;
      generate.slot = router.AddSlot(std::move(binding));
      generate.hook = &hook;
    }
    Result<Generation> generation = Generate(model, prompts[i].prompt, generate);
    if (generation.ok()) {
      texts[i] = std::move(generation.value().tokens);
    } else {
      statuses[i] = generation.error();
    }
  });
  for (const Status& status : statuses) POINTSMAN_CHECK_OK(status);
  return texts;
}

GenerationScore ScoreTexts(std::span<const GenerationPrompt> prompts, std::span<const std::vector<int32_t>> texts) {
  GenerationScore score;
  score.prompts = prompts.size();
  size_t matches = 0, prefix = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    score.tokens += texts[i].size();
    matches += Matches(prompts[i], texts[i]);
    prefix += CommonPrefix(prompts[i], texts[i]);
  }
  score.match = Share(matches, prompts.size() * kMatchTokens);
  score.prefix = Share(prefix, prompts.size());
  score.repeated_4grams = RepeatedShare(texts, 4);
  for (size_t n = 1; n <= score.distinct.size(); ++n) score.distinct[n - 1] = DistinctShare(texts, n);
  return score;
}

GenerationScore ScoreTruth(std::span<const GenerationPrompt> prompts) {
  std::vector<std::vector<int32_t>> texts;
  for (const GenerationPrompt& prompt : prompts) texts.push_back(prompt.truth);
  GenerationScore score = ScoreTexts(prompts, texts);
  score.variant = "truth";
  score.match.reset();
  score.prefix.reset();
  return score;
}

Result<Interval> CompareMatches(std::span<const GenerationPrompt> prompts, std::span<const std::vector<int32_t>> texts,
                                std::span<const std::vector<int32_t>> frozen, uint64_t seed) {
  POINTSMAN_TRY(const auto differences, PairedDifferences(MatchSums(prompts, texts), MatchSums(prompts, frozen)));
  return BootstrapInterval(differences, {seed});
}

double RepeatedShare(std::span<const std::vector<int32_t>> texts, size_t n) {
  size_t repeated = 0, all = 0;
  for (const std::vector<int32_t>& text : texts) {
    std::set<Gram> seen;
    ForEachGram(text, n, [&](Gram gram) {
      repeated += !seen.insert(std::move(gram)).second;
      ++all;
    });
  }
  return Share(repeated, all);
}

double DistinctShare(std::span<const std::vector<int32_t>> texts, size_t n) {
  std::set<Gram> seen;
  size_t all = 0;
  for (const std::vector<int32_t>& text : texts) {
    ForEachGram(text, n, [&](Gram gram) {
      seen.insert(std::move(gram));
      ++all;
    });
  }
  return Share(seen.size(), all);
}

}  // namespace pointsman
