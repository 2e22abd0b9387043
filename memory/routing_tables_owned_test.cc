#include "memory/routing_tables_owned.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "memory/layer_index.h"
#include "memory/memory.h"

namespace pointsman {
namespace {

using testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

void Group(OwnedTables* tables) {
  tables->gate.groups = {{.name = "a", .prior = 0, .lo = 0.2f, .hi = 0.6f},
                         {.name = "b", .prior = 0, .lo = 0.2f, .hi = 0.6f}};
  tables->gate.pair_groups = {1, 2};
}

// Four entries of two documents in one layer: unit keys along the axes, raw (hidden == dim == 4), two experts.
OwnedTables FourEntries() {
  OwnedTables owned;
  owned.top_k = 1;
  owned.documents = {"a.md", "b.md"};
  OwnedLayer layer;
  layer.layer = 2;
  layer.experts = 2;
  layer.keys.hidden = layer.keys.dim = 4;
  layer.keys.SetKeys({1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1});
  layer.SetValues({1, -1, 2, -2, 3, -3, 4, -4});
  layer.references = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
  owned.layers.push_back(layer);
  owned.gate.enabled = true;
  owned.gate.pairs = {5, 9};
  owned.gate.is_common = {0, 1};
  owned.output.enabled = true;
  owned.output.vocabulary = 9;
  owned.output.keys = layer.keys;
  owned.output.next_tokens = {8, 0, 3, 3};
  owned.output.references = layer.references;
  return owned;
}

TEST(MakeTables, ViewsShowTheVectorsAndOutliveThem) {
  auto tables = std::make_unique<std::shared_ptr<const RoutingTables>>(MakeTables(FourEntries()));
  const RoutingTables copy = **tables;
  tables.reset();
  ASSERT_EQ(copy.layers.size(), 1u);
  const LayerView& layer = copy.layers[0];
  EXPECT_EQ(layer.layer, 2);
  EXPECT_EQ(layer.keys.rows, 4u);
  EXPECT_EQ(layer.keys.codes[5], 127);
  EXPECT_FLOAT_EQ(layer.values[3] * layer.value_scales[1], -2.0f);
  EXPECT_EQ(layer.references[2].document, 1u);
  EXPECT_EQ(copy.documents[1], "b.md");
  EXPECT_EQ(copy.gate.pairs.size(), 2u);
  EXPECT_EQ(copy.output.next_tokens[2], 3);
  EXPECT_TRUE(CheckTables(copy).ok());
}

TEST(MakeTables, WhatItMakesCanBeSearched) {
  auto tables = MakeTables(FourEntries());
  const std::vector<float> query = {0.1f, 0.2f, 5.0f, 0.3f};
  std::vector<Neighbour> found(2);
  SearchExact(tables->layers[0].keys, query, 2, found);
  EXPECT_EQ(found[0].row, 2u);
  EXPECT_EQ(found[1].row, 3u);
  EXPECT_GT(found[0].similarity, 0.99f);
}

struct Damage {
  const char* message;
  std::function<void(OwnedTables*)> make;
};

TEST(CheckTables, NamesTheFieldThatIsWrong) {
  const Damage damages[] = {
      {"layer 2: k is 0", [](OwnedTables* t) { t->layers[0].calibration.k = 0; }},
      {"layer 2: k is 1025", [](OwnedTables* t) { t->layers[0].calibration.k = 1025; }},
      {"layer 2: tau is not", [](OwnedTables* t) { t->layers[0].calibration.tau = 0; }},
      {"layer 2: tau2 is not", [](OwnedTables* t) { t->layers[0].calibration.tau2 = kNan; }},
      {"layer 2: the scale", [](OwnedTables* t) { t->layers[0].calibration.scale = kNan; }},
      {"confidence", [](OwnedTables* t) { t->layers[0].calibration.confidence = static_cast<ConfidenceRule>(9); }},
      {"key codes", [](OwnedTables* t) { t->layers[0].keys.codes.pop_back(); }},
      {"a key scale", [](OwnedTables* t) { t->layers[0].keys.code_scales[1] = -1; }},
      {"a key scale", [](OwnedTables* t) { t->layers[0].keys.code_scales[1] = kNan; }},
      {"the mean does not", [](OwnedTables* t) { t->layers[0].keys.mean.resize(3); }},
      {"the mean is not",
       [](OwnedTables* t) {
         t->layers[0].keys.mean = {0, 0, kNan, 0};
       }},
      {"the projection is not [", [](OwnedTables* t) { t->layers[0].keys.hidden = 5; }},
      {"the values", [](OwnedTables* t) { t->layers[0].values.pop_back(); }},
      {"the value scales", [](OwnedTables* t) { t->layers[0].value_scales.pop_back(); }},
      {"the references are not 1", [](OwnedTables* t) { t->layers[0].references.pop_back(); }},
      {"the references are not 8", [](OwnedTables* t) { t->kind = MemoryKind::kPrototypes; }},
      {"names no document", [](OwnedTables* t) { t->layers[0].references[3].document = 2; }},
      {"the router delta", [](OwnedTables* t) { t->layers[0].router_delta.resize(7); }},
      {"the token table", [](OwnedTables* t) { t->layers[0].token_table_scales.resize(3); }},
      {"the tokens of the token table are not one a row",
       [](OwnedTables* t) {
         t->layers[0].token_ids = {1, 2};
       }},
      {"the tokens of the token table do not ascend",
       [](OwnedTables* t) {
         t->layers[0].SetTokenTable({1, 1, 2, 2});
         t->layers[0].token_ids = {7, 7};
       }},
      {"top-k is larger", [](OwnedTables* t) { t->top_k = 3; }},
      {"assignments need", [](OwnedTables* t) { t->value_kind = ValueKind::kAssignments, t->top_k = 0; }},
      {"number of experts", [](OwnedTables* t) { t->layers[0].experts = 0, t->top_k = 0; }},
      {"layer 2 does not follow", [](OwnedTables* t) { t->layers.push_back(t->layers[0]); }},
      {"layer -3", [](OwnedTables* t) { t->layers[0].layer = -3; }},
      {"gate: lo", [](OwnedTables* t) { t->gate.groups[0].lo = t->gate.groups[0].hi; }},
      {"gate: the weight of common pairs", [](OwnedTables* t) { t->gate.common = 1.5f; }},
      {"gate: the token pairs do not ascend",
       [](OwnedTables* t) {
         t->gate.pairs = {9, 9};
       }},
      {"gate: the marks of common pairs", [](OwnedTables* t) { t->gate.is_common.pop_back(); }},
      {"gate: there is no group", [](OwnedTables* t) { t->gate.groups.clear(); }},
      {"gate: there is no group, or too many", [](OwnedTables* t) { t->gate.groups.resize(kMostGateGroups + 1); }},
      {"gate: pairs are marked with groups",
       [](OwnedTables* t) {
         t->gate.pair_groups = {1, 1};
       }},
      {"gate: a group has no name", [](OwnedTables* t) { Group(t), t->gate.groups[1].name.clear(); }},
      {"gate: a group has no name, or another's", [](OwnedTables* t) { Group(t), t->gate.groups[1].name = "a"; }},
      {"gate: a group has no name", [](OwnedTables* t) { Group(t), t->gate.groups[1].name = "two\nlines"; }},
      {"gate: a group has no name", [](OwnedTables* t) { Group(t), t->gate.groups[1].name = std::string("a\0b", 3); }},
      {"gate: a group has no name", [](OwnedTables* t) { Group(t), t->gate.groups[1].name = std::string(81, 'x'); }},
      {"gate: lo", [](OwnedTables* t) { Group(t), t->gate.groups[1].lo = 2; }},
      {"gate: the prior", [](OwnedTables* t) { Group(t), t->gate.groups[1].prior = kNan; }},
      {"gate: the marks of groups", [](OwnedTables* t) { Group(t), t->gate.pair_groups.pop_back(); }},
      {"gate: a pair belongs to no group", [](OwnedTables* t) { Group(t), t->gate.pair_groups[0] = 0; }},
      {"gate: a pair belongs to no group, or to one", [](OwnedTables* t) { Group(t), t->gate.pair_groups[1] = 4; }},
      {"gate: the window", [](OwnedTables* t) { t->gate.window = 0; }},
      {"gate: n0", [](OwnedTables* t) { t->gate.n0 = -1; }},
      {"gate: there are no",
       [](OwnedTables* t) {
         t->gate.pairs.clear();
         t->gate.is_common.clear();
       }},
      {"output memory: k is 0", [](OwnedTables* t) { t->output.k = 0; }},
      {"output memory: tau", [](OwnedTables* t) { t->output.tau = -1; }},
      {"output memory: lambda is 1,", [](OwnedTables* t) { t->output.lambda = 1; }},
      {"output memory: lambda", [](OwnedTables* t) { t->output.lambda = kNan; }},
      {"output memory: tau2", [](OwnedTables* t) { t->output.tau2 = 0; }},
      {"output memory: the vocabulary", [](OwnedTables* t) { t->output.vocabulary = 0; }},
      {"output memory: there are no keys", [](OwnedTables* t) { t->output.keys = {}; }},
      {"output memory: the key codes", [](OwnedTables* t) { t->output.keys.codes.pop_back(); }},
      {"output memory: the next tokens", [](OwnedTables* t) { t->output.next_tokens.pop_back(); }},
      {"output memory: a next token", [](OwnedTables* t) { t->output.next_tokens[1] = 9; }},
      {"output memory: a next token", [](OwnedTables* t) { t->output.next_tokens[1] = -1; }},
      {"output memory: the references", [](OwnedTables* t) { t->output.references.pop_back(); }},
      {"output memory: a reference", [](OwnedTables* t) { t->output.references[0].document = 2; }},
  };
  for (const Damage& damage : damages) {
    OwnedTables owned = FourEntries();
    damage.make(&owned);
    const Status status = CheckTables(*MakeTables(std::move(owned)));
    ASSERT_FALSE(status.ok()) << damage.message;
    EXPECT_EQ(status.error().code, ErrorCode::kCorrupt);
    EXPECT_THAT(status.error().message, HasSubstr(damage.message));
  }
}

TEST(SetTokenTable, KeepsRowsThatSaySomethingWhereThatSavesBytes) {
  OwnedLayer layer;
  layer.experts = 2;
  layer.SetTokenTable({0, 0, 1, -2, 0, 0, 0, 0, 0, 4, 0, 0});
  EXPECT_THAT(layer.token_ids, testing::ElementsAre(1, 4));
  EXPECT_THAT(layer.token_table, testing::ElementsAre(64, -127, 0, 127));
  ASSERT_EQ(layer.token_table_scales.size(), 2u);
  EXPECT_FLOAT_EQ(layer.token_table_scales[0] * 127, 2);
  EXPECT_FLOAT_EQ(layer.token_table_scales[1] * 127, 4);

  layer.SetTokenTable({1, 1, 1, 1, 0, 0, 1, 1});  // 3 rows of 10 bytes against 4 of 6
  EXPECT_TRUE(layer.token_ids.empty());
  EXPECT_EQ(layer.token_table_scales.size(), 4u);
  layer.SetTokenTable({0, 0, 0, 0});
  EXPECT_TRUE(layer.token_ids.empty()) << "no token would be every token";
  EXPECT_EQ(layer.token_table.size(), 4u);
}

TEST(CheckTables, UnusedPrototypeReferencesAndAMemoryWithoutGateAreFine) {
  OwnedTables owned = FourEntries();
  owned.kind = MemoryKind::kPrototypes;
  owned.layers[0].references.assign(4 * kPrototypeReferences, EntryRef{});
  owned.gate = {};
  EXPECT_TRUE(CheckTables(*MakeTables(std::move(owned))).ok());
}

std::string DigestOf(OwnedTables owned) { return Digest(*MakeTables(std::move(owned))); }

TEST(Digest, DoesNotDependOnNamesOrOnTheOrderOfRowsAndDocuments) {
  OwnedTables renamed = FourEntries();
  renamed.documents = {"elsewhere/a.md", "elsewhere/b.md"};
  EXPECT_EQ(DigestOf(renamed), DigestOf(FourEntries()));
  EXPECT_EQ(DigestOf(FourEntries()).size(), 32u);

  OwnedTables reordered = FourEntries();
  std::swap(reordered.documents[0], reordered.documents[1]);
  OwnedLayer& layer = reordered.layers[0];
  layer.keys.SetKeys({0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0});
  layer.SetValues({4, -4, 3, -3, 2, -2, 1, -1});
  layer.references = {{0, 1}, {0, 0}, {1, 1}, {1, 0}};
  reordered.output.keys = layer.keys;
  reordered.output.next_tokens = {3, 3, 0, 8};
  reordered.output.references = layer.references;
  EXPECT_EQ(DigestOf(reordered), DigestOf(FourEntries()));
}

TEST(Digest, DependsOnEverythingThatRoutes) {
  const std::function<void(OwnedTables*)> changes[] = {
      [](OwnedTables* t) { t->value_kind = ValueKind::kLogits; },
      [](OwnedTables* t) { t->top_k = 2; },
      [](OwnedTables* t) { t->layers[0].layer = 3; },
      [](OwnedTables* t) { t->layers[0].calibration.k = 4; },
      [](OwnedTables* t) { t->layers[0].calibration.tau = 0.25f; },
      [](OwnedTables* t) { t->layers[0].keys.codes[0] -= 1; },
      [](OwnedTables* t) { t->layers[0].keys.code_scales[0] *= 2; },
      [](OwnedTables* t) {
        t->layers[0].keys.mean = {0, 0, 0, 1};
      },
      [](OwnedTables* t) { t->layers[0].values[7] += 1; },
      [](OwnedTables* t) { t->layers[0].value_scales[3] *= 2; },
      [](OwnedTables* t) { std::swap(t->layers[0].value_scales[0], t->layers[0].value_scales[1]); },
      [](OwnedTables* t) { t->layers[0].references[0].position = 9; },
      [](OwnedTables* t) { t->layers[0].router_delta.assign(8, 0.5f); },
      [](OwnedTables* t) {
        t->layers[0].SetTokenTable({1, 2});
      },
      [](OwnedTables* t) { t->gate.enabled = false; },
      [](OwnedTables* t) { t->gate.groups[0].lo = 0.1f; },
      [](OwnedTables* t) { t->gate.window = 5; },
      [](OwnedTables* t) { t->gate.pairs[1] = 8; },
      [](OwnedTables* t) { t->gate.is_common[0] = 1; },
      [](OwnedTables* t) { Group(t); },
      [](OwnedTables* t) { Group(t), t->gate.pair_groups[0] = 3; },
      [](OwnedTables* t) { Group(t), t->gate.groups[1].hi = 0.9f; },
      [](OwnedTables* t) { t->output = {}; },
      [](OwnedTables* t) { t->output.k = 8; },
      [](OwnedTables* t) { t->output.tau = 0.2f; },
      [](OwnedTables* t) { t->output.lambda = 0.5f; },
      [](OwnedTables* t) { t->output.tau2 = 0.5f; },
      [](OwnedTables* t) { t->output.vocabulary = 10; },
      [](OwnedTables* t) { t->output.next_tokens[0] = 7; },
      [](OwnedTables* t) { t->output.keys.codes[0] -= 2; },
      [](OwnedTables* t) { t->output.references[0].position = 5; },
  };
  std::vector<std::string> digests = {DigestOf(FourEntries())};
  for (const auto& change : changes) {
    OwnedTables owned = FourEntries();
    change(&owned);
    digests.push_back(DigestOf(std::move(owned)));
  }
  for (size_t a = 0; a < digests.size(); ++a) {
    for (size_t b = 0; b < a; ++b) EXPECT_NE(digests[a], digests[b]) << "changes " << a << " and " << b;
  }
}

}  // namespace
}  // namespace pointsman
