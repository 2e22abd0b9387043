#include "indexer/evaluation/token_groups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pointsman {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(TokenClassOfTest, TellsTokensApartByTheirText) {
  for (const char* word : {"std", " std", "_t", "x1",
                           " Gr\xc3\xbc\xc3\x9f"
                           "e",
                           "\xc3"}) {
    EXPECT_EQ(TokenClassOf(word), TokenClass::kWord) << word;
  }
  for (const char* number : {"12", " 0x1F", "3.5", "1'000", "64u"}) {
    EXPECT_EQ(TokenClassOf(number), TokenClass::kNumber) << number;
  }
  for (const char* sign : {"();", " {", "::", "-"}) EXPECT_EQ(TokenClassOf(sign), TokenClass::kPunctuation) << sign;
  for (const char* space : {" ", "\n\n", "\t ", "\r\n"}) EXPECT_EQ(TokenClassOf(space), TokenClass::kSpace);
  for (const char* other : {"<|endoftext|>", "::x", "a-b", "1+", "\x01", ""}) {
    EXPECT_EQ(TokenClassOf(other), TokenClass::kOther) << other;
  }
}

TEST(PositionBinTest, BinsDoubleAndTheirTextsSayWhatIsInThem) {
  EXPECT_EQ(PositionBinText(0), "1 to 4");
  EXPECT_EQ(PositionBinText(1), "5 to 8");
  EXPECT_EQ(PositionBinText(6), "129 to 256");
  // Position 0 is the first token: each bin holds what its text says.
  for (const auto& [position, bin] : {std::pair<size_t, size_t>{0, 0},
                                      {3, 0},
                                      {4, 1},
                                      {7, 1},
                                      {8, 2},
                                      {15, 2},
                                      {16, 3},
                                      {127, 5},
                                      {128, 6},
                                      {255, 6},
                                      {256, 7}}) {
    EXPECT_EQ(PositionBin(position), bin) << position;
  }
}

TEST(GroupByKindTest, FilesHaveExtensionsAndFoldersBelowTheirCommonPath) {
  const std::vector<std::string> sources{"/usr/include/boost/mpl/and.hpp", "/usr/include/boost/any.hpp",
                                         "/usr/include/c++/12/vector"};
  const auto groupings = GroupByKind(sources);
  ASSERT_EQ(groupings.size(), 2u);
  EXPECT_EQ(groupings[0].by, "extension");
  EXPECT_THAT(groupings[0].kind, ElementsAre(".hpp", ".hpp", "no extension"));
  EXPECT_EQ(groupings[1].by, "folder");
  EXPECT_THAT(groupings[1].kind, ElementsAre("boost/", "boost/", "c++/"));
}

TEST(GroupByKindTest, RowsAreGroupedByTheirFile) {
  const std::vector<std::string> sources{"d/a.jsonl#1", "d/b.jsonl#12", "notes#1", "x.md"};
  const auto groupings = GroupByKind(sources);
  ASSERT_EQ(groupings.size(), 2u);  // both plain files lie in one folder: nothing to tell apart
  EXPECT_THAT(groupings[0].kind, ElementsAre("", "", "no extension", ".md"));
  EXPECT_EQ(groupings[1].by, "file");
  EXPECT_THAT(groupings[1].kind, ElementsAre("a.jsonl", "b.jsonl", "", ""));
}

TEST(GroupByKindTest, AFileBesideFoldersIsAtTheTop) {
  const auto groupings = GroupByKind(std::vector<std::string>{"c/a.h", "c/x/b.h", "c/y/d.h"});
  ASSERT_EQ(groupings.size(), 2u);
  EXPECT_THAT(groupings[1].kind, ElementsAre("(top)", "x/", "y/"));
  EXPECT_THAT(GroupByKind({}), IsEmpty());
}

}  // namespace
}  // namespace pointsman
