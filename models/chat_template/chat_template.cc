#include "models/chat_template/chat_template.h"

#include <fmt/format.h>

#include <array>
#include <exception>
#include <new>
#include <system_error>

#include "memory/file_layer.h"
#include "models/chat_template/evaluator.h"
#include "models/chat_template/limits.h"
#include "models/chat_template/parser.h"
#include "models/json_text.h"
#include "models/tokenizer/unicode.h"

namespace pointsman {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr uint64_t kMostConfigBytes = 64 << 20;  // tokenizer_config.json repeats every added token
constexpr std::array<const char*, 7> kSpecialTokens = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                       "pad_token", "cls_token", "mask_token"};
constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant", "tool"};

// tokenizer_config.json, or an empty object.
Result<json> ReadTokenizerConfig(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "tokenizer_config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return json::object();
  return ReadJsonObject(file, kMostConfigBytes);
}

Result<ChatTemplate::SpecialTokens> SpecialTokensOf(const json& config, const std::string& file) {
  ChatTemplate::SpecialTokens tokens;
  for (const char* name : kSpecialTokens) {
    const auto found = config.find(name);
    if (found == config.end() || found->is_null()) continue;
    const json* text = &*found;
    if (text->is_object() && text->contains("content")) text = &(*text)["content"];
    if (!text->is_string()) return Error{ErrorCode::kCorrupt, fmt::format("{}: '{}' is no token", file, name)};
    tokens[name] = text->get<std::string>();
  }
  return tokens;
}

// The template of tokenizer_config.json; nothing if it has none.
Result<std::optional<std::string>> TemplateOf(const json& config, const std::string& file) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::optional<std::string>();
  if (found->is_string()) return std::optional(found->get<std::string>());
  std::string names;
  if (found->is_array()) {
    for (const json& one : *found) {
      const bool named = one.is_object() && one.contains("name") && one["name"].is_string() &&
                         one.contains("template") && one["template"].is_string();
      if (!named) return Error{ErrorCode::kCorrupt, file + ": an element of 'chat_template' has no name and template"};
      if (one["name"] == "default") return std::optional(one["template"].get<std::string>());
      names += " " + OneLine(one["name"].get<std::string>());
    }
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: 'chat_template' has no template named default, only:{}", file, names)};
  }
  return Error{ErrorCode::kCorrupt, file + ": 'chat_template' is neither a string nor a list of named templates"};
}

Result<std::string> ReadTemplateFile(const std::filesystem::path& file) {
  std::error_code failure;
  const uint64_t size = std::filesystem::file_size(file, failure);
  if (!failure && size > jinja::kMostSourceBytes) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: {} bytes; a chat template has at most {}", file.string(), size,
                                                  jinja::kMostSourceBytes)};
  }
  return FileSystem::Real().ReadFile(file);
}

jinja::Value MessagesOf(jinja::Budget& budget, const ordered_json& messages) {
  if (!messages.is_array()) jinja::Fail("the messages are no list");
  std::vector<jinja::Value> list;
  for (const ordered_json& message : messages) {
    if (!message.is_object()) jinja::Fail("a message is no object");
    std::vector<std::pair<jinja::Text, jinja::Value>> members;
    for (const auto& [key, value] : message.items()) {
      if (value.is_null()) continue;
      const bool known_role =
          key == "role" && value.is_string() &&
          std::find(kRoles.begin(), kRoles.end(), value.get_ref<const std::string&>()) != kRoles.end();
      members.emplace_back(
          jinja::Text(key, jinja::Origin::kMessage),
          jinja::FromJson(budget, value, known_role ? jinja::Origin::kTemplate : jinja::Origin::kMessage));
    }
    list.push_back(jinja::MakeDict(budget, std::move(members)));
  }
  return jinja::MakeList(budget, std::move(list));
}

MarkedText WithRanges(jinja::Text text) {
  MarkedText marked;
  constexpr char kMessage = static_cast<char>(jinja::Origin::kMessage);
  for (size_t at = text.origins.find(kMessage); at != std::string::npos;) {
    const size_t end = std::min(text.origins.find_first_not_of(kMessage, at), text.origins.size());
    marked.plain.push_back({at, end});
    at = text.origins.find(kMessage, end);
  }
  marked.text = std::move(text.bytes);
  return marked;
}

}  // namespace

struct ChatTemplate::Parsed {
  jinja::Block block;
};

Result<ChatTemplate> ChatTemplate::Parse(std::string source, const std::string& name, SpecialTokens special_tokens) {
  if (source.size() > jinja::kMostSourceBytes) {
    return Error{ErrorCode::kCorrupt,
                 fmt::format("{}: a chat template of more than {} bytes", name, jinja::kMostSourceBytes)};
  }
  if (ReplaceInvalidUtf8(source) != source) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: the chat template is not valid UTF-8", name)};
  }
  ChatTemplate result;
  try {
    result.parsed_ = std::make_shared<const Parsed>(Parsed{.block = jinja::Parse(source)});
  } catch (const jinja::Failure& failure) {
    return Error{failure.code, fmt::format("{}: chat template, line {}: {}", name, failure.line, failure.message)};
  }
  result.name_ = name;
  result.source_ = std::move(source);
  result.special_tokens_ = std::move(special_tokens);
  return result;
}

Result<std::optional<ChatTemplate>> ChatTemplate::Load(const std::filesystem::path& model_directory) {
  const std::filesystem::path own = model_directory / "chat_template.jinja";
  std::error_code ignored;
  if (std::filesystem::exists(own, ignored)) {
    POINTSMAN_TRY(ChatTemplate loaded, LoadFile(own, model_directory));
    return std::optional(std::move(loaded));
  }
  const std::string file = (model_directory / "tokenizer_config.json").string();
  POINTSMAN_TRY(const json config, ReadTokenizerConfig(model_directory));
  POINTSMAN_TRY(std::optional<std::string> source, TemplateOf(config, file));
  if (!source) return std::optional<ChatTemplate>();
  POINTSMAN_TRY(SpecialTokens tokens, SpecialTokensOf(config, file));
  POINTSMAN_TRY(ChatTemplate loaded, Parse(std::move(*source), file, std::move(tokens)));
  return std::optional(std::move(loaded));
}

Result<ChatTemplate> ChatTemplate::LoadFile(const std::filesystem::path& file,
                                            const std::filesystem::path& model_directory) {
  POINTSMAN_TRY(std::string source, ReadTemplateFile(file));
  POINTSMAN_TRY(const json config, ReadTokenizerConfig(model_directory));
  POINTSMAN_TRY(SpecialTokens tokens, SpecialTokensOf(config, (model_directory / "tokenizer_config.json").string()));
  return Parse(std::move(source), file.string(), std::move(tokens));
}

Result<MarkedText> ChatTemplate::Render(const ChatInput& input) const {
  try {
    jinja::Budget budget;
    jinja::Variables variables = {{"messages", MessagesOf(budget, input.messages)},
                                  {"tools", jinja::None{}},
                                  {"documents", jinja::None{}},
                                  {"add_generation_prompt", input.add_generation_prompt}};
    for (const auto& [name, text] : special_tokens_) variables.emplace_back(name, jinja::MakeText(budget, text));
    for (const auto& [name, value] : input.variables.items()) {
      std::erase_if(variables, [&key = name](const auto& known) { return known.first == key; });
      variables.emplace_back(name, jinja::FromJson(budget, value, jinja::Origin::kMessage));
    }
    return WithRanges(jinja::Evaluate(parsed_->block, std::move(variables), budget));
  } catch (const jinja::Failure& failure) {
    if (failure.code == ErrorCode::kInvalidArgument) return Error{failure.code, OneLine(failure.message)};
    return Error{failure.code, fmt::format("the model's chat template, line {}: {}", failure.line, failure.message)};
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kInternal, "the model's chat template: out of memory"};
  }
}

}  // namespace pointsman
