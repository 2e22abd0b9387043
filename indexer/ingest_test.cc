#include "indexer/ingest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace pointsman {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
namespace fs = std::filesystem;

// A corpus folder of its own for each test.
class CorpusFolder : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(testing::TempDir()) / (std::string("ingest_") + test->name());
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& name, const std::string& bytes) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << bytes;
  }
  IngestResult Read(IngestOptions options = {}) {
    if (options.paths.empty()) options.paths = {root_.string()};
    auto result = Ingest(options);
    EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
    return result.ok() ? std::move(result).value() : IngestResult{};
  }
  static std::vector<std::string> Names(const IngestResult& result) {
    std::vector<std::string> names;
    for (const RawDocument& d : result.documents) names.push_back(d.name);
    return names;
  }
  fs::path root_;
};

TEST_F(CorpusFolder, GroupsAreSampledEachForItselfAndADocumentIsOfTheFirstThatHasIt) {
  for (int i = 0; i < 9; ++i) Write("many/" + std::to_string(i), "many " + std::to_string(i));
  Write("few/a", "few");
  Write("few/b", "many 3");
  IngestOptions options;
  options.groups = {{"many", {(root_ / "many").string()}}, {"few", {(root_ / "few").string()}}};
  const IngestResult all = Read(options);
  ASSERT_EQ(all.documents.size(), 10u);
  EXPECT_EQ(all.report.exact_duplicates, 1u);
  EXPECT_EQ(all.report.files_found, 11u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(all.documents[i].group, i < 9 ? 0u : 1u);
  EXPECT_EQ(all.documents.back().text, "few");
  options.max_documents = 2;
  const IngestResult some = Read(options);
  EXPECT_EQ(std::ranges::count(some.documents, 0u, &RawDocument::group), 2);
  EXPECT_GE(std::ranges::count(some.documents, 1u, &RawDocument::group), 1);
}

TEST_F(CorpusFolder, AnEmptyGroupIsNamedByItsPath) {
  Write("full/a", "text");
  fs::create_directories(root_ / "empty");
  IngestOptions options;
  options.groups = {{"full", {(root_ / "full").string()}}, {"empty", {(root_ / "empty").string()}}};
  const auto result = Ingest(options);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr((root_ / "empty").string()));
}

TEST_F(CorpusFolder, EveryTextFileIsADocumentWhateverItsName) {
  Write("notes.txt", "one");
  Write("bits/vector", "#pragma once\n");  // libstdc++'s headers have no extension
  Write("bits/deep/er/README.md", "# two");
  Write(".hidden", "three");
  const IngestResult result = Read();
  EXPECT_THAT(Names(result), ElementsAre(".hidden", "bits/deep/er/README.md", "bits/vector", "notes.txt"));
  const RawDocument& vector = result.documents[2];
  EXPECT_EQ(vector.source, (root_ / "bits/vector").string());
  EXPECT_EQ(vector.library, "bits");
  EXPECT_EQ(vector.text, "#pragma once\n");
  EXPECT_TRUE(vector.learn_spans.empty());
  EXPECT_EQ(result.documents[3].library, "notes");
  // echo -n one | sha256sum
  EXPECT_EQ(result.documents[3].sha256, "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed");
  EXPECT_EQ(result.report.files_read, 4u);
}

TEST_F(CorpusFolder, HashDependsOnTextAndNameOnly) {
  Write("a/x.txt", "same");
  Write("b/x.txt", "same");
  const auto in_a = Read({.paths = {(root_ / "a").string()}});
  const auto in_b = Read({.paths = {(root_ / "b").string()}});
  const auto from_root = Read();
  EXPECT_EQ(in_a.documents[0].hash, in_b.documents[0].hash);  // another place on disk is the same document
  EXPECT_NE(in_a.documents[0].hash, from_root.documents[0].hash);
}

TEST_F(CorpusFolder, SkipsWhatIsNoTextAndNamesIt) {
  Write("good.txt", "text");
  Write("image.png", std::string("\x89PNG\0\0", 6));
  Write("utf16.txt", std::string("h\0i\0", 4));
  Write("latin1.txt", "caf\xe9 au lait, long enough");
  Write("truncated.txt", "caf\xc3");
  Write("surrogate.txt", "\xed\xa0\x80");
  Write("empty.txt", "");
  Write("blank.txt", " \n\t\r\n");
  Write("large.txt", std::string(200, 'x'));
  fs::create_symlink(root_ / "nowhere", root_ / "dangling.txt");
  const IngestResult result = Read({.paths = {root_.string()}, .max_file_bytes = 100});
  EXPECT_THAT(Names(result), ElementsAre("good.txt"));
  const IngestReport& report = result.report;
  EXPECT_EQ(report.Skipped(SkipReason::kBinary).count, 2u);
  EXPECT_THAT(report.Skipped(SkipReason::kInvalidUtf8).names,
              ElementsAre((root_ / "latin1.txt").string(), (root_ / "surrogate.txt").string(),
                          (root_ / "truncated.txt").string()));
  EXPECT_EQ(report.Skipped(SkipReason::kEmpty).count, 2u);
  EXPECT_THAT(report.Skipped(SkipReason::kTooLarge).names, ElementsAre((root_ / "large.txt").string()));
  EXPECT_THAT(report.Skipped(SkipReason::kUnreadable).names, ElementsAre((root_ / "dangling.txt").string()));
  EXPECT_THAT(report.Summary(), HasSubstr("1 documents (0.0 MB) from 10 files; skipped: 2 binary ("));
  EXPECT_THAT(report.Summary(), HasSubstr("1 too large (" + (root_ / "large.txt").string() + ")"));
}

TEST_F(CorpusFolder, NamesAtMostTenPerReason) {
  Write("good.txt", "text");
  for (int i = 0; i < 15; ++i) Write("empty" + std::to_string(i), "");
  const IngestResult result = Read();
  const SkippedFiles& skipped = result.report.Skipped(SkipReason::kEmpty);
  EXPECT_EQ(skipped.count, 15u);
  EXPECT_EQ(skipped.names.size(), 10u);
}

TEST_F(CorpusFolder, ExactDuplicatesAreKeptOnce) {
  Write("a.txt", "same text");
  Write("b.txt", "same text");
  Write("c.txt", "\xEF\xBB\xBFsame text");  // a byte order mark is no difference
  const IngestResult result = Read();
  EXPECT_THAT(Names(result), ElementsAre("a.txt"));
  EXPECT_EQ(result.report.exact_duplicates, 2u);
}

TEST_F(CorpusFolder, FollowsLinksOnceAndSurvivesLoops) {
  Write("real/z.txt", "linked text");
  fs::create_symlink(root_ / "real/z.txt", root_ / "a_link.txt");  // sorts first, yet the real name is kept
  fs::create_directory_symlink(root_, root_ / "real/loop");
  const fs::path elsewhere = root_.string() + "_elsewhere";
  fs::create_directories(elsewhere);
  std::ofstream(elsewhere / "far.txt") << "text outside";
  fs::create_directory_symlink(elsewhere, root_ / "far");
  fs::create_directory_symlink(root_ / "real", elsewhere / "back");
  EXPECT_THAT(Names(Read()), ElementsAre("far/far.txt", "real/z.txt"));
  fs::remove_all(elsewhere);
}

TEST_F(CorpusFolder, OverlappingPathsAndSpecialFilesDoNoHarm) {
  Write("sub/x.txt", "text");
  Write(".git/config", "not a document");
  ASSERT_EQ(mkfifo((root_ / "pipe").c_str(), 0600), 0);  // reading it would hang
  const IngestResult result = Read({.paths = {(root_ / "sub/x.txt").string(), root_.string() + "/"}});
  EXPECT_THAT(Names(result), ElementsAre("x.txt"));
  EXPECT_EQ(result.report.exact_duplicates, 0u);  // read once, not twice
}

TEST_F(CorpusFolder, ReadsOneDocumentARowOfJsonLines) {
  Write("data/rows.jsonl",
        "{\"text\": \"first\"}\r\n"
        "\n"
        "not json\n"
        "{\"question\": \"q?\", \"id\": 7, \"answer\": \"a.\"}\n"
        "{\"id\": 8}\n"
        "{\"text\": \"caf\xe9\"}\n"
        "{\"prompt\": \"2+2 is\", \"completion\": \"4\"}");
  const IngestResult result = Read();
  EXPECT_THAT(Names(result), ElementsAre("data/rows.jsonl#1", "data/rows.jsonl#4", "data/rows.jsonl#7"));
  EXPECT_EQ(result.documents[0].text, "first");
  EXPECT_EQ(result.documents[1].text, "q?\na.");
  EXPECT_EQ(result.documents[2].text, "2+2 is\n4");
  EXPECT_THAT(result.documents[2].learn_spans, ElementsAre(ByteSpan(7, 8)));
  EXPECT_EQ(result.documents[2].source, (root_ / "data/rows.jsonl#7").string());
  EXPECT_EQ(result.documents[2].library, "data");
  EXPECT_EQ(result.report.Skipped(SkipReason::kMalformedRow).count, 2u);
  EXPECT_EQ(result.report.Skipped(SkipReason::kInvalidUtf8).count, 1u);
}

TEST_F(CorpusFolder, AJsonLinesFileMayBeLongerThanADocumentMay) {
  std::string rows;
  for (int i = 0; i < 50; ++i) rows += "{\"text\": \"row number " + std::to_string(i) + "\"}\n";
  rows += "{\"text\": \"" + std::string(300, 'x') + "\"}\n";
  Write("rows.jsonl", rows);
  const IngestResult result = Read({.paths = {root_.string()}, .max_file_bytes = 200});
  EXPECT_EQ(result.documents.size(), 50u);
  EXPECT_THAT(result.report.Skipped(SkipReason::kTooLarge).names, ElementsAre((root_ / "rows.jsonl#51").string()));
}

TEST_F(CorpusFolder, MaxDocumentsPicksBySeedAndReadsNoMore) {
  for (int i = 0; i < 40; ++i) Write("f" + std::to_string(i), "text number " + std::to_string(i));
  const IngestOptions options{.paths = {root_.string()}, .seed = 3, .max_documents = 10};
  const IngestResult first = Read(options), again = Read(options);
  EXPECT_EQ(first.documents.size(), 10u);
  EXPECT_EQ(first.report.files_read, 10u);
  EXPECT_EQ(Names(first), Names(again));
  EXPECT_TRUE(std::is_sorted(first.documents.begin(), first.documents.end(),
                             [](const auto& a, const auto& b) { return a.name < b.name; }));
  IngestOptions other = options;
  other.seed = 4;
  EXPECT_NE(Names(first), Names(Read(other)));
  // A smaller choice is part of a larger one.
  other = options;
  other.max_documents = 5;
  const auto large = Names(first), small = Names(Read(other));
  EXPECT_TRUE(std::includes(large.begin(), large.end(), small.begin(), small.end()));
}

TEST_F(CorpusFolder, AnEmptyCorpusIsAnErrorThatSaysWhy) {
  Write("image.png", std::string("\0\0", 2));
  const auto result = Ingest({.paths = {root_.string()}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(result.error().message, root_.string() +
                                        ": no usable text (0 documents (0.0 MB) from 1 files; skipped: 1 binary (" +
                                        (root_ / "image.png").string() + ")); give files of UTF-8 text");
}

TEST_F(CorpusFolder, AMissingPathIsAnErrorThatNamesIt) {
  const auto result = Ingest({.paths = {(root_ / "absent").string()}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(result.error().message, HasSubstr((root_ / "absent").string() + ": no such corpus file or folder"));
  EXPECT_EQ(Ingest({}).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace pointsman
