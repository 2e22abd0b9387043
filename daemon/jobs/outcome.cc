#include "daemon/jobs/outcome.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <csignal>
#include <utility>

namespace pointsman {
namespace {

using nlohmann::json;

std::string RanOutOfMemory(uint64_t limit_bytes) {
  const std::string limit = limit_bytes > 0
                                ? fmt::format("the limit of a job is {:.1f} GB (--job-memory-gb); raise it, or ",
                                              static_cast<double>(limit_bytes) / 1e9)
                                : std::string("give the server more memory, or ");
  return limit + "build from less text (max_tokens) or with fewer threads";
}

// By the words of those whose allocation failed: the C++ library, LibTorch, the system; under a limit also those who
// could not map a library or start a thread.
bool SaysOutOfMemory(const ChildMessages& messages, bool limited) {
  for (const char* words : {"bad_alloc", "t allocate memory", "not enough memory"}) {
    if (messages.Mentions(words)) return true;
  }
  return limited &&
         (messages.Mentions("failed to map segment") || messages.Mentions("Resource temporarily unavailable"));
}

std::string ErrorOf(int status, const ChildMessages& messages, uint64_t limit_bytes) {
  const std::string reason = messages.Reason();
  const bool limited = limit_bytes > 0;
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    // Under a limit an allocation fails first, and what that ends in depends on who had asked for it.
    const bool memory = number == SIGKILL || (limited && (number == SIGABRT || number == SIGSEGV || number == SIGBUS));
    if (memory) return fmt::format("killed by signal {} (out of memory?): {}", number, RanOutOfMemory(limit_bytes));
    return fmt::format("killed by signal {}{}", number, reason.empty() ? "" : "; it last said: " + reason);
  }
  if (SaysOutOfMemory(messages, limited)) return "out of memory: " + RanOutOfMemory(limit_bytes);
  const int code = WEXITSTATUS(status);
  if (code == 2) return "wrong use: " + (reason.empty() ? "the command refused its options" : reason);
  if (code == 3) return "the requirement is not met: the result has the verdict";
  return reason.empty() ? fmt::format("the command ended with status {} and said nothing", code) : reason;
}

}  // namespace

Outcome OutcomeOf(const ChildEnd& end, const ChildMessages& messages, uint64_t memory_bytes, uint64_t result_bytes) {
  Outcome outcome;
  if (!WIFEXITED(end.status) || WEXITSTATUS(end.status) != 0) {
    outcome.error = ErrorOf(end.status, messages, memory_bytes);
  }
  if (end.output_too_large) {
    if (outcome.error.empty()) {
      outcome.error = fmt::format("done, but its result is larger than {} bytes and is not kept", result_bytes);
    }
    return outcome;
  }
  json parsed = json::parse(end.output, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_discarded()) {
    outcome.result = std::make_shared<const json>(std::move(parsed));
  } else if (outcome.error.empty()) {
    outcome.error = "the command succeeded but its result is not JSON";
  }
  return outcome;
}

}  // namespace pointsman
