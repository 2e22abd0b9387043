#include "daemon/api_error.h"

#include <array>
#include <nlohmann/json.hpp>

namespace pointsman {
namespace {

constexpr std::string_view kBad = "invalid_request_error", kServer = "server_error";

constexpr std::array kTable = {
    ApiErrorRow{ApiCode::kInvalidRequest, 400, kBad, "invalid_request", "Send what the documentation describes."},
    ApiErrorRow{ApiCode::kInvalidValue, 400, kBad, "invalid_value", "Correct the field that `param` names."},
    ApiErrorRow{ApiCode::kUnauthorized, 401, "authentication_error", "invalid_api_key",
                "Send a valid key as `Authorization: Bearer KEY` or `X-Api-Key: KEY`."},
    ApiErrorRow{ApiCode::kForbidden, 403, "permission_error", "insufficient_permissions",
                "Use a key with the access that the message names."},
    ApiErrorRow{ApiCode::kNotFound, 404, kBad, "not_found", "Check the name; the matching list shows what there is."},
    ApiErrorRow{ApiCode::kMethodNotAllowed, 405, kBad, "method_not_allowed", "Use a method of the Allow header."},
    ApiErrorRow{ApiCode::kRequestTimeout, 408, kBad, "request_timeout",
                "Send the request faster, or in smaller parts."},
    ApiErrorRow{ApiCode::kConflict, 409, kBad, "conflict", "Look at the present state, then decide anew."},
    ApiErrorRow{ApiCode::kFingerprintMismatch, 409, kBad, "fingerprint_mismatch",
                "Use a memory that was built for this model, or build one."},
    ApiErrorRow{ApiCode::kVerdictRejected, 409, kBad, "verdict_rejected",
                "Build a better memory, or load it with allow_rejected."},
    ApiErrorRow{ApiCode::kPayloadTooLarge, 413, kBad, "payload_too_large", "Send less at a time."},
    ApiErrorRow{ApiCode::kUriTooLong, 414, kBad, "uri_too_long", "Send a shorter request target."},
    ApiErrorRow{ApiCode::kUnsupportedMedia, 415, kBad, "unsupported_media_type",
                "Send the content type that the documentation names."},
    ApiErrorRow{ApiCode::kExpectationFailed, 417, kBad, "expectation_failed", "Expect nothing, or 100-continue."},
    ApiErrorRow{ApiCode::kContextExceeded, 422, kBad, "context_length_exceeded",
                "Shorten the text to what the model's context holds."},
    ApiErrorRow{ApiCode::kUnprocessable, 422, kBad, "unprocessable", "Leave out what is not supported."},
    ApiErrorRow{ApiCode::kRateLimited, 429, "rate_limit_error", "rate_limited",
                "Wait as long as the Retry-After header says."},
    ApiErrorRow{ApiCode::kHeadersTooLarge, 431, kBad, "headers_too_large", "Send fewer or shorter header fields."},
    ApiErrorRow{ApiCode::kInternal, 500, kServer, "internal_error", "The server's log has more under this request id."},
    ApiErrorRow{ApiCode::kNotImplemented, 501, kBad, "not_implemented", "Use plain HTTP/1.1 without this coding."},
    ApiErrorRow{ApiCode::kOverloaded, 503, kServer, "overloaded", "Wait as long as the Retry-After header says."},
    ApiErrorRow{ApiCode::kNotReady, 503, kServer, "not_ready", "Wait until /readyz answers 200."},
    ApiErrorRow{ApiCode::kVersionNotSupported, 505, kBad, "http_version_not_supported", "Use HTTP/1.1."},
    ApiErrorRow{ApiCode::kNoSpace, 507, kServer, "insufficient_storage", "Free space on the server's disk."},
};

constexpr bool InOrder() {
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<size_t>(kTable[i].code) != i) return false;
  }
  return kTable.size() == static_cast<size_t>(ApiCode::kNoSpace) + 1;
}
static_assert(InOrder(), "one row a code, in the order of the enum");

nlohmann::json ErrorObject(const ApiError& error) {
  const ApiErrorRow& row = RowOf(error.code);
  return {{"error",
           {{"message", error.message},
            {"type", row.type},
            {"param", error.param.empty() ? nlohmann::json() : nlohmann::json(error.param)},
            {"code", row.name}}}};
}

ApiCode CodeOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return ApiCode::kInvalidValue;
    case ErrorCode::kNotFound:
      return ApiCode::kNotFound;
    case ErrorCode::kMismatch:
      return ApiCode::kFingerprintMismatch;
    case ErrorCode::kBusy:
      return ApiCode::kOverloaded;
    case ErrorCode::kUnsupported:
      return ApiCode::kUnprocessable;
    case ErrorCode::kNoSpace:
      return ApiCode::kNoSpace;
    case ErrorCode::kCorrupt:
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      return ApiCode::kInternal;
  }
  return ApiCode::kInternal;
}

}  // namespace

const ApiErrorRow& RowOf(ApiCode code) { return kTable[static_cast<size_t>(code)]; }

ApiError FromError(const Error& error, std::string param) {
  const ApiCode code = CodeOf(error.code);
  if (code == ApiCode::kInternal) return {code, "the server could not do this; its log says why", std::move(param)};
  if (code == ApiCode::kNoSpace) return {code, "the server's disk is full", std::move(param)};
  return {code, error.message, std::move(param), code == ApiCode::kOverloaded ? 1 : 0};
}

std::string ErrorJson(const ApiError& error) {
  return ErrorObject(error).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response;
  response.status = RowOf(error.code).status;
  response.body = ErrorJson(error);
  if (error.retry_after_s > 0) response.headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  if (error.code == ApiCode::kUnauthorized) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace pointsman
