// Progress of one stage: a bar with rate and remaining time on a terminal, a plain line about every 10 s elsewhere,
// nothing when quiet. Writes to stderr, so that --json on stdout stays one document. For programs (kJson) one line of
// JSON when the stage begins, about every half second and when it ends; other lines of stderr never begin with '{':
//
//   {"stage":"capture","done":4096,"total":98304,"rows_per_s":812.5,"eta_s":115.9,"loss":2.31}
//
// total and eta_s are null while unknown; loss is there once the stage has one.
//
//   Progress progress("capture", windows.size(), "windows", {.quiet = quiet});
//   progress.Advance(batch);            // any thread
//   progress.Finish("4 layers");        // capture: 312 windows in 41 s (7.6 windows/s), 4 layers
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

namespace pointsman {

enum class ProgressStyle : uint8_t { kAuto, kBar, kLines, kJson };  // kAuto: a bar when the stream is a terminal

struct ProgressOptions {
  bool quiet = false;
  ProgressStyle style = ProgressStyle::kAuto;
  std::FILE* stream = stderr;            // borrowed
  std::function<double()> seconds = {};  // monotonic clock; empty = steady_clock. Tests give their own.
};

class Progress {
 public:
  // total 0 = unknown: count and rate are shown, no bar and no remaining time. A stage that counts nothing just says
  // how long it took.
  Progress(std::string stage, uint64_t total, std::string unit, ProgressOptions options = {});
  // Finishes without a note unless Finish was called.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Thread-safe. Redraws at most 10 times a second (bar), twice a second (JSON) or every 10 s (lines).
  void Advance(uint64_t n = 1);
  // Work that an earlier run has done already (--resume): counts as done, but not in the rate.
  void Skip(uint64_t n);
  // Nats per token that training has reached; shown in JSON only. Thread-safe.
  void NoteLoss(double nats);
  // Prints the stage's summary line. Later calls do nothing.
  void Finish(const std::string& note = "");

  uint64_t done() const;
  double elapsed_s() const;

 private:
  void Draw(double now);  // REQUIRES: mutex_ held
  std::string Line(double now) const;
  std::string JsonLine(double now) const;

  const std::string stage_;
  const uint64_t total_;
  const std::string unit_;
  const ProgressOptions options_;
  const bool bar_;
  const double start_s_;
  mutable std::mutex mutex_;
  uint64_t done_ = 0;
  uint64_t skipped_ = 0;
  std::optional<double> loss_;
  double drawn_s_;
  bool finished_ = false;
};

// Tells programs (kJson) that a stage which counts nothing has begun; prints nothing in the other styles.
void AnnounceStage(const std::string& stage, const ProgressOptions& options);

// "3.2 s", "4 min 10 s", "2 h 05 min".
std::string FormatDuration(double seconds);
// "1,234,567".
std::string FormatCount(uint64_t count);

}  // namespace pointsman
