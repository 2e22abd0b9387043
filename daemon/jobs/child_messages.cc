#include "daemon/jobs/child_messages.h"

#include <algorithm>
#include <utility>

namespace pointsman {
namespace {

constexpr size_t kLineBytes = 4096, kLines = 32;
constexpr std::string_view kOurs = "pointsman: ";

}  // namespace

bool ChildMessages::Feed(std::string_view bytes) {
  bool progressed = false;
  while (!bytes.empty()) {
    const size_t end = std::min(bytes.find('\n'), bytes.size());
    const size_t room = kLineBytes - line_.size();
    line_ += bytes.substr(0, std::min(end, room));
    too_long_ = too_long_ || end > room;
    if (end == bytes.size()) break;
    progressed = TakeLine() || progressed;
    bytes.remove_prefix(end + 1);
  }
  return progressed;
}

void ChildMessages::Finish() { TakeLine(); }

bool ChildMessages::TakeLine() {
  std::string line = std::exchange(line_, {});
  if (line.empty()) return false;
  if (!std::exchange(too_long_, false)) {
    if (std::optional<JobProgress> progress = ParseProgress(line)) {
      progress_ = std::move(progress);
      return true;
    }
  }
  last_.push_back(std::move(line));
  if (last_.size() > kLines) last_.pop_front();
  return false;
}

std::string ChildMessages::Reason() const {
  const auto ours = [](const std::string& line) { return line.starts_with(kOurs); };
  const auto found = std::find_if(last_.rbegin(), last_.rend(), ours);
  if (found != last_.rend()) return found->substr(kOurs.size());
  return last_.empty() ? std::string() : last_.back();
}

bool ChildMessages::Mentions(std::string_view words) const {
  return std::any_of(last_.begin(), last_.end(),
                     [&](const std::string& line) { return line.find(words) != std::string::npos; });
}

}  // namespace pointsman
