// What stands behind the handles of c_api.h, and how a Result becomes a pm_status. Internal to the C interface.
#pragma once

#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "memory/memory.h"
#include "memory/result.h"
#include "router/c_api.h"
#include "router/router.h"

struct pm_memory {
  std::shared_ptr<const pointsman::Memory> memory;
  std::string path;
  std::string manifest;  // JSON
};

struct pm_session {
  std::shared_ptr<const pointsman::SessionVectors> vectors;
};

struct pm_router {
  std::mutex mutex;  // of everything here but the kill switch, which the router itself lets any thread set
  pointsman::Router router;
  std::shared_ptr<const char> identity = std::make_shared<const char>();  // shared with its steps
  std::vector<float> wide_hidden, wide_logits, wide_before;               // scratch of narrow types
};

struct pm_step {
  pointsman::Step step;
  std::shared_ptr<const char> identity;  // of its router; never that of a later one at the same address
};

namespace pointsman {

inline pm_status Fill(pm_error* error, pm_status status, std::string_view message) {
  if (error != nullptr) {
    error->code = status;
    const size_t length = std::min(message.size(), sizeof(error->message) - 1);
    std::memcpy(error->message, message.data(), length);
    error->message[length] = 0;
  }
  return status;
}

inline pm_status Fill(pm_error* error, const Error& from) {
  switch (from.code) {
    case ErrorCode::kInvalidArgument:
      return Fill(error, PM_INVALID_ARGUMENT, from.message);
    case ErrorCode::kNotFound:
      return Fill(error, PM_NOT_FOUND, from.message);
    case ErrorCode::kCorrupt:
      return Fill(error, PM_CORRUPT, from.message);
    case ErrorCode::kMismatch:
      return Fill(error, PM_MISMATCH, from.message);
    case ErrorCode::kIo:
      return Fill(error, PM_IO, from.message);
    case ErrorCode::kNoSpace:
      return Fill(error, PM_NO_SPACE, from.message);
    case ErrorCode::kBusy:
      return Fill(error, PM_BUSY, from.message);
    case ErrorCode::kUnsupported:
      return Fill(error, PM_UNSUPPORTED, from.message);
    case ErrorCode::kInternal:
      break;
  }
  return Fill(error, PM_INTERNAL, from.message);
}

// Runs `call`, which returns a Status, and turns what comes of it into a pm_status: nothing may throw into C.
template <typename Call>
pm_status Guarded(pm_error* error, const Call& call) {
  try {
    const Status status = call();
    return status.ok() ? PM_OK : Fill(error, status.error());
  } catch (const std::bad_alloc&) {
    return Fill(error, PM_NO_MEMORY, "out of memory; pass fewer rows at once or free some");
  } catch (const std::exception& thrown) {
    return Fill(error, PM_INTERNAL, thrown.what());
  }
}

}  // namespace pointsman
