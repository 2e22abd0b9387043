// Rows of a .jsonl corpus that have an answer: what each asks, and how one can tell that it was answered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "indexer/tasks/answers.h"
#include "memory/document.h"
#include "memory/result.h"

namespace pointsman {

enum class TaskKind : uint8_t {
  kExact,   // the final answer of a continuation is the reference's
  kChoice,  // the right choice is the likeliest
  kCode,    // a test command accepts the completion
};
const char* TaskKindText(TaskKind kind);  // "exact", "choice", "code"

struct TaskItem {
  std::string source;                // path#line
  std::string prompt;                // what the model goes on from, with the white space that joins it to an answer
  std::string answer;                // kExact: normalised
  std::vector<std::string> choices;  // kChoice: as they follow the prompt
  size_t gold = 0;                   // kChoice: index of the right one
  std::string test;                  // kCode: what follows the completion in the program; may be empty
};

// How rows are read. `fields` maps prompt, answer, choices and test to names of a row's fields; what it lacks has the
// usual names: prompt or question; answer, label or gold; choices or options; test.
struct TaskFormat {
  TaskKind kind = TaskKind::kExact;
  std::string answer_pattern;  // kExact; empty: GSM8K's
  std::map<std::string, std::string> fields;
};

// "prompt=question" and the like. kInvalidArgument: no '=', or no such part.
Result<std::map<std::string, std::string>> ParseTaskFields(std::span<const std::string> pairs);

// What kind of task a row is: choices make it a choice; an answer with "####" makes it exact; a test, or a prompt with
// `has_test_command`, makes it code. kInvalidArgument, naming what to give, if it is none.
Result<TaskFormat> DetectTask(std::string_view row, const std::map<std::string, std::string>& fields,
                              bool has_test_command);

// One row. The prompt and what follows it are joined by a newline unless either brings white space (as ingest joins
// prompt and completion), except for code. A reference answer of one line in which the pattern finds nothing is the
// final answer itself. The gold of a choice is an index from 0, a letter from A, a label of
// {"text": [..], "label": [..]}, or the choice itself. kCorrupt: what is wrong with the row.
Result<TaskItem> ParseTaskRow(std::string_view row, const TaskFormat& format, const AnswerPattern& pattern);

// The rows that test documents came from ("path#line"), in the documents' order. Rows of other files are not returned.
struct TaskRow {
  std::string source;
  std::string text;
};
Result<std::vector<TaskRow>> ReadTaskRows(std::span<const Document> documents);

}  // namespace pointsman
