// Ingest: files and folders on disk -> documents of valid UTF-8 text (design.md 8, stage 1).
//
// Every regular file is looked at, whatever its name: text, code, and C++ headers without an extension alike. A *.jsonl
// file gives one document a row. What cannot be used (binary, invalid UTF-8, ...) is skipped, counted and named, never
// fatal; only a path that does not exist, or a corpus without one usable document, is an error.
//
// Symbolic links are followed once by what they point to (device and inode), after all real entries, so that loops end
// and a file reached twice is read once. Folders named .git, .hg and .svn are left out.
// Deterministic: the result depends on the files' content and names below the corpus path, not on the order in which
// the operating system lists them. One thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "indexer/corpus_group.h"
#include "memory/file_layer.h"
#include "memory/result.h"

namespace pointsman {

struct IngestOptions {
  std::vector<std::string> paths = {};         // files or folders
  std::vector<CorpusGroup> groups = {};        // in place of `paths`
  std::vector<std::string> jsonl_fields = {};  // joined by newlines in this order; empty = see RowText in jsonl_rows.h
  uint64_t max_file_bytes =
      4u << 20;  // longer files and rows are skipped and named; a .jsonl file itself may be longer
  uint64_t seed = 0;
  // Of each group. 0 = all. Otherwise files and rows are tried in the order of hash(seed, name below the corpus path),
  // and only as many are read as are needed for this number of documents (a .jsonl file is read whole, but only chosen
  // rows are parsed).
  uint64_t max_documents = 0;
  FileSystem* files = nullptr;  // nullptr = FileSystem::Real(); borrowed
};

// Half-open range of bytes of a document's text.
using ByteSpan = std::pair<size_t, size_t>;

struct RawDocument {
  std::string source;  // as the user named it: the path, or path#line (from 1) for a .jsonl row
  std::string name;    // the part below the corpus path ("boost/mpl/and.hpp", "train.jsonl#7"): no path of this machine
  std::string library;  // first folder of `name`; the name itself for a file at the top; "file.jsonl" for its rows
  std::string text;     // valid UTF-8, byte order mark removed, not blank
  std::string sha256;   // lower-case hex of `text`
  uint64_t hash = 0;    // XXH3 of `text`, seeded with XXH3 of `name`
  uint32_t group = 0;   // of IngestOptions::groups
  std::vector<ByteSpan> learn_spans;  // what the model should learn to say, ascending, disjoint; empty = all of it
};

enum class SkipReason : uint8_t {
  kBinary,  // a NUL byte in the first 8 KiB
  kInvalidUtf8,
  kEmpty,         // nothing but white space
  kTooLarge,      // more than max_file_bytes
  kUnreadable,    // the operating system refused, or a dangling link
  kMalformedRow,  // a .jsonl row that is not a JSON object, or lacks the fields
};
inline constexpr size_t kSkipReasons = 6;
inline constexpr size_t kNamedPerReason = 10;
const char* SkipReasonText(SkipReason reason);  // "binary", "invalid UTF-8", ...

struct SkippedFiles {
  uint64_t count = 0;
  std::vector<std::string> names;  // the first kNamedPerReason, as `source`
};

struct IngestReport {
  uint64_t files_found = 0;
  uint64_t files_read = 0;
  uint64_t documents = 0;
  uint64_t bytes = 0;                              // of the documents' text
  uint64_t exact_duplicates = 0;                   // same sha256 as a document that was kept
  std::array<SkippedFiles, kSkipReasons> skipped;  // by SkipReason

  void Add(const IngestReport& other);
  const SkippedFiles& Skipped(SkipReason reason) const { return skipped[static_cast<size_t>(reason)]; }
  // "1,204 documents (8.1 MB) from 1,219 files; skipped: 3 binary (a.png, ...), 1 empty (b.txt)". One line.
  std::string Summary() const;
};

struct IngestResult {
  std::vector<RawDocument> documents;  // ordered by group, corpus path, then name, then row
  IngestReport report;
};

// Errors: kInvalidArgument (no path given), kNotFound (a path that is not there; a corpus without usable text, with the
// reasons). Of several files with equal content the first in the order of reading is kept.
Result<IngestResult> Ingest(const IngestOptions& options);

}  // namespace pointsman
