#include "daemon/http/request_head.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

namespace pointsman {
namespace {

constexpr size_t kMostQueryKeys = 64;
// The last three are known and served nowhere: 405 (RFC 9110, 9.1); a name that HTTP does not know is 501.
constexpr std::array<std::string_view, 9> kMethods = {"GET",    "HEAD",    "POST",  "PUT",  "PATCH",
                                                      "DELETE", "OPTIONS", "TRACE", "QUERY"};

ApiError Bad(std::string what) { return {ApiCode::kInvalidRequest, "HTTP: " + std::move(what)}; }

bool IsTokenCharacter(unsigned char c) {
  return std::isalnum(c) || std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) != std::string_view::npos;
}
bool IsToken(std::string_view text) { return !text.empty() && std::ranges::all_of(text, IsTokenCharacter); }

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Takes one line off `rest`; nothing if it does not end with CRLF or holds a bare CR, LF or NUL.
std::optional<std::string_view> TakeLine(std::string_view& rest) {
  const size_t end = rest.find_first_of(std::string_view("\r\n\0", 3));
  if (end == std::string_view::npos || rest.substr(end, 2) != "\r\n") return std::nullopt;
  const std::string_view line = rest.substr(0, end);
  rest.remove_prefix(end + 2);
  return line;
}

std::optional<ApiError> ReadVersion(std::string_view version, RequestHead& head) {
  if (version == "HTTP/1.1") return std::nullopt;
  if (version == "HTTP/1.0") {
    head.http11 = head.keep_alive = false;
    return std::nullopt;
  }
  const bool other = version.size() == 8 && version.starts_with("HTTP/") && std::isdigit(version[5]) &&
                     version[6] == '.' && std::isdigit(version[7]);
  if (other) return ApiError{ApiCode::kVersionNotSupported, "HTTP: this server speaks HTTP/1.1"};
  return Bad("the request line does not end with a version");
}

std::optional<ApiError> ReadPath(std::string_view raw, RequestHead& head) {
  // Each segment by itself, so that an encoded slash cannot become a separator.
  std::string_view rest = raw.substr(1);
  head.path.clear();
  if (rest.empty()) head.path = "/";
  while (!rest.empty() || (head.path.empty() && raw.size() > 1)) {
    const size_t end = std::min(rest.find('/'), rest.size());
    const std::optional<std::string> segment = PercentDecode(rest.substr(0, end), false);
    if (!segment) return Bad("the path has a bad percent-encoding");
    if (segment->empty() || *segment == "." || *segment == "..") return Bad("the path has an empty, . or .. segment");
    if (segment->find_first_of("/\\") != std::string::npos) return Bad("the path has an encoded slash");
    head.path += '/' + *segment;
    if (end == rest.size()) break;
    rest.remove_prefix(end + 1);
    if (rest.empty()) return Bad("the path ends with a slash");
  }
  return std::nullopt;
}

std::optional<ApiError> ReadQuery(std::string_view raw, RequestHead& head) {
  while (!raw.empty()) {
    const size_t end = std::min(raw.find('&'), raw.size());
    const std::string_view pair = raw.substr(0, end);
    raw.remove_prefix(std::min(end + 1, raw.size()));
    if (pair.empty()) continue;
    const size_t equals = std::min(pair.find('='), pair.size());
    const auto key = PercentDecode(pair.substr(0, equals), true);
    const auto value = PercentDecode(pair.substr(std::min(equals + 1, pair.size())), true);
    if (!key || !value) return Bad("the query has a bad percent-encoding");
    if (!head.query.emplace(*key, *value).second) return Bad("the query names a key twice");
    if (head.query.size() > kMostQueryKeys) return Bad("the query has too many keys");
  }
  return std::nullopt;
}

std::optional<ApiError> ReadTarget(std::string_view target, const HttpLimits& limits, RequestHead& head) {
  if (target.size() > limits.target_bytes) {
    return ApiError{ApiCode::kUriTooLong,
                    fmt::format("HTTP: a target of {} bytes; at most {}", target.size(), limits.target_bytes)};
  }
  const bool plain = std::ranges::all_of(target, [](unsigned char c) { return c > ' ' && c < 0x7f && c != '#'; });
  if (target.empty() || target.front() != '/' || !plain) return Bad("the target is not a path in origin form");
  const size_t mark = std::min(target.find('?'), target.size());
  if (auto error = ReadPath(target.substr(0, mark), head)) return error;
  return ReadQuery(target.substr(std::min(mark + 1, target.size())), head);
}

std::optional<ApiError> ReadRequestLine(std::string_view line, const HttpLimits& limits, RequestHead& head) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return Bad("the request line is not METHOD TARGET VERSION");
  if (auto error = ReadVersion(line.substr(last + 1), head)) return error;
  head.method = line.substr(0, first);
  if (!IsToken(head.method)) return Bad("the method is not a token");
  if (std::ranges::find(kMethods, head.method) == kMethods.end()) {
    return ApiError{ApiCode::kNotImplemented, "HTTP: method " + head.method.substr(0, 32) + " is not served"};
  }
  return ReadTarget(line.substr(first + 1, last - first - 1), limits, head);
}

std::optional<ApiError> ReadField(std::string_view line, RequestHead& head) {
  if (line.front() == ' ' || line.front() == '\t') return Bad("a field is folded over two lines");
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return Bad("a field has no colon");
  const std::string_view raw_name = line.substr(0, colon), value = Trim(line.substr(colon + 1));
  if (!IsToken(raw_name)) return Bad("a field's name is not a token");
  if (raw_name.find('_') != std::string_view::npos) return Bad("a field's name has an underscore");
  const bool clean = std::ranges::all_of(value, [](unsigned char c) { return c == '\t' || (c >= ' ' && c != 0x7f); });
  if (!clean) return Bad("a field's value has a control character");
  const std::string name = Lower(raw_name);
  const auto [place, fresh] = head.headers.try_emplace(name, value);
  if (fresh) return std::nullopt;
  // Those that frame the request or say who asks must not leave a choice.
  for (const std::string_view once : {"host", "content-length", "transfer-encoding", "authorization", "x-api-key",
                                      "expect", "content-type", "content-encoding"}) {
    if (name == once) return Bad(fmt::format("the field {} comes twice", once));
  }
  place->second += ", " + std::string(value);
  return std::nullopt;
}

std::optional<ApiError> ReadHost(RequestHead& head) {
  const auto host = head.headers.find("host");
  if (host == head.headers.end()) return head.http11 ? std::optional(Bad("the field host is missing")) : std::nullopt;
  const bool plain = std::ranges::all_of(host->second, [](unsigned char c) {
    return std::isalnum(c) || std::string_view("-._:[]%~").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (!plain) return Bad("the field host is not a host");
  return std::nullopt;
}

std::optional<ApiError> ReadLength(RequestHead& head) {
  const auto length = head.headers.find("content-length"), coding = head.headers.find("transfer-encoding");
  if (coding != head.headers.end()) {
    if (length != head.headers.end()) return Bad("both content-length and transfer-encoding");
    if (!head.http11) return Bad("a transfer-encoding in HTTP/1.0");
    if (Lower(coding->second) != "chunked") {
      return ApiError{ApiCode::kNotImplemented, "HTTP: the only transfer coding is chunked"};
    }
    head.chunked = true;
  } else if (length != head.headers.end()) {
    const std::string& digits = length->second;
    const bool number = !digits.empty() && digits.size() <= 15 &&
                        std::ranges::all_of(digits, [](unsigned char c) { return std::isdigit(c); });
    if (!number) return Bad("content-length is not a plain number");
    head.content_length = std::stoull(digits);
  }
  const bool bodyless = head.method == "GET" || head.method == "HEAD" || head.method == "DELETE";
  if (bodyless && head.has_body()) return Bad(head.method + " with a body");
  if (head.headers.contains("content-encoding")) {
    return ApiError{ApiCode::kUnsupportedMedia, "HTTP: compressed bodies are not read; send it plain"};
  }
  return std::nullopt;
}

std::optional<ApiError> ReadConnection(RequestHead& head) {
  if (const auto expect = head.headers.find("expect"); expect != head.headers.end()) {
    if (!head.http11 || Lower(expect->second) != "100-continue") {
      return ApiError{ApiCode::kExpectationFailed, "HTTP: the only expectation is 100-continue"};
    }
    head.expects_continue = true;
  }
  const auto connection = head.headers.find("connection");
  if (connection == head.headers.end()) return std::nullopt;
  std::string_view rest = connection->second;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find(','), rest.size());
    const std::string option = Lower(Trim(rest.substr(0, end)));
    if (option == "close") head.keep_alive = false;
    if (option == "keep-alive" && !head.http11) head.keep_alive = true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> PercentDecode(std::string_view text, bool plus_is_space) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; };
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      if (i + 2 >= text.size() || !std::isxdigit(static_cast<unsigned char>(text[i + 1])) ||
          !std::isxdigit(static_cast<unsigned char>(text[i + 2]))) {
        return std::nullopt;
      }
      c = static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else if (c == '+' && plus_is_space) {
      c = ' ';
    }
    const auto byte = static_cast<unsigned char>(c);
    if (byte < ' ' || byte == 0x7f) return std::nullopt;
    decoded += c;
  }
  return decoded;
}

std::variant<RequestHead, ApiError> ParseRequestHead(std::string_view block, const HttpLimits& limits) {
  RequestHead head;
  const auto request_line = TakeLine(block);
  if (!request_line) return Bad("the request line does not end with CR LF");
  if (auto error = ReadRequestLine(*request_line, limits, head)) return *error;
  uint32_t fields = 0;
  for (;;) {
    const auto line = TakeLine(block);
    if (!line) return Bad("a field's line does not end with CR LF");
    if (line->empty()) break;
    if (++fields > limits.header_fields) {
      return ApiError{ApiCode::kHeadersTooLarge, fmt::format("HTTP: more than {} fields", limits.header_fields)};
    }
    if (auto error = ReadField(*line, head)) return *error;
  }
  if (!block.empty()) return Bad("bytes after the empty line");
  for (const auto read : {ReadHost, ReadLength, ReadConnection}) {
    if (auto error = read(head)) return *error;
  }
  return head;
}

}  // namespace pointsman
