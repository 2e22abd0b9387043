// What the tests of snapshots share: a memory to take them of, and what is in it.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "memory/memory.h"
#include "memory/rocksdb_store.h"
#include "memory/snapshot.h"
#include "memory/test_support.h"

namespace pointsman {

inline std::string DigestOf(int variant) { return Digest(*MakeSmallTables(variant)); }

// The digest of what readers of `memory` see, or the error's text.
inline std::string PublishedDigest(const std::filesystem::path& memory) {
  const auto opened = Memory::Open(memory, {.load_to_ram = true});
  return opened.ok() ? Digest(opened.value()->tables()) : opened.error().message;
}

// `memory` (generation 1, variant 1, document 7 with one entry) and room for snapshots.
class SnapshotTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto writer = OpenWriter({.create = true});
    ASSERT_TRUE(IsOk(writer->store().PutDocument(MakeDocument(7))));
    ASSERT_TRUE(IsOk(writer->store().PutEntries(std::vector{MakeEntry(0, 7, 1)})));
    ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(1), MakeManifest())));
  }
  std::unique_ptr<MemoryWriter> OpenWriter(WriterOptions options = {}) {
    auto writer = MemoryWriter::Open(memory_, options);
    EXPECT_TRUE(IsOk(writer));
    return writer.ok() ? std::move(writer).value() : nullptr;
  }
  std::filesystem::path Take(const std::string& name) {
    EXPECT_TRUE(IsOk(CreateSnapshot(memory_, snapshots_ / name)));
    return snapshots_ / name;
  }
  // Which documents a memory or snapshot holds.
  static std::vector<uint64_t> DocumentsOf(const std::filesystem::path& memory) {
    std::vector<uint64_t> hashes;
    const auto truth = RocksDbStore::OpenReadOnly(memory / "truth");
    EXPECT_TRUE(IsOk(truth));
    if (!truth.ok()) return hashes;
    EXPECT_TRUE(IsOk(truth.value()->ForEachDocument([&](const Document& document) -> Status {
      hashes.push_back(document.hash);
      return {};
    })));
    return hashes;
  }
  static std::vector<std::string> NamesIn(const std::filesystem::path& directory) {
    return FileSystem::Real().List(directory).value();
  }

  TemporaryDirectory directory_;
  std::filesystem::path memory_ = directory_.path() / "mem";
  std::filesystem::path snapshots_ = directory_.path() / "snapshots";
};

}  // namespace pointsman
