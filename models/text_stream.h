// Text that grows piece by piece and may be cut by stop strings: tells how much of it can no longer change.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pointsman {

class TextStream {
 public:
  // REQUIRES: no stop string is empty.
  explicit TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  const std::string& text() const { return text_; }
  // True if a stop string is complete: the text then ends before the first of them.
  bool Append(std::string_view piece);
  // What became final since the last call: whole UTF-8 characters that are in no unfinished stop string; all of the
  // rest if `finished`. The view lives until the text changes.
  std::string_view Release(bool finished);
  std::string Take() { return std::move(text_); }

 private:
  // Length of the longest proper prefix of `stop` that ends the text.
  size_t PartialMatch(const std::string& stop) const;

  std::vector<std::string> stops_;
  std::string text_;
  size_t released_ = 0;
};

}  // namespace pointsman
