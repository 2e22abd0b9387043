// Optional parts of a generation: what is on disk without them, and that a reader must know those that are there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "memory/test_generation.h"

namespace pointsman {
namespace {

class PartsOfAGeneration : public GenerationOfPrototypes {
 protected:
  std::vector<uint32_t> Named(uint64_t count) {
    const auto documents = SectionFile::Open(files_, path() / "documents.bin", DerivedKind::kDocuments, {});
    EXPECT_TRUE(documents.ok());
    return Copy(documents.value().Get<uint32_t>(SectionType::kParts, count, 1).value());
  }
};

// What older versions wrote and read: no file and no section of the output memory.
TEST_F(PartsOfAGeneration, WithoutAnOutputMemoryNoFileAndNoSectionOfItIsThere) {
  OwnedTables owned = Owned();
  owned.output = {};
  tables_ = MakeTables(owned);
  ASSERT_TRUE(Write().ok());
  EXPECT_EQ(FileNames(), (std::vector<std::string>{"documents.bin", "gate.bin", "layer-001.bin", "layer-003.bin"}));
  const auto documents = SectionFile::Open(files_, path() / "documents.bin", DerivedKind::kDocuments, {});
  ASSERT_TRUE(documents.ok());
  EXPECT_FALSE(documents.value().Has(SectionType::kParts));
  const auto mapped = Map();
  ASSERT_TRUE(mapped.ok()) << mapped.error().message;
  ExpectSameTables(mapped.value(), *tables_);
}

TEST_F(PartsOfAGeneration, GroupsOfTheGateComeBack) {
  const OwnedTables owned = Owned();
  const std::string one_group = Digest(*MakeTables(owned));
  tables_ = MakeTables(WithGroups(owned));
  EXPECT_NE(Digest(*tables_), one_group);
  ASSERT_TRUE(Write().ok());
  const auto mapped = Map();
  ASSERT_TRUE(mapped.ok()) << mapped.error().message;
  ExpectSameTables(mapped.value(), *tables_);
  EXPECT_EQ(Digest(mapped.value()), Digest(*tables_));
}

// A version that knows no groups must refuse, not open the gate for one group's ramp on the pairs of all.
TEST_F(PartsOfAGeneration, GroupsOfTheGateAreAPartThatReadersMustKnow) {
  tables_ = MakeTables(WithGroups(Owned()));
  ASSERT_TRUE(Write().ok());
  EXPECT_THAT(Named(2), ::testing::ElementsAre(1u, 2u));
}

// What was written before there were groups: no section of theirs, and the digest that such tables had.
TEST_F(PartsOfAGeneration, AGateOfOneGroupIsWhatItWasBeforeThereWereGroups) {
  OwnedTables owned;
  owned.gate = {.enabled = true,
                .n0 = 2,
                .common = 0.5f,
                .window = 50,
                .groups = {{.name = "", .prior = 0.125f, .lo = 0.25f, .hi = 0.5f}},
                .pairs = {3, uint64_t{1} << 32 | 7},
                .is_common = {0, 1},
                .pair_groups = {}};
  tables_ = MakeTables(owned);
  EXPECT_EQ(Digest(*tables_), "fe7bae33d8f1f8d11f22f43a3fa156c9");
  ASSERT_TRUE(Write().ok());
  const auto gate = SectionFile::Open(files_, path() / "gate.bin", DerivedKind::kGate, {});
  ASSERT_TRUE(gate.ok());
  for (const SectionType type :
       {SectionType::kNameOffsets, SectionType::kNames, SectionType::kGateRamps, SectionType::kPairGroups}) {
    EXPECT_FALSE(gate.value().Has(type)) << static_cast<uint32_t>(type);
  }
}

TEST_F(PartsOfAGeneration, TokenTablesOfSomeTokensComeBack) {
  const OwnedTables owned = Owned();
  tables_ = MakeTables(WithTokenIds(owned));
  EXPECT_THAT(tables_->layers[0].token_ids, ::testing::ElementsAre(1, 2, 4, 7));
  EXPECT_TRUE(tables_->layers[1].token_ids.empty());
  EXPECT_NE(Digest(*tables_), Digest(*MakeTables(owned)));
  ASSERT_TRUE(Write().ok());
  const auto mapped = Map();
  ASSERT_TRUE(mapped.ok()) << mapped.error().message;
  ExpectSameTables(mapped.value(), *tables_);
  EXPECT_EQ(Digest(mapped.value()), Digest(*tables_));
  OwnedTables others = WithTokenIds(owned);
  others.layers[0].token_ids.back() = 8;
  EXPECT_NE(Digest(*MakeTables(others)), Digest(*tables_)) << "the same rows of other tokens";
}

// A version that takes row v for token v's must refuse.
TEST_F(PartsOfAGeneration, TokenIdsAreAPartThatReadersMustKnow) {
  tables_ = MakeTables(WithTokenIds(Owned()));
  ASSERT_TRUE(Write().ok());
  EXPECT_THAT(Named(2), ::testing::ElementsAre(1u, 3u));
  tables_ = MakeTables(WithGroups(WithTokenIds(Owned())));
  ASSERT_TRUE(Write().ok());
  EXPECT_THAT(Named(3), ::testing::ElementsAre(1u, 2u, 3u));
}

// What was written before: no section and no part.
TEST_F(PartsOfAGeneration, ATokenTableOfAllTokensIsWhatItWas) {
  ASSERT_TRUE(Write().ok());
  EXPECT_THAT(Named(1), ::testing::ElementsAre(1u));
  const auto layer = SectionFile::Open(files_, path() / "layer-001.bin", DerivedKind::kLayer, {});
  ASSERT_TRUE(layer.ok());
  EXPECT_FALSE(layer.value().Has(SectionType::kTokenIds));
}

}  // namespace
}  // namespace pointsman
