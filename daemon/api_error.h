// Every error that the API answers, in OpenAI's shape, from one table: code -> HTTP status -> type.
//
//   {"error": {"message": "...", "type": "invalid_request_error", "param": "temperature", "code": "invalid_value"}}
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "daemon/http/message.h"
#include "memory/result.h"

namespace pointsman {

enum class ApiCode {
  kInvalidRequest,       // 400: not HTTP or JSON as promised
  kInvalidValue,         // 400: a field's value
  kUnauthorized,         // 401
  kForbidden,            // 403
  kNotFound,             // 404
  kMethodNotAllowed,     // 405
  kRequestTimeout,       // 408
  kConflict,             // 409: exists already, or the state does not allow it
  kFingerprintMismatch,  // 409: a memory of another model
  kVerdictRejected,      // 409: the memory's verdict is reject; allow_rejected overrides
  kPayloadTooLarge,      // 413
  kUriTooLong,           // 414
  kUnsupportedMedia,     // 415
  kExpectationFailed,    // 417
  kContextExceeded,      // 422: prompt longer than the model's context
  kUnprocessable,        // 422: well-formed, but it cannot be done
  kRateLimited,          // 429 + Retry-After: this key has too much in flight
  kHeadersTooLarge,      // 431
  kInternal,             // 500
  kNotImplemented,       // 501: a transfer coding or method that is not there
  kOverloaded,           // 503 + Retry-After: the server has
  kNotReady,             // 503 + Retry-After: loading or draining
  kVersionNotSupported,  // 505
  kNoSpace,              // 507
};

struct ApiErrorRow {
  ApiCode code;
  int status;
  std::string_view type;    // OpenAI's error type
  std::string_view name;    // the "code" member
  std::string_view remedy;  // what the documentation says about it; openapi.yaml lists the same
  int retry_after_s = 0;    // > 0: every answer with this code has a Retry-After header, by default this
};
std::span<const ApiErrorRow> ApiErrorTable();  // in the order of ApiCode
const ApiErrorRow& RowOf(ApiCode code);

struct ApiError {
  ApiCode code = ApiCode::kInternal;
  std::string message;
  std::string param = {};   // the request's field; empty: null
  int retry_after_s = 0;    // > 0: a Retry-After header; 0: the row's
  std::string detail = {};  // for the log, never sent: what `message` leaves out
};

// The library's error in the API's terms. What is the server's own affair (kCorrupt, kIo, kInternal, kNoSpace, kBusy)
// tells the client a neutral sentence; all others keep their message, absolute paths in it cut to their last name. The
// whole message is in `detail`.
ApiError FromError(const Error& error, std::string param = {});

// With Retry-After, and WWW-Authenticate for 401. The HTTP layer adds what only it knows: Allow for 405, X-Request-Id.
HttpResponse ErrorResponse(const ApiError& error);
std::string ErrorJson(const ApiError& error);  // the body above, one line: also the last event of a failed stream

}  // namespace pointsman
