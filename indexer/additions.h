// Documents added to a memory without a rebuild (design.md 5): their tokens get new entries, or a share of new
// prototypes, whose values are trained through the frozen model's own loss while everything that was there stays as it
// is. docs/decisions/015-adding-documents.md compares that with a rebuild.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "indexer/new_documents.h"
#include "indexer/progress.h"
#include "memory/document.h"
#include "memory/manifest.h"
#include "memory/result.h"

namespace pointsman {

struct AddOptions {
  std::filesystem::path model, memory;
  std::vector<std::string> corpus;  // files or folders
  std::vector<std::string> jsonl_fields;
  std::vector<std::string> tags;
  std::string name;                     // the source of the one document there is; empty: its path
  int64_t ttl_s = 0;                    // 0: the documents never expire
  std::vector<std::string> off_domain;  // unrelated text; empty: what the build used, if it is there still
  uint64_t seed = 0;
  int threads = 2;
  bool quiet = false;
  ProgressStyle progress = ProgressStyle::kAuto;
};

struct AddReport {
  std::vector<Document> documents;  // added
  std::vector<RefusedDocument> refused;
  std::vector<std::string> notes;
  uint64_t tokens = 0;       // of the added documents
  uint64_t rows = 0;         // entries of all layers, or prototypes, that were added
  uint64_t output_rows = 0;  // of the output memory
  uint64_t pairs = 0;        // new to the context gate, or to a group of it
  double train_s = 0;
  Manifest manifest;  // published
};

// Tokens added since the build, and their part of all reference tokens. From kRebuildShare on a rebuild pays.
inline constexpr const char* kAddedTokens = "added-tokens";  // among the manifest's settings
inline constexpr double kRebuildShare = 0.25;
double AddedShare(const Manifest& manifest);

// Epochs for so many sequences of new documents: a build's own rule for its preset, since here, too, it is steps that a
// small text wants, and never fewer than the default's least.
int AddedEpochs(const Manifest& manifest, size_t sequences);

// Adds, publishes the next generation, and marks the verdict as stale. Where the memory has groups, a document joins
// the first that a tag of it names; else the one whose text has most of its token pairs, whose name it gets as a tag.
// An error leaves what was published; a repeated call goes on after an interruption. The trained kinds that the build
// kept beside the published one are dropped: they do not know the new documents. Errors: kInvalidArgument (nothing to
// add: everything was refused, named with its reason), kUnsupported (values that are not changes of logits), kMismatch
// (another model), those of Ingest, training and Publish. Uses `threads` threads; the result does not depend on it.
Result<AddReport> AddDocuments(const AddOptions& options);

}  // namespace pointsman
