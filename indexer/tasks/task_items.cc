#include "indexer/tasks/task_items.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>

#include "memory/file_layer.h"

namespace pointsman {
namespace {

using Json = nlohmann::json;
using Fields = std::map<std::string, std::string>;

Error Malformed(std::string what) { return {ErrorCode::kCorrupt, std::move(what)}; }

// The row's value for a part: under the name that `fields` gives, else under the first usual name that is there.
const Json* Part(const Json& row, const Fields& fields, const char* part, std::initializer_list<const char*> usual) {
  if (const auto named = fields.find(part); named != fields.end()) {
    const auto value = row.find(named->second);
    return value == row.end() ? nullptr : &*value;
  }
  for (const char* name : usual) {
    if (const auto value = row.find(name); value != row.end()) return &*value;
  }
  return nullptr;
}
const Json* PromptOf(const Json& row, const Fields& f) { return Part(row, f, "prompt", {"prompt", "question"}); }
const Json* AnswerOf(const Json& row, const Fields& f) { return Part(row, f, "answer", {"answer", "label", "gold"}); }
const Json* ChoicesOf(const Json& row, const Fields& f) { return Part(row, f, "choices", {"choices", "options"}); }
const Json* TestOf(const Json& row, const Fields& f) { return Part(row, f, "test", {"test"}); }

// A text, or a number as it is written.
std::optional<std::string> Scalar(const Json* value) {
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  if (value->is_number()) return value->dump();
  return std::nullopt;
}

bool BringsSpace(char c) { return c == ' ' || c == '\n'; }

void JoinTo(std::string& prompt, std::string_view next) {
  if (prompt.empty() || BringsSpace(prompt.back()) || (!next.empty() && BringsSpace(next.front()))) return;
  prompt += '\n';
}

std::vector<std::string> Strings(const Json* list) {
  std::vector<std::string> texts;
  if (list == nullptr || !list->is_array()) return texts;
  for (const Json& value : *list) {
    const auto text = Scalar(&value);
    if (!text) return {};
    texts.push_back(*text);
  }
  return texts;
}

// Which of `choices` the answer names.
std::optional<size_t> GoldOf(const Json* answer, const std::vector<std::string>& choices,
                             const std::vector<std::string>& labels) {
  const auto text = Scalar(answer);
  if (!text) return std::nullopt;
  for (const auto* names : {&labels, &choices}) {
    const auto found = std::ranges::find(*names, *text);
    if (found != names->end()) return static_cast<size_t>(found - names->begin());
  }
  size_t index = choices.size();
  const auto [end, failure] = std::from_chars(text->data(), text->data() + text->size(), index);
  if (failure != std::errc() || end != text->data() + text->size()) {
    if (text->size() != 1 || !std::isalpha(static_cast<unsigned char>(text->front()))) return std::nullopt;
    index = static_cast<size_t>(std::toupper(static_cast<unsigned char>(text->front())) - 'A');
  }
  return index < choices.size() ? std::optional(index) : std::nullopt;
}

Status FillChoice(const Json& row, const TaskFormat& format, TaskItem& item) {
  const Json* choices = ChoicesOf(row, format.fields);
  std::vector<std::string> labels;
  if (choices != nullptr && choices->is_object()) {
    if (choices->contains("label")) labels = Strings(&choices->at("label"));
    choices = choices->contains("text") ? &choices->at("text") : nullptr;
  }
  item.choices = Strings(choices);
  if (item.choices.size() < 2) return Malformed("fewer than two choices");
  if (std::ranges::any_of(item.choices, [](const std::string& c) { return c.empty(); })) {
    return Malformed("an empty choice");
  }
  const auto gold = GoldOf(AnswerOf(row, format.fields), item.choices, labels);
  if (!gold) return Malformed("an answer that names none of the choices");
  item.gold = *gold;
  const bool space = std::ranges::all_of(item.choices, [](const std::string& c) { return BringsSpace(c.front()); });
  JoinTo(item.prompt, space ? " " : "");
  return {};
}

Status FillExact(const Json& row, const TaskFormat& format, const AnswerPattern& pattern, TaskItem& item) {
  const auto answer = Scalar(AnswerOf(row, format.fields));
  if (!answer) return Malformed("no answer");
  const auto found = pattern.Find(*answer);
  if (!found && answer->find('\n') != std::string::npos) {
    return Malformed("an answer of several lines in which --answer-pattern finds nothing");
  }
  item.answer = found ? found->text : NormalizeAnswer(*answer);
  if (item.answer.empty()) return Malformed("no answer");
  JoinTo(item.prompt, *answer);
  return {};
}

}  // namespace

const char* TaskKindText(TaskKind kind) {
  switch (kind) {
    case TaskKind::kExact:
      return "exact";
    case TaskKind::kChoice:
      return "choice";
    case TaskKind::kCode:
      return "code";
  }
  return "unknown";
}

Result<Fields> ParseTaskFields(std::span<const std::string> pairs) {
  Fields fields;
  for (const std::string& pair : pairs) {
    const size_t equals = pair.find('=');
    const std::string part = pair.substr(0, equals);
    const bool known = part == "prompt" || part == "answer" || part == "choices" || part == "test";
    if (equals == std::string::npos || !known || equals + 1 == pair.size()) {
      return Error{ErrorCode::kInvalidArgument, "--task-fields " + pair +
                                                    ": use prompt=NAME, answer=NAME, choices=NAME or test=NAME, "
                                                    "separated by commas"};
    }
    fields[part] = pair.substr(equals + 1);
  }
  return fields;
}

Result<TaskFormat> DetectTask(std::string_view text, const Fields& fields, bool has_test_command) {
  const Json row = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  TaskFormat format;
  format.fields = fields;
  const auto answer = row.is_object() ? Scalar(AnswerOf(row, fields)) : std::nullopt;
  if (row.is_object() && ChoicesOf(row, fields) != nullptr) {
    format.kind = TaskKind::kChoice;
  } else if (answer && answer->find("#### ") != std::string::npos) {
    format.kind = TaskKind::kExact;
    format.answer_pattern = kGsm8kPattern;
  } else if (row.is_object() && (TestOf(row, fields) != nullptr || has_test_command)) {
    format.kind = TaskKind::kCode;
  } else {
    return Error{
        ErrorCode::kInvalidArgument,
        "--task auto: the test rows have neither choices nor an answer with \"####\" nor a test; say what they "
        "are with --task and --task-fields"};
  }
  return format;
}

Result<TaskItem> ParseTaskRow(std::string_view text, const TaskFormat& format, const AnswerPattern& pattern) {
  const Json row = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!row.is_object()) return Malformed("not a JSON object");
  TaskItem item;
  const auto prompt = Scalar(PromptOf(row, format.fields));
  if (!prompt || prompt->empty()) return Malformed("no prompt");
  item.prompt = *prompt;
  switch (format.kind) {
    case TaskKind::kExact:
      POINTSMAN_CHECK_OK(FillExact(row, format, pattern, item));
      break;
    case TaskKind::kChoice:
      POINTSMAN_CHECK_OK(FillChoice(row, format, item));
      break;
    case TaskKind::kCode:
      item.test = Scalar(TestOf(row, format.fields)).value_or("");
      break;
  }
  return item;
}

Result<std::vector<TaskRow>> ReadTaskRows(std::span<const Document> documents) {
  std::map<std::string, std::map<size_t, size_t>> wanted;  // path -> line -> index of the document
  for (size_t i = 0; i < documents.size(); ++i) {
    const std::string& source = documents[i].source;
    const size_t hash = source.rfind('#');
    size_t line = 0;
    if (hash == std::string::npos) continue;
    const auto [end, failure] = std::from_chars(source.data() + hash + 1, source.data() + source.size(), line);
    if (failure == std::errc() && end == source.data() + source.size() && line > 0) {
      wanted[source.substr(0, hash)][line] = i;
    }
  }
  std::map<size_t, TaskRow> rows;
  for (const auto& [path, lines] : wanted) {
    POINTSMAN_TRY(const std::string bytes, FileSystem::Real().ReadFile(path));
    std::string_view rest = bytes;
    for (size_t line = 1; !rest.empty(); ++line) {
      const std::string_view row = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(row.size() + 1, rest.size()));
      if (const auto found = lines.find(line); found != lines.end()) {
        rows[found->second] = {documents[found->second].source, std::string(row)};
      }
    }
  }
  std::vector<TaskRow> ordered;
  for (auto& [index, row] : rows) ordered.push_back(std::move(row));
  return ordered;
}

}  // namespace pointsman
