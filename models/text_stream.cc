#include "models/text_stream.h"

#include <algorithm>

namespace pointsman {
namespace {

// Bytes at the end of `text` that begin a UTF-8 character without finishing it.
size_t UnfinishedBytes(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;  // inside a character
    const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

}  // namespace

bool TextStream::Append(std::string_view piece) {
  // A stop string that ends in the new piece starts at most its own length before it.
  const size_t before = text_.size();
  text_ += piece;
  size_t cut = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
    cut = std::min(cut, text_.find(stop, from));
  }
  if (cut == std::string::npos) return false;
  text_.resize(cut);
  return true;
}

std::string_view TextStream::Release(bool finished) {
  size_t held = 0;
  if (!finished) {
    held = UnfinishedBytes(text_);
    for (const std::string& stop : stops_) held = std::max(held, PartialMatch(stop));
  }
  const size_t end = std::max(text_.size() - held, std::min(released_, text_.size()));
  const std::string_view piece =
      std::string_view(text_).substr(std::min(released_, end), end - std::min(released_, end));
  released_ = end;
  return piece;
}

size_t TextStream::PartialMatch(const std::string& stop) const {
  for (size_t length = std::min(stop.size() - 1, text_.size()); length > 0; --length) {
    if (std::string_view(text_).substr(text_.size() - length) == std::string_view(stop).substr(0, length)) {
      return length;
    }
  }
  return 0;
}

}  // namespace pointsman
