// The text of documents that a memory or an evaluation holds as tokens, for people: what stands around a position.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/document.h"
#include "memory/entry_store.h"
#include "memory/result.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

// Documents by the name that a generation gives them (RoutingTables::documents). Immutable: any thread may ask.
class DocumentTexts {
 public:
  // Takes the documents that have tokens (none has, with --no-text). `tokenizer` must outlive this.
  DocumentTexts(const Tokenizer& tokenizer, std::span<const Document> documents);
  // The same from a memory's truth.
  static Result<DocumentTexts> Load(EntryStore& store, const Tokenizer& tokenizer);
  // A few tokens up to and including `position`, a bar, and a few after it; line breaks shown as a sign. Empty if the
  // document or its tokens are not there.
  std::string Around(std::string_view name, uint32_t position) const;

 private:
  const Tokenizer* tokenizer_;
  std::map<std::string, std::vector<int32_t>, std::less<>> tokens_;  // by source
};

// One line: control characters shown as signs, bytes that are not UTF-8 as U+FFFD.
std::string OneLine(const std::string& text);

}  // namespace pointsman
