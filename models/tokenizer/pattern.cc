#include "models/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <cstdint>

#include "models/tokenizer/pattern_dialect.h"

namespace pointsman {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000;  // backtracking steps of one match: tens of milliseconds
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kMaxPatternBytes = 64 * 1024;

template <typename T, void (*Free)(T*)>
struct Freer {
  void operator()(T* pointer) const { Free(pointer); }
};
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data, pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context, pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context, pcre2_compile_context_free>>;

Result<std::shared_ptr<pcre2_code>> CompilePcre2(std::string_view pattern, uint32_t options) {
  if (pattern.size() > kMaxPatternBytes) return Error{ErrorCode::kUnsupported, "pattern is longer than 64 KiB"};
  CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 100);
  int code = 0;
  PCRE2_SIZE offset = 0;
  std::shared_ptr<pcre2_code> compiled(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                                     options | PCRE2_UTF, &code, &offset, context.get()),
                                       pcre2_code_free);
  if (!compiled) {
    unsigned char text[160] = {};
    pcre2_get_error_message(code, text, sizeof text);
    return Error{ErrorCode::kCorrupt, fmt::format("pattern does not compile: {}", reinterpret_cast<const char*>(text))};
  }
  uint32_t matches_empty = 0;
  pcre2_pattern_info(compiled.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0) return Error{ErrorCode::kUnsupported, "pattern can match the empty string"};
  pcre2_jit_compile(compiled.get(), PCRE2_JIT_COMPLETE);  // only speed: matching works without it
  return compiled;
}

}  // namespace

Result<Pattern> Pattern::Compile(std::string_view regex) {
  POINTSMAN_TRY(const std::string translated, TranslatePattern(regex));
  Pattern pattern;
  POINTSMAN_TRY(pattern.code_, CompilePcre2(translated, PCRE2_UCP));
  return pattern;
}

Result<Pattern> Pattern::Literal(std::string_view text) {
  Pattern pattern;
  POINTSMAN_TRY(pattern.code_, CompilePcre2(text, PCRE2_LITERAL));
  return pattern;
}

void Pattern::FindAll(std::string_view text, std::vector<Match>& matches) const {
  MatchData data(pcre2_match_data_create(1, nullptr));
  MatchContext context(pcre2_match_context_create(nullptr));
  if (!data || !context) return;
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t offset = 0;
  while (offset < text.size()) {
    int found = pcre2_match(code_.get(), subject, text.size(), offset, PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its frames on the heap
      found = pcre2_match(code_.get(), subject, text.size(), offset, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(),
                          context.get());
    }
    if (found < 0) return;  // no match, or a limit
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    matches.push_back({span[0], span[1]});
    offset = span[1];
  }
}

}  // namespace pointsman
