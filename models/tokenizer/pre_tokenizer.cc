#include "models/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "models/json_text.h"
#include "models/tokenizer/unicode.h"

namespace pointsman {
namespace {

// GPT-2's pattern, which ByteLevel applies under use_regex.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Span {
  size_t begin, end;
  bool matched;
};

// Matches and what lies between them, without gaps. Inverted, the text between counts as matched.
std::vector<Span> Partition(const std::vector<Match>& matches, size_t size, bool invert) {
  std::vector<Span> spans;
  size_t at = 0;
  for (const Match& match : matches) {
    if (at < match.begin) spans.push_back({at, match.begin, invert});
    spans.push_back({match.begin, match.end, !invert});
    at = match.end;
  }
  if (at < size) spans.push_back({at, size, invert});
  return spans;
}

// Joins the spans of a partition as `behavior` says.
std::vector<Span> Regroup(const std::vector<Span>& spans, SplitBehavior behavior) {
  std::vector<Span> words;
  for (size_t i = 0; i < spans.size(); ++i) {
    const bool after = i > 0, previous_matched = after && spans[i - 1].matched;
    bool join = false;
    switch (behavior) {
      case SplitBehavior::kRemoved:
        if (spans[i].matched) continue;
        break;
      case SplitBehavior::kIsolated:
        break;
      case SplitBehavior::kContiguous:
        join = after && previous_matched == spans[i].matched;
        break;
      case SplitBehavior::kMergedWithPrevious:
        join = after && spans[i].matched && !previous_matched;
        break;
      case SplitBehavior::kMergedWithNext:
        join = after && !spans[i].matched && previous_matched;
        break;
    }
    if (join) {
      words.back().end = spans[i].end;
    } else {
      words.push_back(spans[i]);
    }
  }
  return words;
}

std::vector<Match> FindDigits(std::string_view text) {
  std::vector<Match> digits;
  for (size_t at = 0; at < text.size();) {
    const DecodedCodePoint decoded = DecodeUtf8(text, at);
    if (IsNumeric(decoded.value)) digits.push_back({at, at + decoded.bytes});
    at += decoded.bytes;
  }
  return digits;
}

std::optional<SplitBehavior> BehaviorNamed(const std::string& name) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return std::nullopt;
}

Error InPreTokenizer(const std::string& file, const Error& error) {
  return Error{error.code, fmt::format("{}: pre_tokenizer: {}", file, error.message)};
}

}  // namespace

Result<PreTokenizer> PreTokenizer::Create(const nlohmann::json& spec, const std::string& file) {
  if (spec.is_null()) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: no pre_tokenizer; only byte-level BPE (ByteLevel) is supported", file)};
  }
  PreTokenizer pre_tokenizer;
  POINTSMAN_TRY(const std::vector<const nlohmann::json*> steps, FlattenSequence(spec, "pretokenizers", file));
  if (steps.empty()) return Error{ErrorCode::kCorrupt, fmt::format("{}: pre_tokenizer is an empty Sequence", file)};
  for (const nlohmann::json* step : steps) {
    POINTSMAN_CHECK_OK(pre_tokenizer.AddStep(*step, step == steps.back(), file));
  }
  return pre_tokenizer;
}

Status PreTokenizer::AddStep(const nlohmann::json& spec, bool last, const std::string& file) {
  const JsonFields fields(spec, file);
  POINTSMAN_TRY(const std::string type, fields.Text("type"));
  if (last != (type == "ByteLevel")) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: pre_tokenizer '{}' where {} is supported", file, OneLine(type),
                             last ? "only ByteLevel in the last place" : "only Split and Digits before it")};
  }
  if (type == "Split") return AddSplit(spec, file);
  if (type == "Digits") {
    POINTSMAN_TRY(const bool individual, fields.Boolean("individual_digits", false));
    canonical_ += fmt::format("digits {}\n", individual);
    steps_.push_back({Step::Kind::kDigits, {}, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
    return {};
  }
  if (type == "ByteLevel") {
    POINTSMAN_TRY(const bool prefix_space, fields.Boolean("add_prefix_space", true));
    POINTSMAN_TRY(const bool use_regex, fields.Boolean("use_regex", true));
    canonical_ += fmt::format("byte-level {} {}\n", prefix_space, use_regex);
    if (prefix_space) steps_.push_back({Step::Kind::kPrefixSpace, {}});
    if (!use_regex) return {};
    POINTSMAN_TRY(Pattern gpt2, Pattern::Compile(kGpt2Pattern));
    steps_.push_back({Step::Kind::kPattern, std::move(gpt2)});
    return {};
  }
  return Error{ErrorCode::kUnsupported,
               fmt::format("{}: pre_tokenizer '{}' is not supported; ByteLevel, Split, Digits and Sequence are", file,
                           OneLine(type))};
}

Status PreTokenizer::AddSplit(const nlohmann::json& spec, const std::string& file) {
  const JsonFields fields(spec, file);
  POINTSMAN_TRY(const std::string name, fields.Text("behavior"));
  POINTSMAN_TRY(const bool invert, fields.Boolean("invert", false));
  const std::optional<SplitBehavior> behavior = BehaviorNamed(name);
  if (!behavior) return fields.Bad("behavior", fmt::format("is '{}', which is none that Split has", OneLine(name)));
  const auto pattern = spec.find("pattern");
  if (pattern == spec.end() || !pattern->is_object()) return fields.Bad("pattern", "of Split is missing");
  const bool is_regex = pattern->contains("Regex");
  POINTSMAN_TRY(const std::string text, JsonFields(*pattern, file).Text(is_regex ? "Regex" : "String"));
  auto compiled = is_regex ? Pattern::Compile(text) : Pattern::Literal(text);
  if (!compiled.ok()) return InPreTokenizer(file, compiled.error());
  canonical_ += fmt::format("split {} {} {} {}:{}\n", is_regex, name, invert, text.size(), text);
  steps_.push_back({Step::Kind::kPattern, std::move(compiled).value(), *behavior, invert});
  return {};
}

std::vector<std::string_view> PreTokenizer::Split(std::string_view text, std::deque<std::string>& storage) const {
  std::vector<std::string_view> words;
  if (!text.empty()) words.push_back(text);
  std::vector<Match> matches;
  for (const Step& step : steps_) {
    std::vector<std::string_view> next;
    for (std::string_view word : words) {
      if (step.kind == Step::Kind::kPrefixSpace) {
        next.push_back(word.starts_with(' ') ? word : storage.emplace_back(" " + std::string(word)));
        continue;
      }
      matches.clear();
      if (step.kind == Step::Kind::kDigits) {
        matches = FindDigits(word);
      } else {
        step.pattern.FindAll(word, matches);
      }
      for (const Span& span : Regroup(Partition(matches, word.size(), step.invert), step.behavior)) {
        next.push_back(word.substr(span.begin, span.end - span.begin));
      }
    }
    words = std::move(next);
  }
  return words;
}

}  // namespace pointsman
