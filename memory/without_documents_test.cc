#include "memory/without_documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace pointsman {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint32_t kEnd = 50;  // the model's end-of-text token

uint64_t Pair(uint32_t previous, uint32_t token) { return uint64_t{previous} << 32 | token; }

OwnedLayer LayerOf(int32_t number, size_t rows, std::vector<EntryRef> references) {
  OwnedLayer layer;
  layer.layer = number;
  layer.experts = 2;
  layer.keys.hidden = layer.keys.dim = 4;
  layer.keys.mean = {1, 2, 3, 4};
  for (size_t row = 0; row < rows; ++row) {
    for (int i = 0; i < 4; ++i) layer.keys.codes.push_back(static_cast<int8_t>(row * 4 + i));
    layer.keys.code_scales.push_back(static_cast<float>(row));
    layer.values.push_back(static_cast<int8_t>(row));
    layer.values.push_back(static_cast<int8_t>(-static_cast<int>(row)));
    layer.value_scales.push_back(static_cast<float>(row) / 2);
  }
  layer.references = std::move(references);
  layer.calibration.k = 3;
  layer.router_delta.assign(8, 0.5f);
  return layer;
}

// "a" = 1 2 3, "b" = 2 3 4, "c" = 1 5: the gate knows their pairs with the end-of-text token before the first.
OwnedTables Entries() {
  OwnedTables tables;
  tables.kind = MemoryKind::kEntries;
  tables.top_k = 1;
  tables.documents = {"a", "b", "c"};
  const std::vector<EntryRef> references = {{1, 0}, {0, 0}, {1, 1}, {2, 0}};
  tables.layers = {LayerOf(0, 4, references), LayerOf(3, 4, references)};
  tables.gate.enabled = true;
  tables.gate.pairs = {Pair(1, 2), Pair(1, 5), Pair(2, 3), Pair(3, 4), Pair(kEnd, 1), Pair(kEnd, 2)};
  tables.gate.is_common = {0, 1, 0, 1, 0, 1};
  tables.output.enabled = true;
  tables.output.vocabulary = 100;
  tables.output.keys.hidden = tables.output.keys.dim = 2;
  tables.output.keys.SetKeys({1, 0, 0, 1, 1, 1});
  tables.output.next_tokens = {10, 11, 12};
  tables.output.references = {{0, 0}, {1, 0}, {2, 0}};
  return tables;
}

using Texts = std::vector<std::vector<int32_t>>;

DocumentPairs PairsOf(const Texts& documents) {
  DocumentPairs pairs;
  for (const auto& tokens : documents) pairs.Add(tokens);
  pairs.Finish();
  return pairs;
}

GatePairs OneGroup(const Texts& remaining, const Texts& gone) { return {{PairsOf(remaining)}, {PairsOf(gone)}}; }

TEST(WithoutDocuments, EntriesOfTheDocumentGoFromEveryLayerAndTheOutput) {
  const auto tables = MakeTables(Entries());
  const std::vector<std::string> names = {"b"};
  const GatePairs pairs = OneGroup({{1, 2, 3}, {1, 5}}, {{2, 3, 4}});
  const Removal removal = WithoutDocuments(*tables, names, &pairs);
  EXPECT_EQ(removal.rows, 4u);
  EXPECT_EQ(removal.output_rows, 1u);
  EXPECT_EQ(removal.pairs, 2u);
  const OwnedTables& left = removal.tables;
  EXPECT_THAT(left.documents, ElementsAre("a", "", "c"));
  ASSERT_THAT(left.layers, SizeIs(2));
  for (const OwnedLayer& layer : left.layers) {
    EXPECT_THAT(layer.keys.codes, ElementsAre(4, 5, 6, 7, 12, 13, 14, 15));
    EXPECT_THAT(layer.keys.code_scales, ElementsAre(1, 3));
    EXPECT_THAT(layer.values, ElementsAre(1, -1, 3, -3));
    EXPECT_THAT(layer.value_scales, ElementsAre(0.5f, 1.5f));
    ASSERT_THAT(layer.references, SizeIs(2));
    EXPECT_EQ(layer.references[0].document, 0u);
    EXPECT_EQ(layer.references[1].document, 2u);
    EXPECT_THAT(layer.keys.mean, ElementsAre(1, 2, 3, 4));
    EXPECT_THAT(layer.router_delta, SizeIs(8));
    EXPECT_EQ(layer.calibration.k, 3);
  }
  EXPECT_EQ(left.layers[1].layer, 3);
  EXPECT_THAT(left.output.next_tokens, ElementsAre(10, 12));
  // 2 3 stands in "a", too; 3 4 and the beginning with 2 do not.
  EXPECT_THAT(left.gate.pairs, ElementsAre(Pair(1, 2), Pair(1, 5), Pair(2, 3), Pair(kEnd, 1)));
  EXPECT_THAT(left.gate.is_common, ElementsAre(0, 1, 0, 0));
  EXPECT_TRUE(CheckTables(*MakeTables(left)).ok());
}

TEST(WithoutDocuments, ABeginningStaysWhileAnotherDocumentBeginsAlike) {
  const auto tables = MakeTables(Entries());
  const std::vector<std::string> names = {"c"};
  const GatePairs pairs = OneGroup({{1, 2, 3}, {2, 3, 4}}, {{1, 5}});
  EXPECT_THAT(WithoutDocuments(*tables, names, &pairs).tables.gate.pairs,
              ElementsAre(Pair(1, 2), Pair(2, 3), Pair(3, 4), Pair(kEnd, 1), Pair(kEnd, 2)));
}

TEST(WithoutDocuments, APairLeavesTheGroupWhoseDocumentsAreGone) {
  OwnedTables owned = Entries();
  owned.gate.groups = {{.name = "left"}, {.name = "right"}};
  // (1 2), (1 5): left; (2 3): both; (3 4): right; beginnings with 1: left, with 2: right.
  owned.gate.pair_groups = {1, 1, 3, 2, 1, 2};
  const auto tables = MakeTables(std::move(owned));
  const std::vector<std::string> names = {"a"};
  GatePairs pairs;
  pairs.remaining = {PairsOf({{1, 5}}), PairsOf({{2, 3, 4}})};
  pairs.gone = {PairsOf({{1, 2, 3}}), PairsOf({})};
  const Removal removal = WithoutDocuments(*tables, names, &pairs);
  const OwnedGate& gate = removal.tables.gate;
  EXPECT_THAT(gate.pairs, ElementsAre(Pair(1, 5), Pair(2, 3), Pair(3, 4), Pair(kEnd, 1), Pair(kEnd, 2)));
  EXPECT_THAT(gate.pair_groups, ElementsAre(1, 2, 2, 1, 2));
  EXPECT_EQ(removal.pairs, 2u);  // (1 2), and (2 3) of the left group
  EXPECT_TRUE(CheckTables(*MakeTables(removal.tables)).ok());
}

TEST(WithoutDocuments, WithoutTextEveryPairStays) {
  const auto tables = MakeTables(Entries());
  const std::vector<std::string> names = {"b"};
  const Removal removal = WithoutDocuments(*tables, names, nullptr);
  EXPECT_EQ(removal.rows, 4u);
  EXPECT_EQ(removal.pairs, 0u);
  EXPECT_EQ(removal.tables.gate.pairs.size(), 6u);
}

TEST(WithoutDocuments, UnknownAndEmptyNamesChangeNothing) {
  OwnedTables owned = Entries();
  owned.documents[2].clear();  // deleted before
  const auto tables = MakeTables(std::move(owned));
  const std::vector<std::string> names = {"", "nobody"};
  const Removal removal = WithoutDocuments(*tables, names, nullptr);
  EXPECT_EQ(removal.rows + removal.output_rows, 0u);
  EXPECT_EQ(removal.tables.layers[0].value_scales.size(), 4u);
}

TEST(WithoutDocuments, WithoutAnyRowTheMemoryChangesNothing) {
  const auto tables = MakeTables(Entries());
  const std::vector<std::string> names = {"a", "b", "c"};
  const Removal removal = WithoutDocuments(*tables, names, nullptr);
  EXPECT_EQ(removal.rows, 8u);
  EXPECT_THAT(removal.tables.layers, IsEmpty());
  EXPECT_FALSE(removal.tables.output.enabled);
  EXPECT_FALSE(removal.tables.gate.enabled);
  EXPECT_TRUE(CheckTables(*MakeTables(removal.tables)).ok());
}

// Prototypes of 8 references: of document 0 so many, the others of document 1.
OwnedTables PrototypesWith(const std::vector<size_t>& of_first) {
  OwnedTables tables;
  tables.kind = MemoryKind::kPrototypes;
  tables.documents = {"a", "b", "c"};
  std::vector<EntryRef> references;
  for (const size_t count : of_first) {
    for (uint32_t i = 0; i < kPrototypeReferences; ++i) references.push_back({i < count ? 0u : 1u, i});
  }
  tables.layers = {LayerOf(0, of_first.size(), references)};
  return tables;
}

size_t ReferencesWithout(const OwnedTables& tables, size_t row) {
  size_t count = 0;
  for (size_t i = 0; i < kPrototypeReferences; ++i) {
    count += tables.layers[0].references[row * kPrototypeReferences + i].document == kNoDocument;
  }
  return count;
}

TEST(WithoutDocuments, PrototypesGoWhenMostOfTheirReferencesAreGone) {
  const auto tables = MakeTables(PrototypesWith({5, 4, 0, 8}));
  const std::vector<std::string> names = {"a"};
  const Removal removal = WithoutDocuments(*tables, names, nullptr);
  EXPECT_EQ(removal.rows, 2u);
  EXPECT_EQ(removal.references, 4u);
  EXPECT_THAT(removal.tables.layers[0].value_scales, ElementsAre(0.5f, 1.0f));
  EXPECT_EQ(ReferencesWithout(removal.tables, 0), 4u);
  EXPECT_EQ(ReferencesWithout(removal.tables, 1), 0u);
}

TEST(WithoutDocuments, APrototypeRemembersWhatWasDeletedBefore) {
  OwnedTables owned = PrototypesWith({4, 4});
  owned.layers[0].references[7].document = 2;  // of the first prototype: 4 "a", 3 "b", 1 "c"
  const std::vector<std::string> first = {"a"}, second = {"c"};
  const Removal once = WithoutDocuments(*MakeTables(owned), first, nullptr);
  EXPECT_EQ(once.rows, 0u);
  const Removal twice = WithoutDocuments(*MakeTables(once.tables), second, nullptr);
  EXPECT_EQ(twice.rows, 1u) << "five of eight are gone";
  EXPECT_EQ(WithoutDocuments(*MakeTables(twice.tables), second, nullptr).rows, 0u) << "the same again";
}

TEST(WithoutDocuments, SlotsThatWereNeverUsedDoNotCount) {
  OwnedTables owned = PrototypesWith({1});
  for (size_t i = 2; i < kPrototypeReferences; ++i) owned.layers[0].references[i] = EntryRef{};
  const std::vector<std::string> names = {"a"};
  EXPECT_EQ(WithoutDocuments(*MakeTables(owned), names, nullptr).rows, 0u) << "one of two is not most";
  owned.layers[0].references[1] = EntryRef{};
  EXPECT_EQ(WithoutDocuments(*MakeTables(owned), names, nullptr).rows, 1u);
}

}  // namespace
}  // namespace pointsman
