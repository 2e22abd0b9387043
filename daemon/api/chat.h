// From chat messages to the model's tokens: through the model's own chat template, or a plain default.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "daemon/api/completion_request.h"
#include "daemon/api/context.h"
#include "memory/result.h"
#include "models/chat_template/chat_template.h"

namespace pointsman {

struct ChatFormat {
  std::optional<ChatTemplate> from_model;        // nothing: the default below
  std::unique_ptr<const MarkedEncoder> encoder;  // no message writes a control token
  std::string origin;                            // "model", "default", or the file's name
};

// `chosen`: "" for the model's own template (the default where it has none), "default", or a file. A template that is
// outside the subset is an error that says so and names the ways out; nobody gets the default without asking.
Result<ChatFormat> LoadChatFormat(const std::filesystem::path& model_directory, const std::string& chosen);

// The encoder for this server's model; borrows the context.
ChatEncoder ChatEncoderOf(ApiContext& context);

}  // namespace pointsman
