// Documents of a memory's truth for people: by name, and the text around a position.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "memory/document.h"
#include "memory/entry_store.h"
#include "memory/result.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

const char* SplitRoleText(SplitRole role);  // "reference", "calibration", "test"
nlohmann::json DocumentJson(const Document& document);

// The documents behind the names of a generation (RoutingTables::documents), loaded once.
class DocumentTexts {
 public:
  // Reads all documents that still have tokens. `tokenizer` must outlive this.
  static Result<DocumentTexts> Load(EntryStore& store, const Tokenizer& tokenizer);
  // A few tokens up to and including `position`, a bar, and a few after it; line breaks shown as a sign. Empty if the
  // document or its tokens are not there.
  std::string Around(const std::string& name, uint32_t position) const;

 private:
  explicit DocumentTexts(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  const Tokenizer* tokenizer_;
  std::map<std::string, std::vector<int32_t>, std::less<>> tokens_;  // by source
};

// One line: control characters shown as signs, bytes that are not UTF-8 as U+FFFD.
std::string OneLine(const std::string& text);

}  // namespace pointsman
