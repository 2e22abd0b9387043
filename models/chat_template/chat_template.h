// A model's chat template: from messages to the text that the model reads, with a note of which bytes the messages
// wrote.
//
// The template is a program in Jinja that came with the model. A bounded subset of it is evaluated here (README.md);
// what is outside is refused by name when the template is read, never half-rendered. No LibTorch here.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "memory/result.h"
#include "models/tokenizer/marked_encoder.h"

namespace pointsman {

struct ChatInput {
  nlohmann::ordered_json messages;  // a list of objects; a member that is null counts as absent
  bool add_generation_prompt = true;
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();  // more names for the template
};

// Immutable, thread-safe.
class ChatTemplate {
 public:
  // "bos_token" -> "<s>", as in tokenizer_config.json.
  using SpecialTokens = std::map<std::string, std::string>;

  // kUnsupported (with the line) for what is not in the subset or no template at all, kCorrupt for invalid UTF-8 or a
  // source of more than 256 KiB. `name` begins every message: a file's.
  static Result<ChatTemplate> Parse(std::string source, const std::string& name, SpecialTokens special_tokens = {});
  // What a model's directory has: chat_template.jinja, else `chat_template` of tokenizer_config.json (a string, or a
  // list of named ones with a "default"); nothing if there is neither.
  static Result<std::optional<ChatTemplate>> Load(const std::filesystem::path& model_directory);
  // `file` in place of the model's own, with the model's special tokens.
  static Result<ChatTemplate> LoadFile(const std::filesystem::path& file, const std::filesystem::path& model_directory);

  // A message's "role" counts as the template's own text if it is one of system, developer, user, assistant, tool;
  // every other string and key of the messages and variables is the messages'.
  // Errors: kInvalidArgument with the template's words where it raises one (raise_exception); kUnsupported, with the
  // line, where it fails or meets a limit.
  Result<MarkedText> Render(const ChatInput& input) const;

  const std::string& source() const { return source_; }
  const SpecialTokens& special_tokens() const { return special_tokens_; }

 private:
  struct Parsed;
  ChatTemplate() = default;

  std::string name_, source_;
  SpecialTokens special_tokens_;
  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace pointsman
