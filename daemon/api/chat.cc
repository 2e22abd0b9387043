#include "daemon/api/chat.h"

#include <fmt/format.h>

#include "daemon/json_body.h"

namespace pointsman {
namespace {

using nlohmann::json;
using Encoded = std::variant<std::vector<int32_t>, ApiError>;

constexpr size_t kMostMessages = 1024;
constexpr size_t kMostBytes = 1 << 20;

// A message's text: a string, or a list of {"type": "text", "text": ...}.
std::string ContentOf(FieldReader& fields) {
  const json* content = fields.Member("content");
  if (!content) {
    fields.Fail("content", "missing; give the message's text");
    return {};
  }
  if (content->is_string()) return fields.Text("content", {}, kMostBytes);
  std::string text;
  for (const json& part : *content) {
    const bool plain = part.is_object() && part.contains("type") && part["type"] == "text" && part.contains("text") &&
                       part["text"].is_string();
    if (!plain) {
      fields.Fail("content", "only text is supported: a string, or a list of {\"type\": \"text\", \"text\": ...}",
                  ApiCode::kUnprocessable);
      return {};
    }
    text += part["text"].get<std::string>();
  }
  return text;
}

// The default for models without a template of their own: one paragraph a message, in plain text. Documented in
// schemas/openapi.yaml.
constexpr const char* LabelOf(std::string_view role) {
  if (role == "system" || role == "developer") return "";
  return role == "assistant" ? "Assistant: " : "User: ";
}

Encoded Encode(const Tokenizer& tokenizer, const json& messages) {
  if (messages.size() > kMostMessages) {
    return ApiError{ApiCode::kInvalidValue, fmt::format("messages: more than {}", kMostMessages), "messages"};
  }
  std::string text;
  for (size_t i = 0; i < messages.size(); ++i) {
    FieldReader fields(messages[i], fmt::format("messages[{}].", i));
    const std::string role = fields.Choice("role", "user", {"system", "developer", "user", "assistant"});
    text += LabelOf(role) + ContentOf(fields) + "\n\n";
    fields.Text("name", {}, 64);
    fields.Finish();
    if (fields.error()) return *fields.error();
    if (text.size() > kMostBytes) {
      return ApiError{ApiCode::kPayloadTooLarge, fmt::format("messages: more than {} bytes of text", kMostBytes),
                      "messages"};
    }
  }
  return tokenizer.Encode(text + "Assistant:");
}

}  // namespace

ChatEncoder ChatEncoderOf(ApiContext& context) {
  return [&context](const json& messages, const json&) { return Encode(context.model.tokenizer(), messages); };
}

}  // namespace pointsman
