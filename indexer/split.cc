#include "indexer/split.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <unordered_map>

namespace pointsman {
namespace {

// A number in [0, 1) from (value, seed). The salts keep roles and selection order independent of one another.
constexpr uint64_t kRoleSalt = 0x726f6c65, kOrderSalt = 0x6f726472;

uint64_t HashOf(uint64_t value, uint64_t seed, uint64_t salt) {
  const uint64_t words[2] = {value, salt};
  return XXH3_64bits_withSeed(words, sizeof(words), seed);
}

SplitRole RoleOfHash(uint64_t hash, const SplitFractions& f) {
  const double u = static_cast<double>(hash >> 11) * 0x1p-53 * (f.reference + f.calibration + f.test);
  if (u < f.reference) return SplitRole::kReference;
  return u < f.reference + f.calibration ? SplitRole::kCalibration : SplitRole::kTest;
}

// Spends one role's budget.
class Budget {
 public:
  Budget() = default;
  Budget(uint64_t tokens, uint64_t documents) : tokens_(tokens), documents_(documents) {}

  bool spent() const {
    return (tokens_ > 0 && used_tokens_ >= tokens_) || (documents_ > 0 && used_documents_ >= documents_);
  }
  // At most `wanted`, and no more than what is left.
  uint32_t Take(uint64_t wanted) {
    const uint64_t taken = tokens_ > 0 ? std::min(wanted, tokens_ - used_tokens_) : wanted;
    used_tokens_ += taken;
    ++used_documents_;
    return static_cast<uint32_t>(std::min<uint64_t>(taken, UINT32_MAX));
  }

 private:
  uint64_t tokens_ = 0, documents_ = 0;
  uint64_t used_tokens_ = 0, used_documents_ = 0;
};

bool Valid(const SplitFractions& f) {
  return f.reference >= 0 && f.calibration >= 0 && f.test >= 0 && f.reference + f.calibration + f.test > 0;
}

}  // namespace

SplitRole AssignRole(uint64_t cluster, uint64_t seed, const SplitFractions& fractions) {
  return RoleOfHash(HashOf(cluster, seed, kRoleSalt), fractions);
}

SplitRole AssignLibraryRole(std::string_view library, uint64_t seed, const SplitFractions& fractions) {
  return AssignRole(XXH3_64bits(library.data(), library.size()), seed, fractions);
}

std::vector<std::optional<SplitRole>> AssignRoles(std::span<const RawDocument> documents,
                                                  std::span<const uint64_t> clusters, const SplitOptions& options) {
  std::vector<std::optional<SplitRole>> roles(documents.size());
  if (options.unit == SplitUnit::kCluster) {
    for (size_t i = 0; i < documents.size(); ++i) roles[i] = AssignRole(clusters[i], options.seed, options.fractions);
    return roles;
  }
  // A cluster belongs to the library of its lowest document; members elsewhere stay only where the roles agree.
  std::unordered_map<uint64_t, SplitRole> role_of_cluster;
  for (size_t i = 0; i < documents.size(); ++i) {
    roles[i] = AssignLibraryRole(documents[i].library, options.seed, options.fractions);
    if (documents[i].hash == clusters[i]) role_of_cluster[clusters[i]] = *roles[i];
  }
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto home = role_of_cluster.find(clusters[i]);
    if (home != role_of_cluster.end() && home->second != *roles[i]) roles[i].reset();
  }
  return roles;
}

Result<std::vector<SelectedDocument>> SelectDocuments(std::span<const RawDocument> documents,
                                                      std::span<const uint64_t> clusters, const SplitOptions& options,
                                                      const TokenCounter& count_tokens) {
  const uint64_t parts = std::max<uint32_t>(1, options.groups);
  const bool grouped = std::ranges::all_of(documents, [&](const RawDocument& d) { return d.group < parts; });
  if (clusters.size() != documents.size() || !Valid(options.fractions) || !grouped) {
    return Error{ErrorCode::kInvalidArgument,
                 "split: one cluster a document, a group that there is and fractions >= 0 with a positive sum are "
                 "needed; check --split"};
  }
  const SplitBudgets& limits = options.budgets;
  // A part of a limit is never 0, which would mean none.
  const auto part = [&](uint64_t limit) { return limit == 0 ? 0 : std::max<uint64_t>(1, limit / parts); };
  using Budgets = std::array<Budget, 3>;
  std::vector<Budgets> budgets(
      parts, Budgets{Budget(part(limits.reference_tokens), 0), Budget(part(limits.calibration_tokens), 0),
                     Budget(part(limits.test_tokens), part(limits.test_documents))});
  const auto roles = AssignRoles(documents, clusters, options);
  std::vector<std::pair<uint64_t, size_t>> order;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (roles[i]) order.emplace_back(HashOf(documents[i].hash, options.seed, kOrderSalt), i);
  }
  std::sort(order.begin(), order.end());

  std::vector<SelectedDocument> selected;
  std::unordered_map<uint64_t, uint32_t> taken_of_cluster;
  for (const auto& [hash, i] : order) {
    Budget& budget = budgets[documents[i].group][static_cast<size_t>(*roles[i])];
    uint32_t& taken = taken_of_cluster[clusters[i]];
    if (budget.spent() || (limits.max_documents_per_cluster > 0 && taken >= limits.max_documents_per_cluster)) continue;
    POINTSMAN_TRY(uint64_t tokens, count_tokens(i));
    if (tokens == 0 || tokens < limits.min_tokens_per_document) continue;
    if (limits.max_tokens_per_document > 0) tokens = std::min<uint64_t>(tokens, limits.max_tokens_per_document);
    selected.push_back({i, *roles[i], budget.Take(tokens)});
    ++taken;
  }
  return selected;
}

}  // namespace pointsman
