// Result<T>: a value or an Error. Every fallible function of Pointsman returns one; none throws across a module.
//
// An Error's message is one line for the person at the terminal: the thing (path, option, field), what is wrong with
// it, and what to do. Errors are must-use: ignoring a returned Result or Status is a compile-time warning, hence an
// error. Thread-safe as any value type.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace pointsman {

enum class ErrorCode {
  kInvalidArgument,  // the caller's fault: wrong option, wrong shape
  kNotFound,
  kCorrupt,      // bytes on disk are not what was written
  kMismatch,     // a memory of another model, a transform of another build
  kIo,           // the operating system refused
  kNoSpace,      // ENOSPC or EDQUOT
  kBusy,         // another writer holds the lock
  kUnsupported,  // well-formed, but not implemented for this model or build
  kInternal,
};

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return state_.index() == 0; }
  // REQUIRES: ok().
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  // REQUIRES: !ok().
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)
  bool ok() const { return !error_.has_value(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace pointsman

#define POINTSMAN_CONCAT_INNER(a, b) a##b
#define POINTSMAN_CONCAT(a, b) POINTSMAN_CONCAT_INNER(a, b)

// POINTSMAN_TRY(auto x, Load(path)): binds the value, or returns the error from the enclosing function.
#define POINTSMAN_TRY(declaration, expression) \
  POINTSMAN_TRY_INNER(declaration, expression, POINTSMAN_CONCAT(pointsman_result_, __LINE__))
#define POINTSMAN_TRY_INNER(declaration, expression, result) \
  auto result = (expression);                                \
  if (!result.ok()) return result.error();                   \
  declaration = std::move(result).value()

// POINTSMAN_CHECK_OK(Write(path)): returns the error of a Status from the enclosing function.
#define POINTSMAN_CHECK_OK(expression)                                                                 \
  do {                                                                                                 \
    if (auto pointsman_status = (expression); !pointsman_status.ok()) return pointsman_status.error(); \
  } while (false)
