// Chat templates as a filter, for tests/chat_templates.py.
//
//   pointsman_chat [tokenizer.json] < cases > results
//
// In: a JSON object a line: {"template", "messages", "add_generation_prompt", "special_tokens", "variables"}. Out, a
// line each: {"text", "plain": [[begin, end], ..]} and with a tokenizer "ids"; or {"error", "when": "read" | "raised" |
// "rendered"}.
#include <iostream>
#include <string>

#include "models/chat_template/chat_template.h"

namespace {

using nlohmann::ordered_json;
using namespace pointsman;

ordered_json Answer(const ordered_json& given, const char* tokenizer) {
  const auto special = given.value("special_tokens", ordered_json::object()).get<ChatTemplate::SpecialTokens>();
  const auto read = ChatTemplate::Parse(given["template"].get<std::string>(), "template", special);
  if (!read.ok()) return {{"error", read.error().message}, {"when", "read"}};
  ChatInput input;
  input.messages = given["messages"];
  input.add_generation_prompt = given.value("add_generation_prompt", false);
  input.variables = given.value("variables", ordered_json::object());
  const auto rendered = read.value().Render(input);
  if (!rendered.ok()) {
    const bool raised = rendered.error().code == ErrorCode::kInvalidArgument;
    return {{"error", rendered.error().message}, {"when", raised ? "raised" : "rendered"}};
  }
  ordered_json plain = ordered_json::array();
  for (const ByteRange& range : rendered.value().plain) plain.push_back({range.begin, range.end});
  ordered_json answer = {{"text", rendered.value().text}, {"plain", plain}};
  if (tokenizer) {
    const auto encoder = MarkedEncoder::Load(tokenizer, read.value().source());
    if (!encoder.ok()) return {{"error", encoder.error().message}, {"when", "loaded"}};
    answer["ids"] = encoder.value()->Encode(rendered.value());
  }
  return answer;
}

}  // namespace

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << Answer(ordered_json::parse(line), argc > 1 ? argv[1] : nullptr).dump() << std::endl;
  }
  return 0;
}
