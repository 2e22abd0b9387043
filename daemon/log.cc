#include "daemon/log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>

namespace pointsman {
namespace {

using nlohmann::json;

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "info";
}

std::string Now() {
  const auto now = std::chrono::system_clock::now();
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(std::chrono::system_clock::to_time_t(now)),
                     milliseconds);
}

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

// A value as it stands in a text line: bare if it is one plain word, else quoted with JSON's escapes, so that no value
// can look like another field or line.
std::string TextValue(const json& value) {
  if (!value.is_string()) return Dump(value);
  const auto& text = value.get_ref<const std::string&>();
  const bool plain = !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return c > ' ' && c < 0x7f && c != '"' && c != '=' && c != '\\';
  });
  return plain ? text : Dump(value);
}

std::string FormatLine(bool as_json, std::string_view level, std::string_view event, const json& fields) {
  if (as_json) {
    json line = {{"time", Now()}, {"level", level}, {"event", event}};
    for (const auto& [key, value] : fields.items()) line[key] = value;
    return Dump(line) + "\n";
  }
  std::string line = fmt::format("{} {} {}", Now(), level, event);
  for (const auto& [key, value] : fields.items()) line += fmt::format(" {}={}", key, TextValue(value));
  return line + "\n";
}

// An append-only file descriptor, or stderr.
class LineFile {
 public:
  ~LineFile() { Close(); }
  Status Open(const std::filesystem::path& path, mode_t mode) {
    const int handle = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, mode);
    if (handle < 0) return Error{ErrorCode::kIo, fmt::format("{}: {}", path.string(), std::strerror(errno))};
    Close();
    handle_ = handle;
    owned_ = true;
    return {};
  }
  // One write: lines of several processes do not mix. false: not all of it was written.
  bool Write(const std::string& line) const {
    return write(handle_, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  }
  bool Sync() const { return fdatasync(handle_) == 0 || errno == EINVAL; }  // EINVAL: a pipe or a terminal

 private:
  void Close() {
    if (owned_) close(handle_);
    owned_ = false;
  }
  int handle_ = STDERR_FILENO;
  bool owned_ = false;
};

}  // namespace

struct Log::Impl {
  LogOptions options;
  std::mutex mutex;
  LineFile log, audit;
  std::atomic<uint64_t> failed{0};

  Status OpenFiles() {
    if (!options.file.empty()) POINTSMAN_CHECK_OK(log.Open(options.file, 0640));
    if (!options.audit_file.empty()) POINTSMAN_CHECK_OK(audit.Open(options.audit_file, 0600));
    return {};
  }
};

Log::Log(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Log::~Log() = default;

Result<std::unique_ptr<Log>> Log::Open(const LogOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  POINTSMAN_CHECK_OK(impl->OpenFiles());
  return std::unique_ptr<Log>(new Log(std::move(impl)));
}

void Log::Write(LogLevel level, std::string_view event, const json& fields) {
  if (level < impl_->options.level) return;
  const std::string line = FormatLine(impl_->options.json, LevelName(level), event, fields);
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->log.Write(line)) ++impl_->failed;
}

void Log::Audit(std::string_view principal, std::string_view action, const json& fields, std::string_view outcome) {
  json all = {{"principal", principal}, {"outcome", outcome}};
  for (const auto& [key, value] : fields.items()) all[key] = value;
  const bool apart = !impl_->options.audit_file.empty();
  const std::string line = FormatLine(apart || impl_->options.json, "audit", action, all);
  const std::lock_guard lock(impl_->mutex);
  const bool written = apart ? impl_->audit.Write(line) && impl_->audit.Sync() : impl_->log.Write(line);
  if (!written) ++impl_->failed;
}

Status Log::Reopen() {
  const std::lock_guard lock(impl_->mutex);
  return impl_->OpenFiles();
}

bool Log::log_prompts() const { return impl_->options.log_prompts; }
uint64_t Log::failed_writes() const { return impl_->failed; }

}  // namespace pointsman
