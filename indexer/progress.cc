#include "indexer/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace pointsman {
namespace {

constexpr double kBarInterval_s = 0.1;
constexpr double kJsonInterval_s = 0.5;
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

double IntervalOf(const ProgressOptions& options, bool bar) {
  if (options.style == ProgressStyle::kJson) return kJsonInterval_s;
  return bar ? kBarInterval_s : kLineInterval_s;
}

// One decimal is plenty, and keeps the lines short.
nlohmann::ordered_json Rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::round(10 * value) / 10;
}

std::string JsonText(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
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
      drawn_s_(start_s_) {
  if (!options_.quiet && options_.style == ProgressStyle::kJson) Draw(start_s_);
}

Progress::~Progress() { Finish(); }

void Progress::Advance(uint64_t n) {
  const std::lock_guard lock(mutex_);
  done_ += n;
  const double now = options_.seconds();
  if (!options_.quiet && now - drawn_s_ >= IntervalOf(options_, bar_)) Draw(now);
}

void Progress::Skip(uint64_t n) {
  const std::lock_guard lock(mutex_);
  done_ += n;
  skipped_ += n;
}

void Progress::NoteLoss(double nats) {
  const std::lock_guard lock(mutex_);
  loss_ = nats;
  if (!options_.quiet && options_.style == ProgressStyle::kJson) Draw(options_.seconds());
}

void Progress::Draw(double now) {
  drawn_s_ = now;
  if (options_.style == ProgressStyle::kJson) {
    fmt::print(options_.stream, "{}\n", JsonLine(now));
    std::fflush(options_.stream);
    return;
  }
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

std::string Progress::JsonLine(double now) const {
  const double elapsed = now - start_s_;
  const double rate = elapsed > 0 ? static_cast<double>(done_ - skipped_) / elapsed : 0;
  nlohmann::ordered_json line;
  line["stage"] = stage_;
  line["done"] = done_;
  line["total"] = total_ > 0 ? nlohmann::ordered_json(total_) : nullptr;
  line["rows_per_s"] = Rounded(rate);
  const bool known = rate > 0 && total_ >= done_ && total_ > 0;
  line["eta_s"] = known ? Rounded(static_cast<double>(total_ - done_) / rate) : nullptr;
  if (loss_ && std::isfinite(*loss_)) line["loss"] = *loss_;
  return JsonText(line);
}

void Progress::Finish(const std::string& note) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(finished_, true) || options_.quiet) return;
  if (options_.style == ProgressStyle::kJson) return Draw(options_.seconds());
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

void AnnounceStage(const std::string& stage, const ProgressOptions& options) {
  if (options.quiet || options.style != ProgressStyle::kJson) return;
  const nlohmann::ordered_json line = {
      {"stage", stage}, {"done", 0}, {"total", nullptr}, {"rows_per_s", 0.0}, {"eta_s", nullptr}};
  fmt::print(options.stream, "{}\n", JsonText(line));
  std::fflush(options.stream);
}

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
