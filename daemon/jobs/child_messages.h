// The standard error of a running command, cut into lines within bounds: progress is taken out, the last other lines
// are kept for when it fails.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/jobs/job.h"

namespace pointsman {

class ChildMessages {
 public:
  // Takes in what was read. True if there was progress: see progress().
  bool Feed(std::string_view bytes);
  void Finish();  // the end: a last line may lack its newline

  const std::optional<JobProgress>& progress() const { return progress_; }
  // What went wrong: the last line that begins with "pointsman: ", without that, else the last line at all; may be
  // empty.
  std::string Reason() const;
  bool Mentions(std::string_view words) const;  // in the lines that are kept

 private:
  bool TakeLine();

  std::string line_;       // so far
  bool too_long_ = false;  // the rest of it is dropped
  std::deque<std::string> last_;
  std::optional<JobProgress> progress_;
};

}  // namespace pointsman
