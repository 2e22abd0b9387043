#include "daemon/api_error.h"

#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <utility>

namespace pointsman {
namespace {

constexpr std::string_view kInvalid = "invalid_request_error", kServer = "server_error";

// Types, and names such as invalid_api_key and context_length_exceeded, are OpenAI's: its clients branch on them.
constexpr std::array kTable = {
    ApiErrorRow{ApiCode::kInvalidRequest, 400, kInvalid, "invalid_request",
                "Send HTTP/1.1 and JSON in UTF-8 as the message says."},
    ApiErrorRow{ApiCode::kInvalidValue, 400, kInvalid, "invalid_value",
                "Correct the field that `param` names; the message has the accepted values."},
    ApiErrorRow{ApiCode::kUnauthorized, 401, kInvalid, "invalid_api_key",
                "Send a valid key as `Authorization: Bearer KEY`; `pointsman keys new` makes one."},
    ApiErrorRow{ApiCode::kForbidden, 403, kInvalid, "insufficient_permissions",
                "Use a key with the access that the message names."},
    ApiErrorRow{ApiCode::kNotFound, 404, kInvalid, "not_found",
                "Check the path and the ids in it; a key that is confined to some memories sees no others."},
    ApiErrorRow{ApiCode::kMethodNotAllowed, 405, kInvalid, "method_not_allowed",
                "Use one of the methods in the Allow header."},
    ApiErrorRow{ApiCode::kRequestTimeout, 408, kInvalid, "request_timeout",
                "Send the whole request at once; the server waits only so long for each part of it."},
    ApiErrorRow{ApiCode::kConflict, 409, kInvalid, "conflict",
                "Read the current state, then decide: the thing exists already or is in a state that forbids this."},
    ApiErrorRow{ApiCode::kFingerprintMismatch, 409, kInvalid, "fingerprint_mismatch",
                "Load a memory that was built for the hosted model, or rebuild it for this one."},
    ApiErrorRow{ApiCode::kVerdictRejected, 409, kInvalid, "verdict_rejected",
                "The memory did not help in its own evaluation; set allow_rejected to load it nevertheless."},
    ApiErrorRow{ApiCode::kPayloadTooLarge, 413, kInvalid, "payload_too_large",
                "Send less at once; the message has the limit."},
    ApiErrorRow{ApiCode::kUriTooLong, 414, kInvalid, "uri_too_long", "Shorten the request target."},
    ApiErrorRow{ApiCode::kUnsupportedMedia, 415, kInvalid, "unsupported_media_type",
                "Set Content-Type to one that the route takes, as a rule application/json."},
    ApiErrorRow{ApiCode::kExpectationFailed, 417, kInvalid, "expectation_failed",
                "Send no Expect header but 100-continue."},
    ApiErrorRow{ApiCode::kContextExceeded, 422, kInvalid, "context_length_exceeded",
                "Shorten the prompt or ask for fewer new tokens: together they must fit the model's context."},
    ApiErrorRow{ApiCode::kUnprocessable, 422, kInvalid, "unprocessable",
                "The request is well-formed but this server cannot do it; the message says what to leave out."},
    ApiErrorRow{ApiCode::kRateLimited, 429, "rate_limit_error", "rate_limit_exceeded",
                "Wait for the requests of this key that are running, and retry after the time given.", 1},
    ApiErrorRow{ApiCode::kHeadersTooLarge, 431, kInvalid, "headers_too_large", "Send fewer and shorter header fields."},
    ApiErrorRow{ApiCode::kInternal, 500, kServer, "internal_error",
                "The reason is in the server's log beside the answer's X-Request-Id."},
    ApiErrorRow{ApiCode::kNotImplemented, 501, kServer, "not_implemented",
                "Use a method and a transfer coding of the API's description."},
    ApiErrorRow{ApiCode::kOverloaded, 503, kServer, "overloaded",
                "Retry after the time given; lower the load or give the server more room if it comes often.", 1},
    ApiErrorRow{ApiCode::kNotReady, 503, kServer, "not_ready",
                "The server is loading or draining; ask /readyz and retry after the time given.", 2},
    ApiErrorRow{ApiCode::kVersionNotSupported, 505, kServer, "http_version_not_supported", "Use HTTP/1.1."},
    ApiErrorRow{ApiCode::kNoSpace, 507, kServer, "insufficient_storage",
                "The server's disk is full: the operator must free room; nothing was changed."},
};

constexpr bool InOrderOfCodes() {
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (kTable[i].code != static_cast<ApiCode>(i)) return false;
  }
  return kTable.size() == static_cast<size_t>(ApiCode::kNoSpace) + 1;
}
static_assert(InOrderOfCodes(), "one row a code, in the order of the enum");

// "'/srv/mem/a/MANIFEST.json': damaged" -> "'MANIFEST.json': damaged": where things lie is the operator's affair.
std::string WithoutFolders(std::string_view message) {
  std::string kept;
  for (size_t at = 0; at < message.size();) {
    const char before = at == 0 ? ' ' : message[at - 1];
    const bool quoted = before == '\'' || before == '"';
    const bool starts = quoted || before == ' ' || before == '(' || before == '=' || before == ',';
    if (message[at] != '/' || !starts) {
      kept.push_back(message[at++]);
      continue;
    }
    const size_t found = quoted ? message.find(before, at) : message.find_first_of(" ,;()'\"", at);
    const size_t end = found == std::string_view::npos ? message.size() : found;
    std::string_view path = message.substr(at, end - at);
    at = end;
    while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
    kept += path.substr(path.rfind('/') + 1);
  }
  return kept;
}

ApiError Make(ApiCode code, std::string message) {
  ApiError error;
  error.code = code;
  error.message = std::move(message);
  return error;
}

ApiError Translate(const Error& error) {
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
      return Make(ApiCode::kInvalidValue, WithoutFolders(error.message));
    case ErrorCode::kNotFound:
      return Make(ApiCode::kNotFound, WithoutFolders(error.message));
    case ErrorCode::kMismatch:
      return Make(ApiCode::kFingerprintMismatch, WithoutFolders(error.message));
    case ErrorCode::kUnsupported:
      return Make(ApiCode::kUnprocessable, WithoutFolders(error.message));
    case ErrorCode::kBusy:
      return Make(ApiCode::kOverloaded, "something else is being written or computed there now: retry shortly");
    case ErrorCode::kNoSpace:
      return Make(ApiCode::kNoSpace, "the server's disk is full: nothing was changed; its operator must free room");
    case ErrorCode::kCorrupt:
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      break;
  }
  return Make(ApiCode::kInternal, "the server failed to do this: its log has the reason beside this X-Request-Id");
}

}  // namespace

std::span<const ApiErrorRow> ApiErrorTable() { return kTable; }

const ApiErrorRow& RowOf(ApiCode code) { return kTable[static_cast<size_t>(code)]; }

ApiError FromError(const Error& error, std::string param) {
  ApiError translated = Translate(error);
  translated.param = std::move(param);
  translated.detail = error.message;
  return translated;
}

std::string ErrorJson(const ApiError& error) {
  const ApiErrorRow& row = RowOf(error.code);
  nlohmann::ordered_json body;
  body["message"] = error.message;
  body["type"] = row.type;
  body["param"] = error.param.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(error.param);
  body["code"] = row.name;
  const nlohmann::ordered_json document = {{"error", std::move(body)}};
  return document.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

HttpResponse ErrorResponse(const ApiError& error) {
  const ApiErrorRow& row = RowOf(error.code);
  HttpResponse response;
  response.status = row.status;
  response.body = ErrorJson(error);
  const int retry_after_s = error.retry_after_s > 0 ? error.retry_after_s : row.retry_after_s;
  if (retry_after_s > 0) response.headers.emplace_back("Retry-After", std::to_string(retry_after_s));
  if (row.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace pointsman
