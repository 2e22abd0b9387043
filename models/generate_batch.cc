#include "models/generate_batch.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <exception>
#include <utility>

#include "models/generated_text.h"

namespace pointsman {
namespace {

struct Row {
  GeneratedText text;
  KvCache cache;
  std::vector<int32_t> next;  // what the model has not read yet
  uint32_t slot = 0;
};

GeneratedText TextOf(const MoeModel& model, GenerateOptions options, uint64_t seed) {
  options.seed = seed;
  return GeneratedText(model, options);
}

// The rows that go on: neither ended nor at the end of the context.
std::vector<Row*> LiveRows(std::vector<Row>& rows, int64_t context) {
  std::vector<Row*> live;
  for (Row& row : rows) {
    const bool fits = row.cache.length + static_cast<int64_t>(row.next.size()) <= context;
    if (!row.text.ended() && fits) live.push_back(&row);
  }
  return live;
}

Result<std::vector<Generation>> Run(const MoeModel& model, std::span<const BatchPrompt> prompts,
                                    const GenerateOptions& options,
                                    const std::function<bool(std::string_view)>& enough) {
  const MoeConfig& config = model.config();
  std::vector<Row> rows;
  for (const BatchPrompt& prompt : prompts) {
    rows.push_back({TextOf(model, options, prompt.seed), model.NewCache(1), prompt.tokens, prompt.slot});
  }
  for (;;) {
    const std::vector<Row*> live = LiveRows(rows, config.max_positions);
    if (live.empty()) break;
    std::vector<MoeModel::RowSegment> segments;
    for (Row* row : live) segments.push_back({.tokens = row->next, .cache = &row->cache, .slot = row->slot});
    const at::Tensor logits = model.ForwardRows(segments, options.hook);
    if (options.hook) POINTSMAN_CHECK_OK(options.hook->status());
    const float* of_row = logits.const_data_ptr<float>();
    for (Row* row : live) {
      const int32_t token = row->text.Take(std::span(of_row, config.vocab_size));
      if (token >= 0 && enough && enough(row->text.text())) row->text.End(FinishReason::kStop);
      row->next.assign(1, token);
      of_row += config.vocab_size;
    }
  }
  std::vector<Generation> results;
  for (Row& row : rows) results.push_back(row.text.Finish());
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
