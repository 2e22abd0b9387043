#include "indexer/evaluation/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace pointsman {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
constexpr std::string_view kMinus = "\xE2\x88\x92";
constexpr std::string_view kDash = "\xE2\x80\x93";
constexpr std::string_view kEllipsis = "\xE2\x80\xA6";

struct Character {
  uint32_t code = 0;
  size_t bytes = 1;
  bool valid = false;
};

// The character at the front of `text`, shortest form only (RFC 3629). REQUIRES: not empty.
Character FirstCharacter(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return {byte(0), 1, true};
  const size_t length = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (byte(0) < 0xC2 || byte(0) > 0xF4 || text.size() < length) return {};
  uint32_t code = byte(0) & (0x7F >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    code = code << 6 | (byte(i) & 0x3F);
  }
  static constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  if (code < kSmallest[length] || surrogate || code > 0x10FFFF) return {};
  return {code, length, true};
}

bool IsShown(uint32_t code) {
  if (code < 0x20) return code == '\n' || code == '\t';
  if (code >= 0x7F && code < 0xA0) return false;
  const bool turns_direction =
      code == 0x200E || code == 0x200F || (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
  return !turns_direction && (code & 0xFFFE) != 0xFFFE;
}

std::string_view Entity(char c) {
  switch (c) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&#39;";
    default:
      return {};
  }
}

std::string WithMinus(std::string number) {
  if (!number.starts_with('-')) return number;
  return std::string(kMinus) + number.substr(1);
}

}  // namespace

std::string Escape(std::string_view text) {
  std::string html;
  while (!text.empty()) {
    const Character c = FirstCharacter(text);
    const std::string_view bytes = text.substr(0, c.bytes);
    if (!c.valid || !IsShown(c.code)) {
      html += kReplacement;
    } else if (const std::string_view entity = Entity(bytes.front()); !entity.empty()) {
      html += entity;
    } else {
      html += bytes;
    }
    text.remove_prefix(c.bytes);
  }
  return html;
}

std::string Clipped(std::string_view text, size_t characters) {
  std::vector<size_t> starts;
  for (size_t at = 0; at < text.size(); at += FirstCharacter(text.substr(at)).bytes) starts.push_back(at);
  if (starts.size() <= characters) return std::string(text);
  const size_t front = (characters - 1) / 2, back = characters - 1 - front;
  return std::string(text.substr(0, starts[front])) + std::string(kEllipsis) +
         std::string(text.substr(starts[starts.size() - back]));
}

bool IsFinite(const std::optional<Interval>& interval) {
  return interval && std::isfinite(interval->low) && std::isfinite(interval->high);
}

std::string SignedText(const std::optional<double>& value, int digits) {
  if (!value || !std::isfinite(*value)) return std::string(kDash);
  const std::string text = fmt::format("{:+.{}f}", *value, digits);
  // A rounded 0 has no sign: it is on neither side.
  if (text.find_first_of("123456789") == std::string::npos) return text.substr(1);
  return WithMinus(text);
}

std::string FigureText(const std::optional<double>& value, int digits) {
  if (!value || !std::isfinite(*value)) return std::string(kDash);
  return WithMinus(fmt::format("{:.{}f}", *value, digits));
}

std::string IntervalText(const std::optional<Interval>& interval, int digits) {
  if (!IsFinite(interval)) return std::string(kDash);
  return SignedText(interval->low, digits) + " to " + SignedText(interval->high, digits);
}

std::string PercentText(const std::optional<double>& share, int digits) {
  if (!share || !std::isfinite(*share)) return std::string(kDash);
  return FigureText(100 * *share, digits) + "\xC2\xA0%";
}

HtmlTable::HtmlTable(std::string id, std::string caption, std::vector<std::string> header)
    : id_(std::move(id)), caption_(std::move(caption)), header_(std::move(header)) {}

void HtmlTable::Add(const std::vector<std::string>& cells, std::string_view row_class) {
  rows_html_ += row_class.empty() ? "<tr>" : fmt::format("<tr class=\"{}\">", row_class);
  for (size_t i = 0; i < cells.size(); ++i) {
    rows_html_ += (i == 0 ? "<th scope=\"row\">" : "<td>") + Escape(cells[i]) + (i == 0 ? "</th>" : "</td>");
  }
  rows_html_ += "</tr>\n";
}

std::string HtmlTable::Html() const {
  std::string html = fmt::format(
      "<div class=\"scroll\" role=\"region\" aria-labelledby=\"{0}\" tabindex=\"0\"><table>"
      "<caption id=\"{0}\"><span>{1}</span></caption><thead><tr>",
      id_, Escape(caption_));
  for (const std::string& cell : header_) html += "<th scope=\"col\">" + Escape(cell) + "</th>";
  return html + "</tr></thead><tbody>\n" + rows_html_ + "</tbody></table></div>\n";
}

}  // namespace pointsman
