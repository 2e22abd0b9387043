// The text of a memory's documents, for explanations and search: read from its truth once a generation, when first
// asked for. Any thread; reading happens on the caller's.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "daemon/memories.h"
#include "models/document_texts.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

class DocumentTextCache {
 public:
  explicit DocumentTextCache(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // Null if the truth cannot be read: there are no excerpts then.
  std::shared_ptr<const DocumentTexts> Of(const LoadedMemory& memory);

 private:
  struct Entry {
    uint64_t generation = 0;
    std::string digest = {};  // a restore may bring the number back with other documents
    std::shared_ptr<const DocumentTexts> texts;
  };
  const Tokenizer& tokenizer_;
  std::mutex mutex_;
  std::map<std::string, Entry, std::less<>> by_id_;
};

}  // namespace pointsman
