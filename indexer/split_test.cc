#include "indexer/split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <set>

namespace pointsman {
namespace {

// 1,000 documents of 100 tokens in 900 clusters (every tenth cluster has two) and 20 libraries.
class ThousandDocuments : public testing::Test {
 protected:
  ThousandDocuments() {
    for (uint64_t i = 0; i < 1000; ++i) {
      RawDocument document;
      document.hash = 1000003 * (i + 1);
      document.library = "library" + std::to_string(i / 7 % 20);
      documents_.push_back(document);
      clusters_.push_back(i % 10 == 9 ? clusters_.back() : document.hash);
    }
  }
  std::vector<SelectedDocument> Select(const SplitOptions& options) {
    asked_.clear();
    auto selected = SelectDocuments(documents_, clusters_, options, [this](size_t i) -> Result<uint64_t> {
      EXPECT_TRUE(asked_.insert(i).second) << "counted twice";
      return tokens_of_[i] > 0 ? tokens_of_[i] : 100;
    });
    EXPECT_TRUE(selected.ok());
    return selected.ok() ? selected.value() : std::vector<SelectedDocument>{};
  }
  static std::array<uint64_t, 3> TokensByRole(const std::vector<SelectedDocument>& selected) {
    std::array<uint64_t, 3> tokens{};
    for (const auto& s : selected) tokens[static_cast<size_t>(s.role)] += s.tokens;
    return tokens;
  }

  std::vector<RawDocument> documents_;
  std::vector<uint64_t> clusters_;
  std::map<size_t, uint64_t> tokens_of_;  // where it is not 100
  std::set<size_t> asked_;
};

TEST(AssignRoleTest, FollowsTheFractionsAndTheSeed) {
  std::array<int, 3> counts{};
  int moved = 0;
  for (uint64_t cluster = 0; cluster < 20000; ++cluster) {
    const SplitRole role = AssignRole(cluster, 1);
    ++counts[static_cast<size_t>(role)];
    EXPECT_EQ(AssignRole(cluster, 1), role);
    moved += AssignRole(cluster, 2) != role;
  }
  EXPECT_NEAR(counts[0] / 20000.0, 0.80, 0.012);
  EXPECT_NEAR(counts[1] / 20000.0, 0.07, 0.008);
  EXPECT_NEAR(counts[2] / 20000.0, 0.13, 0.010);
  EXPECT_GT(moved, 5000);
  for (uint64_t cluster = 0; cluster < 100; ++cluster) {
    EXPECT_EQ(AssignRole(cluster, 1, {.reference = 0, .calibration = 0, .test = 1}), SplitRole::kTest);
  }
}

TEST_F(ThousandDocuments, EachGroupHasAnEqualPartOfEveryBudget) {
  for (size_t i = 0; i < documents_.size(); ++i) documents_[i].group = i < 900 ? 0 : 1;
  const auto selected = Select({.groups = 2, .budgets = {.reference_tokens = 6000, .test_tokens = 1000}});
  for (uint32_t group : {0u, 1u}) {
    std::vector<SelectedDocument> own;
    std::ranges::copy_if(selected, std::back_inserter(own),
                         [&](const SelectedDocument& s) { return documents_[s.index].group == group; });
    EXPECT_EQ(TokensByRole(own)[0], 3000u);
    EXPECT_EQ(TokensByRole(own)[2], 500u);
  }
  documents_[5].group = 2;
  const auto wrong =
      SelectDocuments(documents_, clusters_, {.groups = 2}, [](size_t) -> Result<uint64_t> { return 1; });
  EXPECT_FALSE(wrong.ok());
}

TEST_F(ThousandDocuments, ClustersStandOnOneSide) {
  const auto selected = Select({.seed = 5});
  EXPECT_EQ(selected.size(), 1000u);
  std::map<uint64_t, SplitRole> role_of_cluster;
  for (const auto& s : selected) {
    const auto [it, added] = role_of_cluster.emplace(clusters_[s.index], s.role);
    EXPECT_EQ(it->second, s.role);
  }
}

TEST_F(ThousandDocuments, BudgetsAreMetExactlyAndNoMoreIsTokenised) {
  SplitOptions options;
  options.budgets = {.reference_tokens = 5050, .calibration_tokens = 500, .test_tokens = 100000, .test_documents = 12};
  const auto selected = Select(options);
  const auto tokens = TokensByRole(selected);
  EXPECT_EQ(tokens[0], 5050u);
  EXPECT_EQ(tokens[1], 500u);
  EXPECT_EQ(tokens[2], 1200u);
  EXPECT_EQ(asked_.size(), selected.size());
  EXPECT_EQ(selected.size(), 51u + 5u + 12u);
}

TEST_F(ThousandDocuments, ALargerBudgetKeepsWhatASmallerOneChose) {
  SplitOptions small, large;
  small.budgets = {.reference_tokens = 3000, .calibration_tokens = 200, .test_tokens = 500};
  large.budgets = {.reference_tokens = 9000, .calibration_tokens = 900, .test_tokens = 2000};
  std::set<size_t> of_large;
  for (const auto& s : Select(large)) of_large.insert(s.index);
  for (const auto& s : Select(small)) EXPECT_EQ(of_large.count(s.index), 1u);
}

TEST_F(ThousandDocuments, LongDocumentsAreCutAndShortOnesLeftOut) {
  for (size_t i = 0; i < 1000; ++i) tokens_of_[i] = i % 2 == 0 ? 15 : 9000;
  const auto selected = Select({});
  ASSERT_FALSE(selected.empty());
  for (const auto& s : selected) {
    EXPECT_EQ(s.index % 2, 1u);
    EXPECT_EQ(s.tokens, 4096u);
  }
}

TEST_F(ThousandDocuments, FewDocumentsOfACluster) {
  std::fill(clusters_.begin(), clusters_.begin() + 500, documents_[0].hash);
  std::map<uint64_t, int> taken;
  for (const auto& s : Select({})) ++taken[clusters_[s.index]];
  EXPECT_EQ(taken[documents_[0].hash], 2);
  SplitOptions all;
  all.budgets.max_documents_per_cluster = 0;
  EXPECT_EQ(Select(all).size(), 1000u);
}

TEST_F(ThousandDocuments, ByLibraryNeitherLibrariesNorClustersStraddle) {
  const SplitOptions options{
      .seed = 3, .unit = SplitUnit::kLibrary, .fractions = {.reference = 0.6, .calibration = 0.2, .test = 0.2}};
  std::map<std::string, SplitRole> role_of_library;
  std::map<uint64_t, SplitRole> role_of_cluster;
  const auto selected = Select(options);
  for (const auto& s : selected) {
    EXPECT_EQ(role_of_library.emplace(documents_[s.index].library, s.role).first->second, s.role);
    EXPECT_EQ(role_of_cluster.emplace(clusters_[s.index], s.role).first->second, s.role);
  }
  EXPECT_EQ(role_of_library.size(), 20u);
  EXPECT_LT(selected.size(), 1000u);  // clusters between libraries of different roles lost a member
  EXPECT_GE(selected.size(), 900u);   // and only that
}

TEST_F(ThousandDocuments, ErrorsOfTheCounterAndOfTheCallerEndIt) {
  const auto failed = SelectDocuments(documents_, clusters_, {}, [](size_t) -> Result<uint64_t> {
    return Error{ErrorCode::kIo, "x.txt: gone"};
  });
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, "x.txt: gone");
  const auto counter = [](size_t) -> Result<uint64_t> { return uint64_t{100}; };
  clusters_.pop_back();
  EXPECT_EQ(SelectDocuments(documents_, clusters_, {}, counter).error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(SelectDocuments({}, {}, {.fractions = {0, 0, 0}}, counter).ok());
}

}  // namespace
}  // namespace pointsman
