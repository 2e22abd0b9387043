// Text that is to join a memory: read and tokenised as the memory's build did, without what must not join it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "indexer/ingest.h"
#include "memory/document.h"
#include "memory/entry_store.h"
#include "memory/manifest.h"
#include "memory/result.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

struct RefusedDocument {
  std::string source;
  std::string reason;  // "is a near-duplicate (similarity 0.87) of the test document tests/a.md"
};

struct NewDocuments {
  std::vector<Document> documents;  // role reference; tokens, masks and clusters among themselves are set
  std::vector<RefusedDocument> refused;
  std::vector<std::string> notes;  // one sentence each: what could not be checked, what was left out
};

// Refused, each for its own: a document whose content or near-duplicate is in the memory already or in its test split
// (near-duplicates as in a build, similarity from .5; those of the test split are read again from where they came from,
// since a memory keeps no test text), and one whose source is another document's. Without stored text (--no-text) only
// equal content is known, and `notes` says so.
// `published`: names of the published tables. A document of truth that they do not name was left by an addition that
// was interrupted, and may be added again.
// Errors: those of Ingest; a text without a document long enough (16 tokens) is kInvalidArgument.
Result<NewDocuments> ReadNewDocuments(const Tokenizer& tokenizer, const IngestOptions& ingest, EntryStore& truth,
                                      const Manifest& manifest, std::span<const std::string> published);

// A number among the manifest's settings, or `fallback`.
uint64_t SettingOf(const Manifest& manifest, const std::string& name, uint64_t fallback);

}  // namespace pointsman
