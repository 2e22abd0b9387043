// One row of a .jsonl file -> text and the parts of it that the model should learn to say.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "indexer/ingest.h"
#include "memory/result.h"

namespace pointsman {

struct RowText {
  std::string text;
  std::vector<ByteSpan> learn_spans;  // empty = all
};

// With `fields`: their strings joined by newlines. Without, the first that fits:
//   {"messages": [{"role", "content"}]}   contents joined by newlines; only the assistant's are learned
//   {"prompt", "completion"}              joined (by a newline unless either brings white space); only the completion
//   is
//   {"text"}                              as it is
//   anything else                         all string fields at the top level, in the row's order, joined by newlines
// kCorrupt: not a JSON object, a field is missing or not a string, or no string in it.
Result<RowText> ParseRow(std::string_view row, const std::vector<std::string>& fields);

}  // namespace pointsman
