// Small parts of an HTML page: escaped text, figures as text, tables. Everything that goes in as text is escaped here
// and nowhere else; strings named `html` are markup already.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "indexer/evaluation/statistics.h"

namespace pointsman {

// Safe in element content and in double-quoted attributes. Bytes that are not UTF-8 and control characters that HTML
// forbids become U+FFFD; so do the invisible characters that turn the direction of text, which could make a name look
// like another one.
std::string Escape(std::string_view text);
// At most `characters` of `text`: cut at characters, in the middle, where an ellipsis says so. Not escaped.
std::string Clipped(std::string_view text, size_t characters);
inline std::string EscapeClipped(std::string_view text, size_t characters) { return Escape(Clipped(text, characters)); }

// "+0.0123" with a real minus sign, which screen readers say; a dash for an absent or infinite figure. No
// sign where all digits are 0.
std::string SignedText(const std::optional<double>& value, int digits = 4);
std::string FigureText(const std::optional<double>& value, int digits);
std::string IntervalText(const std::optional<Interval>& interval, int digits = 4);
std::string PercentText(const std::optional<double>& share, int digits);
bool IsFinite(const std::optional<Interval>& interval);

// A table with caption and header cells, in a region that scrolls sideways by keyboard too.
class HtmlTable {
 public:
  // `id` names the caption and must be unique in the page; `header` and cells are texts.
  HtmlTable(std::string id, std::string caption, std::vector<std::string> header);
  // The first cell is the row's header. `row_class` may be empty.
  void Add(const std::vector<std::string>& cells, std::string_view row_class = {});
  std::string Html() const;

 private:
  std::string id_, caption_;
  std::vector<std::string> header_;
  std::string rows_html_;
};

}  // namespace pointsman
