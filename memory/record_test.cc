#include "memory/record.h"

#include <gtest/gtest.h>

#include <limits>

#include "memory/test_support.h"

namespace pointsman {
namespace {

TEST(RecordKeys, SortAsTheirNumbers) {
  const std::vector<uint64_t> ascending = {0, 1, 255, 256, uint64_t{1} << 32, UINT64_MAX};
  for (size_t i = 1; i < ascending.size(); ++i) {
    EXPECT_LT(DocumentKey(ascending[i - 1]), DocumentKey(ascending[i]));
    EXPECT_LT(ChangeKey(ascending[i - 1]), ChangeKey(ascending[i]));
    EXPECT_LT(EntryKey(3, {ascending[i - 1], 9}), EntryKey(3, {ascending[i], 0}));
  }
  EXPECT_LT(EntryKey(3, {UINT64_MAX, UINT32_MAX}), EntryKey(4, {0, 0}));
  EXPECT_LT(EntryKey(3, {7, 255}), EntryKey(3, {7, 256}));
  EXPECT_EQ(DecodeDocumentKey(DocumentKey(77)), 77u);
}

TEST(Records, DecodeToWhatWasEncoded) {
  const Document document = MakeDocument(0x1234);
  const auto decoded = DecodeDocument(DocumentKey(document.hash), EncodeDocument(document));
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->hash, document.hash);
  EXPECT_EQ(decoded->source, document.source);
  EXPECT_EQ(decoded->sha256, document.sha256);
  EXPECT_EQ(decoded->cluster, document.cluster);
  EXPECT_EQ(decoded->role, document.role);
  EXPECT_EQ(decoded->added_unix_s, document.added_unix_s);
  EXPECT_EQ(decoded->expires_unix_s, document.expires_unix_s);
  EXPECT_EQ(decoded->tags, document.tags);
  EXPECT_EQ(decoded->tokens, document.tokens);
  EXPECT_EQ(decoded->loss_mask, document.loss_mask);

  const StoredEntry entry = MakeEntry(5, 9, 100);
  const auto decoded_entry = DecodeEntry(EntryKey(entry.layer, entry.id), EncodeEntry(entry));
  ASSERT_TRUE(decoded_entry.has_value());
  EXPECT_EQ(decoded_entry->layer, 5);
  EXPECT_EQ(decoded_entry->id, entry.id);
  EXPECT_EQ(decoded_entry->code, entry.code);
  EXPECT_EQ(decoded_entry->code_scale, entry.code_scale);
  EXPECT_EQ(decoded_entry->value, entry.value);
  EXPECT_EQ(decoded_entry->value_scale, entry.value_scale);

  const Change change{.kind = ChangeKind::kPutSetting, .document = 0, .setting = "transform"};
  const auto decoded_change = DecodeChange(ChangeKey(8), EncodeChange(change));
  ASSERT_TRUE(decoded_change.has_value());
  EXPECT_EQ(decoded_change->sequence, 8u);
  EXPECT_EQ(decoded_change->kind, ChangeKind::kPutSetting);
  EXPECT_EQ(decoded_change->setting, "transform");
}

TEST(Records, WithoutTextAndTagsAreWhole) {
  Document document = MakeDocument(1);
  document.tokens.clear();
  document.loss_mask.clear();
  document.tags.clear();
  const auto decoded = DecodeDocument(DocumentKey(1), EncodeDocument(document));
  ASSERT_TRUE(decoded.has_value());
  EXPECT_TRUE(decoded->tokens.empty());
  EXPECT_TRUE(decoded->tags.empty());
}

// Memories that were built before documents could expire.
TEST(Records, DocumentsOfVersion1DecodeAndNeverExpire) {
  const std::string bytes(
      "\x01"  // version
      "\x05\0\0\0"
      "a.txt"  // source
      "\x02\0\0\0"
      "ff"                  // sha256
      "\x03\0\0\0\0\0\0\0"  // cluster
      "\x01"                // calibration
      "\x04\0\0\0\0\0\0\0"  // added
      "\x01\0\0\0"
      "\x01\0\0\0"
      "t"  // tags
      "\x02\0\0\0"
      "\x07\0\0\0\x08\0\0\0"  // tokens
      "\0\0\0\0",             // loss mask
      58);
  const auto document = DecodeDocument(DocumentKey(9), bytes);
  ASSERT_TRUE(document.has_value());
  EXPECT_EQ(document->source, "a.txt");
  EXPECT_EQ(document->cluster, 3u);
  EXPECT_EQ(document->role, SplitRole::kCalibration);
  EXPECT_EQ(document->added_unix_s, 4);
  EXPECT_EQ(document->expires_unix_s, 0);
  EXPECT_EQ(document->tags, std::vector<std::string>{"t"});
  EXPECT_EQ(document->tokens, (std::vector<int32_t>{7, 8}));
}

TEST(Records, EveryTruncationAndEveryExtraByteIsRejected) {
  const std::string document = EncodeDocument(MakeDocument(1));
  const std::string entry = EncodeEntry(MakeEntry(1, 2, 3));
  const std::string change = EncodeChange({.kind = ChangeKind::kPutSetting, .setting = "x"});
  for (size_t size = 0; size < document.size(); ++size) {
    EXPECT_FALSE(DecodeDocument(DocumentKey(1), document.substr(0, size))) << size;
  }
  for (size_t size = 0; size < entry.size(); ++size) {
    EXPECT_FALSE(DecodeEntry(EntryKey(1, {2, 3}), entry.substr(0, size))) << size;
  }
  for (size_t size = 0; size < change.size(); ++size) {
    EXPECT_FALSE(DecodeChange(ChangeKey(1), change.substr(0, size))) << size;
  }
  EXPECT_FALSE(DecodeDocument(DocumentKey(1), document + "x"));
  EXPECT_FALSE(DecodeEntry(EntryKey(1, {2, 3}), entry + "x"));
  EXPECT_FALSE(DecodeChange(ChangeKey(1), change + "x"));
  EXPECT_FALSE(DecodeDocument("short", document));
  EXPECT_FALSE(DecodeEntry("short", entry));
}

// Lengths of 2^32 - 1 at every offset must neither crash nor allocate what they claim.
TEST(Records, HugeLengthsAreRejectedOrHarmless) {
  const std::string document = EncodeDocument(MakeDocument(1));
  for (size_t offset = 0; offset + 4 <= document.size(); ++offset) {
    std::string damaged = document;
    damaged.replace(offset, 4, "\xff\xff\xff\xff");
    const auto decoded = DecodeDocument(DocumentKey(1), damaged);
    EXPECT_LE(decoded ? decoded->tokens.size() : 0, 3u);
  }
}

TEST(Records, UnknownVersionsRolesAndScalesAreRejected) {
  for (const char version : {'\0', '\1', '\3'}) {  // bytes of version 2 under another number
    std::string document = EncodeDocument(MakeDocument(1));
    document[0] = version;
    EXPECT_FALSE(DecodeDocument(DocumentKey(1), document)) << int{version};
  }
  StoredEntry entry = MakeEntry(1, 2, 3);
  entry.code_scale = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(DecodeEntry(EntryKey(1, {2, 3}), EncodeEntry(entry)));
  std::string change = EncodeChange({.kind = ChangeKind::kPutSetting, .setting = "x"});
  change[1] = 9;
  EXPECT_FALSE(DecodeChange(ChangeKey(1), change));
}

}  // namespace
}  // namespace pointsman
