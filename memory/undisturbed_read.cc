#include "memory/undisturbed_read.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <system_error>
#include <thread>

namespace pointsman {
namespace {

namespace fs = std::filesystem;

// Nothing where no directory is: `open` then says so.
std::set<std::string> NamesIn(const fs::path& directory) {
  std::set<std::string> names;
  std::error_code code;
  for (fs::directory_iterator it(directory, code), end; !code && it != end; it.increment(code)) {
    names.insert(it->path().filename().string());
  }
  return names;
}

}  // namespace

Status OpenUndisturbed(const fs::path& directory, const std::function<Status()>& open,
                       std::chrono::milliseconds patience) {
  constexpr std::chrono::milliseconds kPause(2);
  const auto end = std::chrono::steady_clock::now() + patience;
  std::set<std::string> before = NamesIn(directory);
  for (bool failed = false;;) {
    Status opened = open();
    std::set<std::string> after = NamesIn(directory);
    const bool stayed = std::ranges::includes(after, before);
    if (stayed && (opened.ok() || failed)) return opened;
    if (!stayed && std::chrono::steady_clock::now() > end) {
      return Error{ErrorCode::kBusy, fmt::format("{}: its files are being replaced all the time; try again when the "
                                                 "process that writes this memory is done",
                                                 directory.string())};
    }
    failed = stayed;
    before = std::move(after);
    if (!stayed) std::this_thread::sleep_for(kPause);
  }
}

}  // namespace pointsman
