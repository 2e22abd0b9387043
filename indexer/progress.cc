#include "indexer/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

namespace pointsman {
namespace {

constexpr double kBarInterval_s = 0.1;
constexpr double kLineInterval_s = 10;
constexpr int kBarCells = 24;

ProgressOptions WithClock(ProgressOptions options) {
  if (!options.seconds) {
    options.seconds = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
  }
  return options;
}

bool WantsBar(const ProgressOptions& options) {
  if (options.style == ProgressStyle::kAuto) return isatty(fileno(options.stream)) == 1;
  return options.style == ProgressStyle::kBar;
}

std::string FormatRate(double per_second) {
  if (per_second >= 100) return FormatCount(static_cast<uint64_t>(std::llround(per_second)));
  return fmt::format("{:.1f}", per_second);
}

}  // namespace

Progress::Progress(std::string stage, uint64_t total, std::string unit, ProgressOptions options)
    : stage_(std::move(stage)),
      total_(total),
      unit_(std::move(unit)),
      options_(WithClock(std::move(options))),
      bar_(WantsBar(options_)),
      start_s_(options_.seconds()),
      drawn_s_(start_s_) {}

Progress::~Progress() { Finish(); }

void Progress::Advance(uint64_t n) {
  const std::lock_guard lock(mutex_);
  done_ += n;
  const double now = options_.seconds();
  if (!options_.quiet && now - drawn_s_ >= (bar_ ? kBarInterval_s : kLineInterval_s)) Draw(now);
}

void Progress::Skip(uint64_t n) {
  const std::lock_guard lock(mutex_);
  done_ += n;
  skipped_ += n;
}

void Progress::Draw(double now) {
  drawn_s_ = now;
  // Carriage return and "erase to the end of the line": a shorter text leaves nothing of a longer one behind.
  fmt::print(options_.stream, "{}{}{}", bar_ ? "\r" : "", Line(now), bar_ ? "\x1b[K" : "\n");
  std::fflush(options_.stream);
}

std::string Progress::Line(double now) const {
  const double rate = static_cast<double>(done_ - skipped_) / std::max(now - start_s_, 1e-9);
  std::string text = stage_ + ": ";
  if (total_ == 0) return text + fmt::format("{} {}, {}/s", FormatCount(done_), unit_, FormatRate(rate));
  const double part = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
  if (bar_) {
    const int filled = static_cast<int>(part * kBarCells);
    text += fmt::format("[{}{}] ", std::string(filled, '#'), std::string(kBarCells - filled, '.'));
  }
  text += fmt::format("{:.0f}% ({} of {} {}), {}/s", std::floor(100 * part), FormatCount(done_), FormatCount(total_),
                      unit_, FormatRate(rate));
  if (rate > 0 && done_ < total_) {
    text += ", " + FormatDuration(static_cast<double>(total_ - done_) / rate) + " left";
  }
  return text;
}

void Progress::Finish(const std::string& note) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(finished_, true) || options_.quiet) return;
  const double elapsed = options_.seconds() - start_s_;
  const bool counted = total_ > 0 || done_ > 0;
  std::string text =
      stage_ + ": " + (counted ? FormatCount(done_) + " " + unit_ : "done") + " in " + FormatDuration(elapsed);
  if (done_ > skipped_ && elapsed > 0) {
    text += fmt::format(" ({} {}/s)", FormatRate(static_cast<double>(done_ - skipped_) / elapsed), unit_);
  }
  if (skipped_ > 0) text += fmt::format(", {} done before", FormatCount(skipped_));
  if (!note.empty()) text += ", " + note;
  fmt::print(options_.stream, "{}{}{}\n", bar_ ? "\r" : "", text, bar_ ? "\x1b[K" : "");
  std::fflush(options_.stream);
}

uint64_t Progress::done() const {
  const std::lock_guard lock(mutex_);
  return done_;
}

double Progress::elapsed_s() const { return options_.seconds() - start_s_; }

std::string FormatDuration(double seconds) {
  if (seconds < 59.95) return fmt::format("{:.1f} s", std::max(0.0, seconds));
  const auto whole = static_cast<uint64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string FormatCount(uint64_t count) {
  std::string digits = std::to_string(count);
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), 1, ',');
  return digits;
}

}  // namespace pointsman
