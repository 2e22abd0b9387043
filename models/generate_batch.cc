#include "models/generate_batch.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>

namespace pointsman {
namespace {

struct Row {
  std::span<const int32_t> prompt;
  std::mt19937_64 random;
  Generation result;
  bool done = false;
};

// Takes `token` as the row's next; decides whether the row ends with it.
void Append(const MoeModel& model, const GenerateOptions& options, const std::function<bool(std::string_view)>& enough,
            int32_t token, Row& row) {
  const auto& ends = model.config().eos_token_ids;
  std::string& text = row.result.text;
  row.done = std::ranges::find(ends, token) != ends.end();
  if (!row.done) {
    row.result.tokens.push_back(token);
    const size_t before = text.size();
    text += model.tokenizer().Decode(std::span(&token, 1));
    size_t cut = std::string::npos;
    for (const std::string& stop : options.stop) {
      cut = std::min(cut, text.find(stop, before >= stop.size() ? before - stop.size() + 1 : 0));
    }
    row.done = cut != std::string::npos;
    if (row.done) text.resize(cut);
    row.done = row.done || (enough && enough(text));
  }
  if (row.done) row.result.finish_reason = FinishReason::kStop;
  row.done = row.done || static_cast<int64_t>(row.result.tokens.size()) >= options.max_tokens;
}

Result<std::vector<Generation>> Run(const MoeModel& model, std::span<const BatchPrompt> prompts,
                                    const GenerateOptions& options,
                                    const std::function<bool(std::string_view)>& enough) {
  const at::NoGradGuard no_grad;
  const MoeConfig& config = model.config();
  const auto count = static_cast<int64_t>(prompts.size());
  KvCache cache = model.NewCache(count);
  MoeModel::ForwardOptions forward{.hook = options.hook, .slots = {}, .cache = &cache, .last_only = true};
  std::vector<Row> rows;
  size_t shortest = prompts.front().tokens.size();
  for (const BatchPrompt& prompt : prompts) {
    rows.push_back({prompt.tokens, std::mt19937_64(prompt.seed), {}, options.max_tokens == 0});
    forward.slots.push_back(prompt.slot);
    shortest = std::min(shortest, prompt.tokens.size());
  }
  at::Tensor ids = at::empty({count, static_cast<int64_t>(shortest)}, at::kLong);
  for (int64_t b = 0; b < count; ++b) {
    std::copy_n(rows[b].prompt.begin(), shortest, ids.data_ptr<int64_t>() + b * ids.size(1));
  }
  const auto done = [](const Row& row) { return row.done; };
  while (!std::ranges::all_of(rows, done)) {
    const at::Tensor logits = model.Forward(ids, forward);
    if (options.hook) POINTSMAN_CHECK_OK(options.hook->status());
    ids = at::zeros({count, 1}, at::kLong);
    for (int64_t b = 0; b < count; ++b) {
      Row& row = rows[b];
      int32_t next = 0;  // a finished row goes on with anything: nobody reads it
      if (cache.length < static_cast<int64_t>(row.prompt.size())) {
        next = row.prompt[cache.length];
      } else if (!row.done) {
        const std::span logits_of(logits.const_data_ptr<float>() + b * config.vocab_size, config.vocab_size);
        next = SampleToken(logits_of, options.temperature, options.top_p, row.random);
        Append(model, options, enough, next, row);
      }
      ids.data_ptr<int64_t>()[b] = next;
    }
    if (cache.length >= config.max_positions) break;
  }
  std::vector<Generation> results;
  for (Row& row : rows) results.push_back(std::move(row.result));
  return results;
}

}  // namespace

Result<std::vector<Generation>> GenerateBatch(const MoeModel& model, std::span<const BatchPrompt> prompts,
                                              const GenerateOptions& options,
                                              const std::function<bool(std::string_view text)>& enough) {
  if (prompts.empty()) return std::vector<Generation>{};
  for (const BatchPrompt& prompt : prompts) POINTSMAN_CHECK_OK(CheckRequest(model.config(), prompt.tokens, options));
  try {
    return Run(model, prompts, options, enough);
  } catch (const std::exception& exception) {
    const std::string text = exception.what();
    return Error{ErrorCode::kInternal, fmt::format("generation failed in LibTorch ({}): free memory and retry",
                                                   text.substr(0, text.find('\n')))};
  }
}

}  // namespace pointsman
