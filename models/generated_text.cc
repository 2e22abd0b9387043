#include "models/generated_text.h"

#include <algorithm>
#include <utility>

namespace pointsman {

GeneratedText::GeneratedText(const MoeModel& model, const GenerateOptions& options)
    : model_(model),
      max_tokens_(options.max_tokens),
      temperature_(options.temperature),
      top_p_(options.top_p),
      ignore_end_(options.ignore_end),
      random_(options.seed),
      stream_(options.stop),
      ended_(options.max_tokens == 0) {}

int32_t GeneratedText::Take(std::span<const float> logits) {
  const int32_t token = SampleToken(logits, temperature_, top_p_, random_);
  const auto& ends = model_.config().eos_token_ids;
  if (!ignore_end_ && std::ranges::find(ends, token) != ends.end()) {
    End(FinishReason::kStop);
    return -1;
  }
  result_.tokens.push_back(token);
  if (stream_.Append(model_.tokenizer().Decode(std::span(&token, 1)))) {
    End(FinishReason::kStop);
  } else if (static_cast<int64_t>(result_.tokens.size()) >= max_tokens_) {
    End(FinishReason::kLength);
  }
  return token;
}

void GeneratedText::End(FinishReason reason) {
  if (!ended_ || result_.finish_reason != FinishReason::kStop) result_.finish_reason = reason;
  ended_ = true;
}

Generation GeneratedText::Finish() {
  result_.text = stream_.Take();
  return std::move(result_);
}

}  // namespace pointsman
