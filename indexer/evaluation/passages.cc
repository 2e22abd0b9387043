#include "indexer/evaluation/passages.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "indexer/evaluation/routing_trace.h"

namespace pointsman {
namespace {

constexpr size_t kPassageTokens = 160;
constexpr size_t kPassageStep = 32;
constexpr uint64_t kFewTokens = 64;  // documents shorter than that show little
constexpr size_t kExplainedTokens = 3;
constexpr float kWorthExplaining = 0.1f;  // nats
constexpr size_t kNeighboursShown = 3;
constexpr size_t kLongestToken = 120;  // bytes; white space can be one token of any length

struct DocumentGain {
  uint32_t document = 0;
  uint64_t tokens = 0;
  double sum = 0;
  double gain() const { return sum / static_cast<double>(tokens); }
};

// Best first, short documents left out where there are longer ones.
std::vector<DocumentGain> RankDocuments(const ScoredText& text, std::span<const SequenceScore> frozen,
                                        std::span<const SequenceScore> memory) {
  std::map<uint32_t, DocumentGain> sums;
  for (size_t i = 0; i < text.sequences.size(); ++i) {
    const Sequence& s = text.sequences[i];
    DocumentGain& sum = sums[s.document];
    sum.document = s.document;
    sum.tokens += std::accumulate(s.mask.begin(), s.mask.end(), uint64_t{0});
    for (size_t t = 0; t < s.mask.size(); ++t) sum.sum += double{memory[i].nll[t]} - double{frozen[i].nll[t]};
  }
  std::vector<DocumentGain> ranked;
  for (const auto& [document, sum] : sums) {
    if (sum.tokens > 0) ranked.push_back(sum);
  }
  const auto is_short = [](const DocumentGain& d) { return d.tokens < kFewTokens; };
  if (!std::all_of(ranked.begin(), ranked.end(), is_short)) std::erase_if(ranked, is_short);
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const DocumentGain& a, const DocumentGain& b) { return a.gain() < b.gain(); });
  return ranked;
}

struct Stretch {
  size_t sequence = 0;
  size_t begin = 0, end = 0;  // tokens of the sequence
};

// How badly a stretch of mean gain `gain` shows what `role` is to show; lower is better.
double Mismatch(PassageRole role, double gain, double document_gain) {
  switch (role) {
    case PassageRole::kBest:
      return gain;
    case PassageRole::kMedian:
      return std::abs(gain - document_gain);
    case PassageRole::kWorst:
    case PassageRole::kUnrelated:
      return -gain;
  }
  return 0;
}

// Appends `token` to the last piece while that ends inside a UTF-8 character.
bool EndsInsideCharacter(const std::string& text) {
  size_t back = 0;
  while (back < std::min<size_t>(3, text.size()) && (text[text.size() - 1 - back] & 0xC0) == 0x80) ++back;
  if (back >= text.size()) return false;
  const auto lead = static_cast<unsigned char>(text[text.size() - 1 - back]);
  const size_t needed = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
  return back < needed;
}

class PassageMaker {
 public:
  PassageMaker(const PassageInputs& in, PassageRole role) : in_(in), role_(role) {
    const bool unrelated = role == PassageRole::kUnrelated;
    text_ = unrelated ? in.unrelated : in.test;
    frozen_ = unrelated ? &in.frozen->unrelated : &in.frozen->test;
    memory_ = unrelated ? &in.memory->unrelated : &in.memory->test;
  }

  Result<Passage> Make(const DocumentGain& document) {
    const Stretch stretch = Choose(document);
    const Sequence& sequence = text_->sequences[stretch.sequence];
    Passage passage{.role = role_,
                    .document = text_->documents[document.document].source,
                    .document_gain = document.gain(),
                    .document_tokens = document.tokens,
                    .position = sequence.position + static_cast<uint32_t>(stretch.begin)};
    POINTSMAN_TRY(const std::vector<RowTrace> trace, TraceSequence(*in_.model, in_.tables, sequence));
    FillTokens(stretch, trace, passage);
    Explain(trace, passage);
    return passage;
  }

 private:
  Stretch Choose(const DocumentGain& document) const {
    std::optional<Stretch> best;
    double best_mismatch = 0;
    for (size_t i = 0; i < text_->sequences.size(); ++i) {
      const Sequence& s = text_->sequences[i];
      if (s.document != document.document) continue;
      const size_t length = std::min(kPassageTokens, s.inputs.size());
      // A short rest at the document's end shows less than a whole window, whatever its gain.
      if (best && length < kPassageTokens / 2) continue;
      for (size_t begin = 0; begin + length <= s.inputs.size(); begin += kPassageStep) {
        const double mismatch = Mismatch(role_, MeanGain(i, begin, begin + length), document.gain());
        if (best && mismatch >= best_mismatch) continue;
        best = Stretch{i, begin, begin + length};
        best_mismatch = mismatch;
      }
    }
    return *best;  // a ranked document has a sequence
  }

  double MeanGain(size_t sequence, size_t begin, size_t end) const {
    double sum = 0, tokens = 0;
    for (size_t t = begin; t < end; ++t) {
      sum += double{(*memory_)[sequence].nll[t]} - double{(*frozen_)[sequence].nll[t]};
      tokens += text_->sequences[sequence].mask[t];
    }
    return tokens == 0 ? 0 : sum / tokens;
  }

  void FillTokens(const Stretch& stretch, const std::vector<RowTrace>& trace, Passage& passage) {
    const Sequence& s = text_->sequences[stretch.sequence];
    std::vector<float> gates(s.inputs.size());
    for (const RowTrace& row : trace) gates[row.row] = row.gate;
    for (size_t t = stretch.begin; t < stretch.end; ++t) {
      if (passage.tokens.empty() || !EndsInsideCharacter(passage.tokens.back().text)) {
        passage.tokens.push_back({.gate = gates[t], .counted = false});
        rows_.emplace_back();
      }
      PassageToken& token = passage.tokens.back();
      token.text += in_.model->tokenizer().Decode(std::span(&s.targets[t], 1), /*skip_special=*/false);
      if (token.text.size() > kLongestToken) token.text.resize(kLongestToken);
      token.frozen += (*frozen_)[stretch.sequence].nll[t];
      token.memory += (*memory_)[stretch.sequence].nll[t];
      token.counted = token.counted || s.mask[t] != 0;
      rows_.back().push_back(static_cast<uint32_t>(t));
    }
  }

  // The tokens that show the passage's role most, each text once, where the memory acted at all.
  void Explain(const std::vector<RowTrace>& trace, Passage& passage) const {
    const double sign = role_ == PassageRole::kBest || role_ == PassageRole::kMedian ? 1 : -1;
    std::vector<size_t> order(passage.tokens.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return sign * passage.tokens[a].gain() < sign * passage.tokens[b].gain();
    });
    std::set<std::string> told;
    for (const size_t i : order) {
      const PassageToken& token = passage.tokens[i];
      if (passage.explained.size() == kExplainedTokens || sign * token.gain() > -kWorthExplaining) break;
      if (token.gate <= 0 || !told.insert(token.text).second) continue;
      passage.explained.push_back(ExplainOne(trace, i));
    }
    std::sort(passage.explained.begin(), passage.explained.end(),
              [](const ExplainedToken& a, const ExplainedToken& b) { return a.token < b.token; });
  }

  ExplainedToken ExplainOne(const std::vector<RowTrace>& trace, size_t token) const {
    ExplainedToken explained{.token = token};
    const RowTrace* most = nullptr;
    size_t most_changed = 0;
    const int64_t k = in_.model->config().experts_per_token;
    for (const RowTrace& row : trace) {
      if (row.row != rows_[token].front()) continue;
      const auto before = TopExperts(row.logits_before, k), after = TopExperts(row.logits_after, k);
      ExpertChange change{.layer = row.layer,
                          .confidence = row.confidence,
                          .gone = Without(before, after),
                          .come = Without(after, before)};
      if (most == nullptr || change.gone.size() > most_changed) {
        most = &row;
        most_changed = change.gone.size();
      }
      if (!change.gone.empty()) explained.changes.push_back(std::move(change));
    }
    if (most == nullptr) return explained;
    explained.neighbours_layer = most->layer;
    explained.neighbours = SourcesOf(*in_.tables, *most, in_.texts);
    if (explained.neighbours.size() > kNeighboursShown) explained.neighbours.resize(kNeighboursShown);
    return explained;
  }

  const PassageInputs& in_;
  const PassageRole role_;
  const ScoredText* text_;
  const std::vector<SequenceScore>* frozen_;
  const std::vector<SequenceScore>* memory_;
  std::vector<std::vector<uint32_t>> rows_;  // of each passage token, in its sequence
};

}  // namespace

Result<std::vector<Passage>> ChoosePassages(const PassageInputs& in) {
  std::vector<std::pair<PassageRole, DocumentGain>> chosen;
  const auto ranked = RankDocuments(*in.test, in.frozen->test, in.memory->test);
  if (!ranked.empty()) chosen.emplace_back(PassageRole::kBest, ranked.front());
  if (ranked.size() > 2) chosen.emplace_back(PassageRole::kMedian, ranked[ranked.size() / 2]);
  if (ranked.size() > 1) chosen.emplace_back(PassageRole::kWorst, ranked.back());
  const auto unrelated = RankDocuments(*in.unrelated, in.frozen->unrelated, in.memory->unrelated);
  if (!unrelated.empty()) chosen.emplace_back(PassageRole::kUnrelated, unrelated.back());
  std::vector<Passage> passages;
  for (const auto& [role, document] : chosen) {
    POINTSMAN_TRY(Passage passage, PassageMaker(in, role).Make(document));
    passages.push_back(std::move(passage));
  }
  return passages;
}

}  // namespace pointsman
