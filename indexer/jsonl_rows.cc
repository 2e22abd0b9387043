#include "indexer/jsonl_rows.h"

#include <nlohmann/json.hpp>

namespace pointsman {
namespace {

using Json = nlohmann::ordered_json;

Error Malformed(const std::string& what) { return {ErrorCode::kCorrupt, what}; }

bool EndsInSpace(std::string_view text) { return !text.empty() && (text.back() == ' ' || text.back() == '\n'); }
bool StartsWithSpace(std::string_view text) { return !text.empty() && (text.front() == ' ' || text.front() == '\n'); }

// Fields joined by newlines; `learn` marks the parts to be learned.
class Joined {
 public:
  void Add(std::string_view part, bool learn) {
    if (part.empty()) return;
    if (!row_.text.empty() && !EndsInSpace(row_.text) && !StartsWithSpace(part)) row_.text += '\n';
    const size_t begin = row_.text.size();
    row_.text += part;
    if (learn) row_.learn_spans.emplace_back(begin, row_.text.size());
  }
  const RowText& row() const { return row_; }

 private:
  RowText row_;
};

// A message's content: a string, or OpenAI's list of {"type": "text", "text"} parts.
std::string ContentText(const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  if (!content.is_array()) return text;
  for (const Json& part : content) {
    if (part.is_object() && part.contains("text") && part["text"].is_string()) text += part["text"].get<std::string>();
  }
  return text;
}

Result<RowText> FromMessages(const Json& messages) {
  Joined joined;
  for (const Json& message : messages) {
    if (!message.is_object() || !message.contains("content")) return Malformed("a message without \"content\"");
    const bool assistant = message.value("role", Json()) == "assistant";
    joined.Add(ContentText(message["content"]), assistant);
  }
  // An empty mask would mean "learn all of it".
  if (joined.row().learn_spans.empty()) return Malformed("no assistant message to learn from");
  return joined.row();
}

Result<RowText> FromFields(const Json& row, const std::vector<std::string>& fields) {
  RowText out;
  for (const std::string& field : fields) {
    if (!row.contains(field) || !row[field].is_string()) return Malformed("no string field \"" + field + "\"");
    if (&field != &fields.front()) out.text += '\n';
    out.text += row[field].get<std::string>();
  }
  return out;
}

bool HasString(const Json& row, const char* field) { return row.contains(field) && row[field].is_string(); }

}  // namespace

Result<RowText> ParseRow(std::string_view text, const std::vector<std::string>& fields) {
  const Json row = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!row.is_object()) return Malformed("not a JSON object");
  if (!fields.empty()) return FromFields(row, fields);
  if (row.contains("messages") && row["messages"].is_array()) return FromMessages(row["messages"]);
  if (HasString(row, "prompt") && HasString(row, "completion")) {
    Joined joined;
    joined.Add(row["prompt"].get<std::string>(), false);
    joined.Add(row["completion"].get<std::string>(), true);
    if (joined.row().learn_spans.empty()) return Malformed("an empty completion");
    return joined.row();
  }
  if (HasString(row, "text")) return RowText{row["text"].get<std::string>(), {}};
  std::vector<std::string> strings;
  for (const auto& [name, value] : row.items()) {
    if (value.is_string()) strings.push_back(name);
  }
  if (strings.empty()) return Malformed("no string field");
  return FromFields(row, strings);
}

}  // namespace pointsman
