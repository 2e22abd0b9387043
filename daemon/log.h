// The daemon's log (stderr or a file) and its audit log: one line an event, text or JSON. Prompt text is never written
// unless `log_prompts`; keys never.
//
//   Log log(options);
//   log.Write(LogLevel::kInfo, "memory swapped", {{"memory", id}, {"generation", 3}});
//   log.Audit(request.principal.name, "memory.load", {{"memory", id}}, "ok");
//
// Any thread; a line is written whole. A failed write of the log never fails a request; it is counted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "memory/result.h"

namespace pointsman {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };

struct LogOptions {
  bool json = false;
  LogLevel level = LogLevel::kInfo;
  std::filesystem::path file = {};        // empty: stderr
  std::filesystem::path audit_file = {};  // empty: audit events go to the log. Opened for append, mode 0600
  bool log_prompts = false;
};

class Log {
 public:
  static Result<std::unique_ptr<Log>> Open(const LogOptions& options);
  ~Log();

  void Write(LogLevel level, std::string_view event, const nlohmann::json& fields = nlohmann::json::object());
  // Who changed what. Synced before the change is acknowledged if there is an audit file.
  void Audit(std::string_view principal, std::string_view action, const nlohmann::json& fields,
             std::string_view outcome);
  // Opens the files again (log rotation, SIGHUP).
  Status Reopen();
  bool log_prompts() const;
  uint64_t failed_writes() const;

 private:
  struct Impl;
  explicit Log(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pointsman
