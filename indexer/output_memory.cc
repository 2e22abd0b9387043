#include "indexer/output_memory.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "adapt/entry_values.h"
#include "adapt/output_capture.h"
#include "adapt/parallel.h"
#include "adapt/tensors.h"
#include "memory/layer_index.h"
#include "router/confidence.h"

namespace pointsman {
namespace {

constexpr std::array kTaus{0.05, 0.1, 0.2};  // findings section 3, kNN-LM
constexpr std::array kLambdas{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};
constexpr std::array kTau2s{0.25f, 0.33f, 0.5f, 1.0f, kSureAtAnyDistance};
constexpr int64_t kRowsATask = 256;

// Losses of a block of rows for every (tau, lambda, tau2), and without votes.
struct GridSums {
  double frozen = 0;
  std::array<std::array<std::array<double, kTau2s.size()>, kLambdas.size()>, kTaus.size()> mixed{};
  uint64_t tokens = 0;
};

// sum_j softmax(s / tau)_j [y_j = target], as OutputVoter weighs.
double VoteFor(int32_t target, std::span<const Neighbour> found, std::span<const int32_t> next_tokens, double tau) {
  double total = 0, votes = 0;
  for (const Neighbour& n : found) {
    const double weight = std::exp((n.similarity - double{found.front().similarity}) / tau);
    total += weight;
    if (next_tokens[n.row] == target) votes += weight;
  }
  return total > 0 ? votes / total : 0;
}

void AddRow(double nll, double gate, int32_t target, std::span<const Neighbour> found,
            std::span<const int32_t> next_tokens, GridSums& sums) {
  const double p = std::exp(-nll);
  sums.frozen += nll;
  sums.tokens += 1;
  std::array<double, kTau2s.size()> confidence{};
  for (size_t i = 0; i < kTau2s.size(); ++i) {
    confidence[i] = Confidence(ConfidenceRule::kMaxSimilarity, kTau2s[i], found);
  }
  for (size_t i = 0; i < kTaus.size(); ++i) {
    const double vote = VoteFor(target, found, next_tokens, kTaus[i]);
    for (size_t j = 0; j < kLambdas.size(); ++j) {
      for (size_t l = 0; l < kTau2s.size(); ++l) {
        const double w = kLambdas[j] * gate * confidence[l];
        sums.mixed[i][j][l] += w > 0 ? -std::log((1 - w) * p + w * vote) : nll;
      }
    }
  }
}

struct Targets {
  std::vector<int32_t> token;   // [N]
  std::vector<uint8_t> counts;  // [N]
};

Targets TargetsOf(std::span<const Sequence> numbered) {
  Targets targets;
  for (const Sequence& s : numbered) {
    targets.token.insert(targets.token.end(), s.targets.begin(), s.targets.end());
    targets.counts.insert(targets.counts.end(), s.mask.begin(), s.mask.end());
  }
  return targets;
}

}  // namespace

Result<OwnedOutput> MakeOutput(const LossModel& model, const ReferenceSet& set, const OwnedTables& tables,
                               const OutputOptions& options) {
  OwnedTables ungated = tables;
  ungated.gate = {};
  ungated.output = {};
  POINTSMAN_TRY(const OutputCapture capture, CaptureOutput(model, set.reference, MakeTables(std::move(ungated)),
                                                           {.threads = options.threads, .on_progress = {}}));
  c10::AutoGradMode no_grad(false);
  OwnedOutput output;
  output.enabled = true;
  output.vocabulary = static_cast<uint32_t>(model.config().vocab_size);
  output.k = options.neighbours;
  const Targets targets = TargetsOf(set.reference);
  std::vector<int64_t> kept;
  for (size_t row = 0; row < targets.token.size(); ++row) {
    if (targets.counts[row] == 0) continue;
    kept.push_back(static_cast<int64_t>(row));
    output.next_tokens.push_back(targets.token[row]);
    output.references.push_back(set.refs[row]);
  }
  const at::Tensor rows = at::from_blob(kept.data(), {static_cast<int64_t>(kept.size())}, at::kLong);
  const auto width = static_cast<uint32_t>(capture.hidden.size(1));
  POINTSMAN_TRY(const LayerKeys keys,
                MakeKeys(capture.hidden.index_select(0, rows).contiguous(), std::min(options.key_dim, width)));
  output.keys = IndexOf(keys, width);
  return output;
}

Result<OutputTuning> TuneOutput(const LossModel& model, std::span<const Sequence> held_out, OwnedTables& tables,
                                int threads) {
  std::vector<Sequence> numbered(held_out.begin(), held_out.end());
  NumberRows(numbered);
  OwnedTables silent = tables;
  silent.output = {};
  POINTSMAN_TRY(const OutputCapture capture,
                CaptureOutput(model, numbered, MakeTables(std::move(silent)), {.threads = threads, .on_progress = {}}));
  const Targets targets = TargetsOf(numbered);
  const KeyIndexView view = ViewOf(tables.output.keys);
  const int64_t rows = capture.hidden.size(0), width = capture.hidden.size(1), k = tables.output.k;
  std::vector<GridSums> sums((rows + kRowsATask - 1) / kRowsATask);
  ParallelFor(static_cast<int>(sums.size()), threads, [&](int task) {
    const int64_t begin = task * kRowsATask, count = std::min(kRowsATask, rows - begin);
    std::vector<Neighbour> found(count * k);
    SearchExact(view, SpanOf(capture.hidden).subspan(begin * width, count * width), static_cast<uint32_t>(k), found);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = begin + i;
      if (targets.counts[row] == 0) continue;
      AddRow(capture.nll[row], capture.gate[row], targets.token[row],
             FoundNeighbours(std::span(found).subspan(i * k, k)), tables.output.next_tokens, sums[task]);
    }
  });
  GridSums all;
  for (const GridSums& s : sums) {  // in order: the same bits for any number of threads
    all.frozen += s.frozen;
    all.tokens += s.tokens;
    for (size_t i = 0; i < kTaus.size(); ++i) {
      for (size_t j = 0; j < kLambdas.size(); ++j) {
        for (size_t l = 0; l < kTau2s.size(); ++l) all.mixed[i][j][l] += s.mixed[i][j][l];
      }
    }
  }
  double best = all.frozen;
  tables.output.lambda = 0;
  for (size_t i = 0; i < kTaus.size(); ++i) {
    for (size_t j = 0; j < kLambdas.size(); ++j) {
      for (size_t l = 0; l < kTau2s.size(); ++l) {
        if (!(all.mixed[i][j][l] < best)) continue;
        best = all.mixed[i][j][l];
        tables.output.tau = static_cast<float>(kTaus[i]);
        tables.output.lambda = static_cast<float>(kLambdas[j]);
        tables.output.tau2 = kTau2s[l];
      }
    }
  }
  const double tokens = all.tokens > 0 ? static_cast<double>(all.tokens) : 1;
  return OutputTuning{all.frozen / tokens, best / tokens};
}

std::shared_ptr<const RoutingTables> RoutingAlone(const std::shared_ptr<const RoutingTables>& tables) {
  if (!tables->output.enabled) return tables;
  auto alone = std::make_shared<RoutingTables>(*tables);
  alone->output = {};
  alone->storage = tables;  // keeps the arrays, whoever owned them
  return alone;
}

}  // namespace pointsman
