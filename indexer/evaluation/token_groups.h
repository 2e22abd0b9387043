// How the report groups test tokens to say where a memory helps: by the text of the token, by the kind of its document,
// by its position in the window. Pure functions: any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pointsman {

enum class TokenClass : uint8_t { kWord, kNumber, kPunctuation, kSpace, kOther };
inline constexpr size_t kTokenClasses = 5;
const char* TokenClassText(TokenClass token_class);  // "word or identifier", "number", ...

// Of a token's bytes, white space around them left aside. A word starts with a letter or "_" and goes on with letters,
// digits and "_" (bytes above 127 count as letters: a token may be a part of a character); a number starts with a digit
// and goes on with those, "." and "'".
TokenClass TokenClassOf(std::string_view bytes);

// Position bins that double: 1 to 4, 5 to 8, 9 to 16, ... `position` counts from 0.
size_t PositionBin(size_t position);
std::string PositionBinText(size_t bin);  // "5 to 8"

// One way to tell kinds of documents apart.
struct KindGrouping {
  std::string by;  // "extension" and "folder" of files, "file" of .jsonl rows; "group" of a memory with several
  std::vector<std::string> kind;  // by document; empty: this grouping does not apply to it
};

// `sources`: Document::source of each. A folder is the first one below what the files' paths have in common. Groupings
// that apply to no document, and folders that are all the same, are left out.
std::vector<KindGrouping> GroupByKind(std::span<const std::string> sources);

}  // namespace pointsman
