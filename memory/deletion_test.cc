#include "memory/deletion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "memory/generation.h"
#include "memory/memory_paths.h"
#include "memory/test_deletion.h"

namespace pointsman {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(DeletionTest, TheMemoryIsAsIfBuiltWithoutTheDocument) {
  {
    auto writer = MemoryWriter::Open(path_, {});
    ASSERT_TRUE(IsOk(writer));
    const auto report = DeleteDocuments(*writer.value(), std::vector{kGone});
    ASSERT_TRUE(IsOk(report));
    EXPECT_EQ(report.value().documents, 1u);
    EXPECT_EQ(report.value().generation, 3u);
    EXPECT_EQ(report.value().rows, kTokens * kLayers.size());
    EXPECT_EQ(report.value().output_rows, kTokens);
    EXPECT_EQ(report.value().pairs, kTokens);
    EXPECT_TRUE(report.value().pairs_known);
  }
  const auto memory = Memory::Open(path_, {});
  ASSERT_TRUE(IsOk(memory));
  EXPECT_EQ(Digest(memory.value()->tables()), NewDigest());
  const Manifest& manifest = memory.value()->manifest();
  EXPECT_TRUE(manifest.verdict.stale);
  EXPECT_EQ(manifest.verdict.verdict, "adopt");
  EXPECT_EQ(manifest.reference_documents, 2u);
  EXPECT_EQ(manifest.reference_tokens, 2 * kTokens);
  EXPECT_EQ(manifest.entries, 2 * kTokens * kLayers.size());
  EXPECT_EQ(manifest.test_documents, 1u);
  EXPECT_EQ(manifest.created, MakeManifest().created) << "when it was built, not when it was changed";
  EXPECT_THAT(Verify(path_).value(), IsEmpty());
}

// The proof of deletion: found before, absent after, wherever a byte can hide.
TEST_F(DeletionTest, BytesAreGoneFromTheWriteAheadLogAndFromDerivedFiles) {
  for (const auto& [what, bytes] : Needles()) {
    EXPECT_THAT(FilesWith(TruthPath(path_), bytes), Not(IsEmpty())) << what;
  }
  EXPECT_THAT(FilesWith(path_, Needles()["name"]), ::testing::Contains("derived/gen-001/documents.bin"));
  EXPECT_THAT(FilesWith(path_, Needles()["name"]), ::testing::Contains("derived/gen-002/documents.bin"));
  EXPECT_THAT(FilesWith(path_, Needles()["name"]), ::testing::Contains("kinds/entries/documents.bin"));
  EXPECT_THAT(FilesWith(path_, Needles()["pair"]), ::testing::Contains("derived/gen-002/gate.bin"));
  EXPECT_THAT(FilesWith(path_, Needles()["first pair"]), ::testing::Contains("derived/gen-002/gate.bin"));
  EXPECT_THAT(FilesWith(path_, Needles()["key"]), ::testing::Contains("derived/gen-002/output.bin"));
  auto writer = MemoryWriter::Open(path_, {});
  ASSERT_TRUE(IsOk(DeleteDocuments(*writer.value(), std::vector{kGone})));
  ExpectGone(path_);  // while the writer is open
  writer.value().reset();
  ExpectGone(path_);
  EXPECT_THAT(FilesWith(path_, Of(kKept).document.source), Not(IsEmpty()));
}

TEST_F(DeletionTest, BytesAreGoneFromCompressedTables) {
  {
    auto writer = MemoryWriter::Open(path_, {});
    ASSERT_TRUE(IsOk(writer.value()->store().Compact()));
  }
  for (const auto& [what, bytes] : Needles()) {
    EXPECT_TRUE(TablesHold(TruthPath(path_), bytes)) << what;
    bool raw = false;
    for (const std::string& file : FilesWith(TruthPath(path_), bytes)) raw = raw || file.ends_with(".sst");
    // Every beginning shares the end-of-text token's bytes, which LZ4 writes once.
    EXPECT_TRUE(raw || what == "first pair") << what << ": a search of raw files must be able to find it";
  }
  auto writer = MemoryWriter::Open(path_, {});
  ASSERT_TRUE(IsOk(DeleteDocuments(*writer.value(), std::vector{kGone})));
  ExpectGone(path_);
}

TEST_F(DeletionTest, AReaderThatIsOpenGoesOn) {
  const auto memory = Memory::Open(path_, {});
  ASSERT_TRUE(IsOk(memory));
  auto writer = MemoryWriter::Open(path_, {});
  ASSERT_TRUE(IsOk(DeleteDocuments(*writer.value(), std::vector{kGone})));
  EXPECT_EQ(Digest(memory.value()->tables()), old_digest_);
}

TEST_F(DeletionTest, OtherRolesLeaveWhatRoutesAlone) {
  auto writer = MemoryWriter::Open(path_, {});
  const auto report = DeleteDocuments(*writer.value(), std::vector{kTest, kCalibration});
  ASSERT_TRUE(IsOk(report));
  EXPECT_EQ(report.value().rows + report.value().pairs, 0u);
  const Manifest manifest = writer.value()->manifest().value();
  EXPECT_EQ(manifest.test_documents, 0u);
  EXPECT_EQ(manifest.calibration_documents, 0u);
  EXPECT_THAT(manifest.test_sha256, IsEmpty()) << "a hash of the content is content";
  EXPECT_EQ(manifest.reference_documents, 3u);
  EXPECT_EQ(PublishedDigest(path_), old_digest_);
}

TEST_F(DeletionTest, WithoutTextTheGateKeepsItsPairsAndSaysSo) {
  auto writer = MemoryWriter::Open(path_, {});
  Manifest manifest = writer.value()->manifest().value();
  manifest.has_text = false;
  ASSERT_TRUE(IsOk(writer.value()->UpdateManifest(manifest)));
  const auto report = DeleteDocuments(*writer.value(), std::vector{kGone});
  ASSERT_TRUE(IsOk(report));
  EXPECT_FALSE(report.value().pairs_known);
  EXPECT_EQ(report.value().pairs, 0u);
  EXPECT_EQ(writer.value()->manifest().value().reference_tokens, 2 * kTokens);
}

TEST_F(DeletionTest, EverythingMayGo) {
  auto writer = MemoryWriter::Open(path_, {});
  ASSERT_TRUE(IsOk(DeleteDocuments(*writer.value(), std::vector{kGone, kKept, kOtherKept})));
  const auto memory = Memory::Open(path_, {});
  ASSERT_TRUE(IsOk(memory));
  EXPECT_THAT(memory.value()->tables().layers, IsEmpty());
  EXPECT_EQ(memory.value()->manifest().reference_tokens, 0u);
}

TEST_F(DeletionTest, AnUnknownDocumentChangesNothing) {
  auto writer = MemoryWriter::Open(path_, {});
  const auto report = DeleteDocuments(*writer.value(), std::vector{kGone, uint64_t{77}});
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(report.error().message, HasSubstr("000000000000004d"));
  EXPECT_TRUE(writer.value()->store().GetDocument(kGone).ok());
  EXPECT_EQ(writer.value()->manifest().value().generation, 2u);
  EXPECT_FALSE(writer.value()->manifest().value().verdict.stale);
}

TEST_F(DeletionTest, NothingToDeleteIsNothingDone) {
  auto writer = MemoryWriter::Open(path_, {});
  const auto report = DeleteDocuments(*writer.value(), {});
  ASSERT_TRUE(IsOk(report));
  EXPECT_EQ(report.value().documents, 0u);
  EXPECT_EQ(report.value().generation, 2u);
}

TEST_F(DeletionTest, ExpiredDocumentsAreThoseWhoseTimeHasPassed) {
  auto writer = MemoryWriter::Open(path_, {});
  EntryStore& store = writer.value()->store();
  Document document = Of(kKept).document;
  document.expires_unix_s = 1000;
  ASSERT_TRUE(IsOk(store.PutDocument(document)));
  EXPECT_THAT(ExpiredDocuments(store, 999).value(), IsEmpty());
  EXPECT_THAT(ExpiredDocuments(store, 1000).value(), ElementsAre(kKept));
}

}  // namespace
}  // namespace pointsman
