#include "indexer/tasks/answers.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <cctype>

namespace pointsman {
namespace {

constexpr uint32_t kMatchLimit = 1'000'000;  // backtracking steps of one search
constexpr uint32_t kHeapLimitKib = 64 * 1024;

template <typename T, void (*Free)(T*)>
struct Freer {
  void operator()(T* pointer) const { Free(pointer); }
};
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data, pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context, pcre2_match_context_free>>;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// What must follow a comma between thousands.
bool ThreeDigits(std::string_view text) {
  return text.size() >= 3 && std::all_of(text.begin(), text.begin() + 3, IsDigit) &&
         (text.size() == 3 || !IsDigit(text[3]));
}

// "+01,234.50" -> "1234.5"; nothing if the text is not one decimal number.
std::optional<std::string> Number(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.starts_with('$')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == '.' || text.back() == ',')) text.remove_suffix(1);
  std::string whole, fraction;
  bool point = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '.' && !point) {
      point = true;
    } else if (IsDigit(text[i])) {
      (point ? fraction : whole) += text[i];
    } else if (text[i] != ',' || point || whole.empty() || !ThreeDigits(text.substr(i + 1))) {
      return std::nullopt;
    }
  }
  if (whole.empty() && fraction.empty()) return std::nullopt;
  whole.erase(0, std::min(whole.find_first_not_of('0'), whole.size()));
  fraction.erase(fraction.find_last_not_of('0') + 1);
  if (whole.empty()) whole += '0';
  std::string number = fraction.empty() ? whole : whole + "." + fraction;
  return negative && number != "0" ? "-" + number : number;
}

}  // namespace

Result<AnswerPattern> AnswerPattern::Compile(const std::string& regex) {
  int code = 0;
  PCRE2_SIZE offset = 0;
  AnswerPattern pattern;
  pattern.code_.reset(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(),
                    PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C, &code, &offset, nullptr),
      pcre2_code_free);
  if (!pattern.code_) {
    unsigned char text[160] = {};
    pcre2_get_error_message(code, text, sizeof text);
    return Error{ErrorCode::kInvalidArgument, fmt::format("--answer-pattern '{}': {} at character {}", regex,
                                                          reinterpret_cast<const char*>(text), offset)};
  }
  pcre2_jit_compile(pattern.code_.get(), PCRE2_JIT_COMPLETE);  // only speed: matching works without it
  return pattern;
}

std::optional<FoundAnswer> AnswerPattern::Find(std::string_view text) const {
  const MatchData data(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  if (!data || !context) return std::nullopt;
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int found = pcre2_match(code_.get(), subject, text.size(), 0, 0, data.get(), context.get());
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
    found = pcre2_match(code_.get(), subject, text.size(), 0, PCRE2_NO_JIT, data.get(), context.get());
  }
  if (found < 1) return std::nullopt;
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
  const size_t group = found > 1 ? 2 : 0;
  if (span[group] == PCRE2_UNSET || span[group] >= span[group + 1]) return std::nullopt;
  FoundAnswer answer;
  answer.text = NormalizeAnswer(text.substr(span[group], span[group + 1] - span[group]));
  answer.final = span[1] < text.size();
  if (answer.text.empty()) return std::nullopt;
  return answer;
}

std::string NormalizeAnswer(std::string_view text) {
  std::string spaced;
  for (const char c : text) {
    if (!std::isspace(static_cast<unsigned char>(c))) {
      spaced += c;
    } else if (!spaced.empty() && spaced.back() != ' ') {
      spaced += ' ';
    }
  }
  if (spaced.ends_with(' ')) spaced.pop_back();
  return Number(spaced).value_or(spaced);
}

std::vector<Vote> CountVotes(std::span<const std::optional<std::string>> answers) {
  std::vector<Vote> votes;
  for (const std::optional<std::string>& answer : answers) {
    if (!answer) continue;
    const auto known = std::ranges::find(votes, *answer, &Vote::answer);
    if (known == votes.end()) {
      votes.push_back({*answer, 1});
    } else {
      ++known->votes;
    }
  }
  std::ranges::stable_sort(votes, [](const Vote& a, const Vote& b) { return a.votes > b.votes; });
  return votes;
}

}  // namespace pointsman
