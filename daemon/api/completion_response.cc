#include "daemon/api/completion_response.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>

namespace pointsman {
namespace {

using nlohmann::json;

bool IsUtf8(const std::string& text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    utf8proc_int32_t character = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(bytes, left, &character);
    if (length <= 0) return false;
    bytes += length;
    left -= length;
  }
  return true;
}

std::string BytesOfToken(const Tokenizer& tokenizer, int32_t token) {
  return tokenizer.Decode(std::span(&token, 1), false);
}

// A token's text; one that is a part of a character is shown as OpenAI's API shows it, "bytes:\\xe2", so that two such
// tokens differ.
std::string TextOf(const Tokenizer& tokenizer, int32_t token) {
  std::string text = BytesOfToken(tokenizer, token);
  if (IsUtf8(text)) return text;
  std::string shown = "bytes:";
  for (const char c : text) shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return shown;
}

json BytesOf(const std::string& text) {
  json bytes = json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

json ChatLogprobs(std::span<const TokenOutput> tokens, const Tokenizer& tokenizer) {
  const auto entry = [&](int32_t token, float logprob) {
    return json{
        {"token", TextOf(tokenizer, token)}, {"logprob", logprob}, {"bytes", BytesOf(BytesOfToken(tokenizer, token))}};
  };
  json content = json::array();
  for (const TokenOutput& t : tokens) {
    if (t.token < 0) continue;
    json item = entry(t.token, t.logprob);
    item["top_logprobs"] = json::array();
    for (const LogProb& top : t.top) item["top_logprobs"].push_back(entry(top.token, top.logprob));
    content.push_back(std::move(item));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

// `offset`: characters of the text in front of the first token.
json CompletionLogprobs(std::span<const TokenOutput> tokens, size_t offset, const Tokenizer& tokenizer) {
  json result = {{"tokens", json::array()},
                 {"token_logprobs", json::array()},
                 {"top_logprobs", json::array()},
                 {"text_offset", json::array()}};
  for (const TokenOutput& t : tokens) {
    if (t.token < 0) continue;
    const std::string text = TextOf(tokenizer, t.token);
    json top = json::object();
    for (const LogProb& candidate : t.top) top[TextOf(tokenizer, candidate.token)] = candidate.logprob;
    result["tokens"].push_back(text);
    result["token_logprobs"].push_back(t.logprob);
    result["top_logprobs"].push_back(std::move(top));
    result["text_offset"].push_back(offset);
    offset += BytesOfToken(tokenizer, t.token).size();
  }
  return result;
}

json LogprobsJson(const CompletionHead& head, std::span<const TokenOutput> tokens, const Tokenizer& tokenizer) {
  if (!head.logprobs) return nullptr;
  return head.chat ? ChatLogprobs(tokens, tokenizer) : CompletionLogprobs(tokens, 0, tokenizer);
}

json HeadJson(const CompletionHead& head, const char* object) {
  return {{"id", head.id}, {"object", object}, {"created", head.created}, {"model", head.model}};
}

uint64_t CompletionTokens(std::span<const ChoiceState> choices) {
  uint64_t tokens = 0;
  for (const ChoiceState& choice : choices) tokens += choice.token_count;
  return tokens;
}

}  // namespace

void ChoiceState::Add(const TokenOutput& token, bool keep) {
  text += token.text;
  if (keep) tokens.push_back(token);
  if (token.token < 0) return;
  ++token_count;
  open_tokens += token.gate > 0;
  gate_sum += token.gate;
  confidence_sum += token.confidence;
}

json UsageJson(uint64_t prompt_tokens, uint64_t completion_tokens) {
  return {{"prompt_tokens", prompt_tokens},
          {"completion_tokens", completion_tokens},
          {"total_tokens", prompt_tokens + completion_tokens}};
}

json SummaryJson(const RoutingSummary& routing, std::span<const ChoiceState> choices) {
  double gate = 0, confidence = 0, queued = 0, prefill = 0, decode = 0, adapt = 0;
  uint64_t open = 0;
  for (const ChoiceState& choice : choices) {
    gate += choice.gate_sum;
    confidence += choice.confidence_sum;
    open += choice.open_tokens;
    queued = std::max(queued, choice.done.queued_s);
    prefill = std::max(prefill, choice.done.prefill_s);
    decode = std::max(decode, choice.done.decode_s);
    adapt = std::max(adapt, choice.done.adapt_s);
  }
  const auto tokens = static_cast<double>(std::max<uint64_t>(1, CompletionTokens(choices)));
  json summary = {{"memory", routing.memory.empty() ? json() : json(routing.memory)},
                  {"seed", routing.seed},
                  {"gate_mean", gate / tokens},
                  {"confidence_mean", confidence / tokens},
                  {"open_tokens", open},
                  {"queued_ms", 1e3 * queued},
                  {"prefill_ms", 1e3 * prefill},
                  {"decode_ms", 1e3 * decode},
                  {"adapt_ms", 1e3 * adapt}};
  if (!routing.memory.empty()) summary["generation"] = routing.generation;
  if (!routing.session.empty()) summary["session"] = routing.session;
  if (routing.shadow) summary["shadow"] = true;
  return summary;
}

json CompletionJson(const CompletionHead& head, std::span<const ChoiceState> choices, std::span<const json> explain,
                    uint64_t prompt_tokens, const RoutingSummary& routing, const Tokenizer& tokenizer) {
  json body = HeadJson(head, head.chat ? "chat.completion" : "text_completion");
  json list = json::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    const ChoiceState& choice = choices[i];
    json item = {{"index", choice.index}, {"finish_reason", choice.finish_reason}};
    if (head.chat) {
      item["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      item["text"] = choice.text;
    }
    item["logprobs"] = LogprobsJson(head, choice.tokens, tokenizer);
    if (i < explain.size() && !explain[i].is_null()) item["explain"] = explain[i];
    list.push_back(std::move(item));
  }
  body["choices"] = std::move(list);
  body["usage"] = UsageJson(prompt_tokens, CompletionTokens(choices));
  body["pointsman"] = SummaryJson(routing, choices);
  return body;
}

json ChunkJson(const CompletionHead& head, uint32_t index, std::string_view text, std::span<const TokenOutput> tokens,
               const char* finish_reason, bool first, const Tokenizer& tokenizer) {
  json body = HeadJson(head, head.chat ? "chat.completion.chunk" : "text_completion");
  json choice = {{"index", index}, {"finish_reason", finish_reason ? json(finish_reason) : json()}};
  if (head.chat) {
    json delta = json::object();
    if (first) delta["role"] = "assistant";
    if (first || !text.empty()) delta["content"] = text;
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = tokens.empty() ? json() : LogprobsJson(head, tokens, tokenizer);
  body["choices"] = json::array({std::move(choice)});
  return body;
}

json UsageChunkJson(const CompletionHead& head, uint64_t prompt_tokens, std::span<const ChoiceState> choices) {
  json body = HeadJson(head, head.chat ? "chat.completion.chunk" : "text_completion");
  body["choices"] = json::array();
  body["usage"] = UsageJson(prompt_tokens, CompletionTokens(choices));
  return body;
}

std::string ServerSentEvent(const json& data) {
  return "data: " + data.dump(-1, ' ', false, json::error_handler_t::replace) + "\n\n";
}

}  // namespace pointsman
