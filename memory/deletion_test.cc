#include "memory/deletion.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/sst_file_reader.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "memory/fault_injection.h"
#include "memory/full_disk_env.h"
#include "memory/generation.h"
#include "memory/memory_paths.h"
#include "memory/test_support.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int32_t kVocabulary = 1 << 24;
constexpr int32_t kEnd = kVocabulary - 1;
constexpr size_t kTokens = 24, kDim = 16, kExperts = 4;
constexpr uint64_t kGone = 3, kKept = 5, kOtherKept = 8, kCalibration = 10, kTest = 11;
const std::vector<int32_t> kLayers = {0, 2};

// Random bytes never repeat, so that LZ4, which compresses truth's tables, keeps each of them as a literal: a search of
// the raw files then finds them in compressed blocks, too.
class Texts {
 public:
  explicit Texts(uint64_t seed) : random_(seed) {}
  std::string Name() {
    constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    std::string name;
    for (int i = 0; i < 40; ++i) name += kLetters[random_() % kLetters.size()];
    return name;
  }
  std::vector<int32_t> Tokens() {
    std::vector<int32_t> tokens(kTokens);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % (kVocabulary - 1));
    return tokens;
  }
  std::vector<int8_t> Codes(size_t count) {
    std::vector<int8_t> codes(count);
    for (int8_t& code : codes) code = static_cast<int8_t>(random_());
    return codes;
  }

 private:
  std::mt19937_64 random_;
};

struct TestDocument {
  Document document;
  std::map<int32_t, std::vector<std::vector<int8_t>>> codes;  // by layer, one key a token
};

TestDocument MakeTestDocument(uint64_t hash, SplitRole role) {
  Texts texts(hash);
  TestDocument made;
  made.document.hash = hash;
  made.document.source = texts.Name();
  made.document.sha256 = std::string(63, 'a') + static_cast<char>('0' + hash % 10);
  made.document.cluster = hash;
  made.document.role = role;
  made.document.tags = {texts.Name()};
  if (role == SplitRole::kTest) return made;  // as a build has it: the test split's text is not kept
  made.document.tokens = texts.Tokens();
  if (role != SplitRole::kReference) return made;
  for (const int32_t layer : kLayers) {
    for (size_t t = 0; t < kTokens; ++t) made.codes[layer].push_back(texts.Codes(kDim));
  }
  return made;
}

std::vector<TestDocument> AllDocuments() {
  return {MakeTestDocument(kGone, SplitRole::kReference), MakeTestDocument(kKept, SplitRole::kReference),
          MakeTestDocument(kOtherKept, SplitRole::kReference), MakeTestDocument(kCalibration, SplitRole::kCalibration),
          MakeTestDocument(kTest, SplitRole::kTest)};
}

// The memory that a build of these documents would publish, the reference ones as entries.
OwnedTables TablesOf(const std::vector<TestDocument>& documents) {
  OwnedTables tables;
  tables.kind = MemoryKind::kEntries;
  tables.top_k = 1;
  std::vector<uint64_t> pairs;
  OwnedOutput& output = tables.output;
  output.enabled = true;
  output.vocabulary = kVocabulary;
  output.keys.hidden = output.keys.dim = kDim;
  for (const int32_t number : kLayers) {
    OwnedLayer layer;
    layer.layer = number;
    layer.experts = kExperts;
    layer.keys.hidden = layer.keys.dim = kDim;
    for (size_t d = 0; d < documents.size(); ++d) {
      if (documents[d].document.role != SplitRole::kReference) continue;
      for (uint32_t t = 0; t < kTokens; ++t) {
        const std::vector<int8_t>& code = documents[d].codes.at(number)[t];
        layer.keys.codes.insert(layer.keys.codes.end(), code.begin(), code.end());
        layer.keys.code_scales.push_back(0.25f);
        layer.values.insert(layer.values.end(), code.begin(), code.begin() + kExperts);
        layer.value_scales.push_back(0.5f);
        layer.references.push_back({static_cast<uint32_t>(d), t});
      }
    }
    tables.layers.push_back(std::move(layer));
  }
  for (size_t d = 0; d < documents.size(); ++d) {
    tables.documents.push_back(documents[d].document.source);
    if (documents[d].document.role != SplitRole::kReference) continue;
    int32_t previous = kEnd;
    for (uint32_t t = 0; t < kTokens; ++t) {
      const int32_t token = documents[d].document.tokens[t];
      pairs.push_back(uint64_t{static_cast<uint32_t>(previous)} << 32 | static_cast<uint32_t>(token));
      previous = token;
      const std::vector<int8_t>& code = documents[d].codes.at(kLayers[0])[t];
      output.keys.codes.insert(output.keys.codes.end(), code.begin(), code.end());
      output.keys.code_scales.push_back(1);
      output.next_tokens.push_back(token);
      output.references.push_back({static_cast<uint32_t>(d), t});
    }
  }
  std::sort(pairs.begin(), pairs.end());
  tables.gate.enabled = true;
  tables.gate.pairs = pairs;
  tables.gate.is_common.assign(pairs.size(), 0);
  return tables;
}

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Files below `directory` whose bytes hold `needle`, by their path in it.
std::vector<std::string> FilesWith(const fs::path& directory, const std::string& needle) {
  std::vector<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file() || ReadBytes(entry.path()).find(needle) == std::string::npos) continue;
    found.push_back(fs::relative(entry.path(), directory).string());
  }
  return found;
}

// Whether any record of any table of truth holds `needle`, decompressed, live or overwritten.
bool TablesHold(const fs::path& truth, const std::string& needle) {
  bool held = false;
  for (const auto& file : fs::directory_iterator(truth)) {
    if (file.path().extension() != ".sst") continue;
    rocksdb::SstFileReader reader(rocksdb::Options{});
    EXPECT_TRUE(reader.Open(file.path()).ok()) << file.path();
    const std::unique_ptr<rocksdb::Iterator> it(reader.NewIterator({}));
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      held = held || it->key().ToString().find(needle) != std::string::npos ||
             it->value().ToString().find(needle) != std::string::npos;
    }
  }
  return held;
}

class DeletionTest : public ::testing::Test {
 protected:
  // Two generations with all documents, trained kinds beside them, entries and documents in truth.
  void SetUp() override {
    auto writer = MemoryWriter::Open(path_, {.create = true});
    ASSERT_TRUE(IsOk(writer));
    EntryStore& store = writer.value()->store();
    Manifest manifest = MakeManifest();
    manifest.verdict.verdict = "adopt";
    manifest.reference_documents = 3;
    manifest.calibration_documents = manifest.test_documents = 1;
    manifest.reference_tokens = 3 * kTokens;
    for (const TestDocument& d : documents_) {
      ASSERT_TRUE(IsOk(store.PutDocument(d.document)));
      if (d.document.role == SplitRole::kTest) manifest.test_sha256.push_back(d.document.sha256);
      std::vector<StoredEntry> entries;
      for (const auto& [layer, codes] : d.codes) {
        for (uint32_t t = 0; t < codes.size(); ++t) {
          entries.push_back({.layer = layer,
                             .id = {d.document.hash, t},
                             .code = codes[t],
                             .code_scale = 0.25f,
                             .value = {codes[t].begin(), codes[t].begin() + kExperts},
                             .value_scale = 0.5f});
        }
      }
      manifest.entries += entries.size();
      ASSERT_TRUE(IsOk(store.PutEntries(entries)));
    }
    const auto tables = MakeTables(TablesOf(documents_));
    ASSERT_TRUE(IsOk(writer.value()->Publish(*tables, manifest)));
    ASSERT_TRUE(IsOk(writer.value()->Publish(*tables, manifest)));
    fs::create_directories(KindsPath(path_));
    ASSERT_TRUE(IsOk(WriteGeneration(FileSystem::Real(), KindsPath(path_) / "entries", *tables)));
    old_digest_ = Digest(*tables);
  }

  const TestDocument& Of(uint64_t hash) const {
    return *std::find_if(documents_.begin(), documents_.end(),
                         [&](const TestDocument& d) { return d.document.hash == hash; });
  }
  // Bytes that only the deleted document has, by what they are.
  std::map<std::string, std::string> Needles() const {
    const TestDocument& gone = Of(kGone);
    const std::vector<int32_t>& tokens = gone.document.tokens;
    return {{"name", gone.document.source},
            {"tag", gone.document.tags.front()},
            {"tokens", BytesOf(std::vector<int32_t>(tokens.begin() + 4, tokens.begin() + 8))},
            {"pair", BytesOf(std::vector<int32_t>{tokens[5], tokens[4]})},
            {"first pair", BytesOf(std::vector<int32_t>{tokens[0], kEnd})},
            {"key", BytesOf(gone.codes.at(0)[7])},
            {"key of the last layer", BytesOf(gone.codes.at(2)[7])}};
  }
  void ExpectGone(const fs::path& memory) {
    for (const auto& [what, bytes] : Needles()) {
      EXPECT_THAT(FilesWith(memory, bytes), IsEmpty()) << what;
      EXPECT_FALSE(TablesHold(TruthPath(memory), bytes)) << what;
    }
  }
  // As if the memory had been built without the document, but for the empty name.
  std::string NewDigest() const {
    std::vector<TestDocument> documents = documents_;
    std::erase_if(documents, [](const TestDocument& d) { return d.document.hash == kGone; });
    return Digest(*MakeTables(TablesOf(documents)));
  }
  std::string PublishedDigest(const fs::path& memory) {
    const auto opened = Memory::Open(memory, {});
    return opened.ok() ? Digest(opened.value()->tables()) : opened.error().message;
  }
  fs::path CopyOf(const std::string& name) {
    const fs::path copy = directory_.path() / name;
    fs::remove_all(copy);
    fs::copy(path_, copy, fs::copy_options::recursive);
    return copy;
  }
  // What a crash left must be whole, the old memory or one that the same call finishes.
  void ExpectFinishes(const fs::path& memory) {
    const std::string digest = PublishedDigest(memory);
    EXPECT_TRUE(digest == old_digest_ || digest == NewDigest()) << digest;
    {
      auto writer = MemoryWriter::Open(memory, {});
      ASSERT_TRUE(IsOk(writer));
      EntryStore& store = writer.value()->store();
      const bool pending = !PendingDeletions(store).value().empty();
      const bool there = store.GetDocument(kGone).ok();
      if (!pending && there) {
        EXPECT_EQ(digest, old_digest_) << "begun, but nothing says so";
      }
      if (pending || there) {
        const auto report = DeleteDocuments(*writer.value(), std::vector{kGone});
        ASSERT_TRUE(IsOk(report));
        EXPECT_EQ(report.value().documents, there ? 1u : 0u);
      }
      EXPECT_EQ(store.GetDocument(kGone).error().code, ErrorCode::kNotFound);
      EXPECT_TRUE(store.GetDocument(kKept).ok());
      EXPECT_THAT(PendingDeletions(store).value(), IsEmpty());
      EXPECT_EQ(writer.value()->manifest().value().reference_documents, 2u);
      EXPECT_EQ(writer.value()->manifest().value().entries, 2 * kTokens * kLayers.size());
    }
    EXPECT_EQ(PublishedDigest(memory), NewDigest());
    EXPECT_THAT(Verify(memory).value(), IsEmpty());
    ExpectGone(memory);
  }

  TemporaryDirectory directory_;
  fs::path path_ = directory_.path() / "mem";
  const std::vector<TestDocument> documents_ = AllDocuments();
  std::string old_digest_;
};

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

TEST_F(DeletionTest, AFaultOfTheFileSystemAnywhereIsFinishedLater) {
  using Operation = FaultyFileSystem::Operation;
  int faults = 0;
  for (const Operation operation : {Operation::kCreate, Operation::kWrite, Operation::kSync, Operation::kRename,
                                    Operation::kSyncDirectory, Operation::kRemove}) {
    for (int64_t nth = 1;; ++nth) {
      SCOPED_TRACE("operation " + std::to_string(static_cast<int>(operation)) + ", the " + std::to_string(nth) + "th");
      const fs::path copy = CopyOf("copy");
      FaultyFileSystem files;
      bool failed = false;
      {
        auto writer = MemoryWriter::Open(copy, {.files = &files});
        ASSERT_TRUE(IsOk(writer));
        files.FailFrom(operation, nth);
        failed = !DeleteDocuments(*writer.value(), std::vector{kGone}).ok();
      }
      if (!failed) break;
      ++faults;
      ExpectFinishes(copy);
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(faults, 20);
}

TEST_F(DeletionTest, AFullDiskUnderTruthAnywhereIsFinishedLater) {
  int faults = 0;
  for (int64_t budget = 0;; budget += 3000) {
    SCOPED_TRACE(std::to_string(budget) + " bytes left");
    const fs::path copy = CopyOf("copy");
    const auto disk = MakeFullDiskEnv(budget);
    bool failed = false;
    {
      auto writer = MemoryWriter::Open(copy, {.store_env = disk.get()});
      failed = !writer.ok() || !DeleteDocuments(*writer.value(), std::vector{kGone}).ok();
    }
    if (!failed) break;
    ++faults;
    ExpectFinishes(copy);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(faults, 10);
}

constexpr const char* kChildVariable = "POINTSMAN_DELETION_TEST_MEMORY";

TEST(DeletionChild, DISABLED_DeletesUntilItIsKilled) {
  const char* memory = std::getenv(kChildVariable);
  ASSERT_NE(memory, nullptr) << "only DeletionTest starts this";
  auto writer = MemoryWriter::Open(memory, {});
  ASSERT_TRUE(IsOk(writer));
  ASSERT_TRUE(IsOk(DeleteDocuments(*writer.value(), std::vector{kGone})));
}

TEST_F(DeletionTest, AKillAnywhereIsFinishedLater) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  int killed = 0;
  useconds_t longest_us = 400'000;
  for (int round = 0; round < 24; ++round) {
    const fs::path copy = CopyOf("copy");
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      setenv(kChildVariable, copy.c_str(), 1);
      const int null = open("/dev/null", O_WRONLY);
      dup2(null, STDOUT_FILENO);
      execl("/proc/self/exe", "memory_test", "--gtest_also_run_disabled_tests",
            "--gtest_filter=DeletionChild.DISABLED_DeletesUntilItIsKilled", static_cast<char*>(nullptr));
      _exit(127);
    }
    usleep(std::uniform_int_distribution<useconds_t>(0, longest_us)(random));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    killed += WIFSIGNALED(status);
    if (!WIFSIGNALED(status)) longest_us = longest_us * 3 / 4 + 1000;  // aim at the time that it takes here
    ExpectFinishes(copy);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(killed, 0) << "the child was too quick to be killed";
}

}  // namespace
}  // namespace pointsman
