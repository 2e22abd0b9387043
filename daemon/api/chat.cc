#include "daemon/api/chat.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "daemon/json_body.h"

namespace pointsman {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using Encoded = std::variant<std::vector<int32_t>, ApiError>;

constexpr size_t kMostMessages = 1024;
constexpr size_t kMostBytes = 1 << 20;
constexpr size_t kMostVariables = 32;

// A message's text: a string, or a list of {"type": "text", "text": ...}.
std::string ContentOf(FieldReader& fields) {
  const json* content = fields.Member("content");
  if (!content) {
    fields.Fail("content", "missing; give the message's text");
    return {};
  }
  if (content->is_string()) return fields.Text("content", {}, kMostBytes);
  std::string text;
  if (!content->is_array() || content->empty()) {
    fields.Fail("content", "give a string, or a list of {\"type\": \"text\", \"text\": ...}");
    return {};
  }
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
// daemon/README.md.
constexpr const char* LabelOf(std::string_view role) {
  if (role == "system" || role == "developer") return "";
  return role == "assistant" ? "Assistant: " : "User: ";
}

MarkedText RenderDefault(const ordered_json& messages) {
  MarkedText out;
  for (const ordered_json& message : messages) {
    out.text += LabelOf(message["role"].get_ref<const std::string&>());
    const auto& content = message["content"].get_ref<const std::string&>();
    if (!content.empty()) out.plain.push_back({out.text.size(), out.text.size() + content.size()});
    out.text += content + "\n\n";
  }
  out.text += "Assistant:";
  return out;
}

// What a conversation with tools has and this server does not: said so, since its meaning would be lost without a word.
// Empty and null members are what clients send back of an earlier answer.
void RefuseTools(FieldReader& fields) {
  if (const json* role = fields.Member("role"); role && (*role == "tool" || *role == "function")) {
    fields.Fail("role", "tools are not supported; leave such messages out, or give what the tool said as a user's text",
                ApiCode::kUnprocessable);
  }
  for (const char* name : {"tool_calls", "function_call", "tool_call_id", "audio", "refusal", "annotations"}) {
    if (const json* value = fields.Member(name); value && !value->empty()) {
      fields.Fail(name, "not supported; leave it out", ApiCode::kUnprocessable);
    }
  }
}

// Messages as a template sees them: role, content (text) and, where given, name.
std::variant<ordered_json, ApiError> ReadMessages(const json& messages) {
  if (!messages.is_array() || messages.empty()) {
    return ApiError{ApiCode::kInvalidValue, "messages: give a list of at least one message with role and content",
                    "messages"};
  }
  if (messages.size() > kMostMessages) {
    return ApiError{ApiCode::kInvalidValue, fmt::format("messages: more than {}", kMostMessages), "messages"};
  }
  ordered_json read = ordered_json::array();
  size_t bytes = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    FieldReader fields(messages[i], fmt::format("messages[{}].", i));
    RefuseTools(fields);
    const std::string role = fields.Choice("role", "user", {"system", "developer", "user", "assistant"});
    const std::string content = ContentOf(fields);
    const std::string name = fields.Text("name", {}, 64);
    fields.Finish();
    if (fields.error()) return *fields.error();
    bytes += content.size();
    if (bytes > kMostBytes) {
      return ApiError{ApiCode::kPayloadTooLarge, fmt::format("messages: more than {} bytes of text", kMostBytes),
                      "messages"};
    }
    ordered_json message = {{"role", role}, {"content", content}};
    if (!name.empty()) message["name"] = name;
    read.push_back(std::move(message));
  }
  return read;
}

// chat_template_kwargs: the client's own variables, such as enable_thinking. What the server sets stays the server's.
std::variant<ordered_json, ApiError> ReadVariables(const ChatFormat& format, const json& body) {
  const char* const kField = "chat_template_kwargs";
  const auto found = body.find(kField);
  if (found == body.end() || found->is_null()) return ordered_json::object();
  if (!found->is_object() || found->size() > kMostVariables) {
    return ApiError{ApiCode::kInvalidValue,
                    fmt::format("{}: give an object of at most {} members", kField, kMostVariables), kField};
  }
  if (!format.from_model && !found->empty()) {
    return ApiError{ApiCode::kUnprocessable, fmt::format("{}: this server renders chats without a template", kField),
                    kField};
  }
  for (const auto& [name, value] : found->items()) {
    const bool taken = name == "messages" || name == "tools" || name == "documents" ||
                       name == "add_generation_prompt" ||
                       (format.from_model && format.from_model->special_tokens().contains(name));
    if (taken) {
      return ApiError{ApiCode::kInvalidValue, fmt::format("{}: '{}' is the server's to set", kField, name), kField};
    }
  }
  return ordered_json(*found);
}

Encoded Encode(const ChatFormat& format, const json& messages, const json& body) {
  auto read = ReadMessages(messages);
  if (auto* error = std::get_if<ApiError>(&read)) return std::move(*error);
  auto variables = ReadVariables(format, body);
  if (auto* error = std::get_if<ApiError>(&variables)) return std::move(*error);
  auto& list = std::get<ordered_json>(read);
  if (!format.from_model) return format.encoder->Encode(RenderDefault(list));
  ChatInput input;
  input.messages = std::move(list);
  input.variables = std::move(std::get<ordered_json>(variables));
  const Result<MarkedText> rendered = format.from_model->Render(input);
  if (rendered.ok()) return format.encoder->Encode(rendered.value());
  const Error& error = rendered.error();
  if (error.code == ErrorCode::kInvalidArgument) {  // the template's own words about these messages
    return ApiError{ApiCode::kInvalidValue, "messages: " + error.message, "messages"};
  }
  return ApiError{ApiCode::kUnprocessable, "messages: " + error.message, "messages"};
}

}  // namespace

Result<ChatFormat> LoadChatFormat(const std::filesystem::path& model_directory, const std::string& chosen) {
  ChatFormat format;
  format.origin = "default";
  if (chosen.empty()) {
    auto loaded = ChatTemplate::Load(model_directory);
    if (!loaded.ok()) {
      return Error{loaded.error().code, loaded.error().message +
                                            "; choose another with --chat-template FILE, or plain "
                                            "text with --chat-template default"};
    }
    format.from_model = std::move(loaded).value();
    if (format.from_model) format.origin = "model";
  } else if (chosen != "default") {
    POINTSMAN_TRY(format.from_model, ChatTemplate::LoadFile(chosen, model_directory));
    format.origin = std::filesystem::path(chosen).filename().string();
  }
  std::vector<std::string> control;  // tokens with a task of their own, special to the tokenizer or not
  std::string_view source;
  if (format.from_model) {
    source = format.from_model->source();
    for (const auto& [name, text] : format.from_model->special_tokens()) control.push_back(text);
  }
  POINTSMAN_TRY(format.encoder, MarkedEncoder::Load(model_directory / "tokenizer.json", source, control));
  return format;
}

ChatEncoder ChatEncoderOf(ApiContext& context) {
  return [&context](const json& messages, const json& body) { return Encode(context.chat, messages, body); };
}

}  // namespace pointsman
