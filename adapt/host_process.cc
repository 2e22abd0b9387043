#include "adapt/host_process.h"

#include <ATen/Functions.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>

namespace pointsman {
namespace {

static_assert(std::endian::native == std::endian::little);
constexpr uint64_t kMaxHead = 1 << 20;              // bytes
constexpr int64_t kMaxElements = int64_t{1} << 33;  // of one array: more is damage

std::string TypeName(const at::Tensor& array) { return array.scalar_type() == at::kFloat ? "float32" : "int64"; }

// An array of head["arrays"], not yet read; empty for what is not one.
std::optional<at::Tensor> ArrayOf(const nlohmann::json& described) {
  if (!described.is_array() || described.size() != 2 || !described[1].is_array()) return std::nullopt;
  if (described[0] != "float32" && described[0] != "int64") return std::nullopt;
  std::vector<int64_t> sizes;
  int64_t elements = 1;
  for (const nlohmann::json& size : described[1]) {
    if (!size.is_number_unsigned() || size > kMaxElements) return std::nullopt;
    sizes.push_back(size.get<int64_t>());
    if (sizes.back() > 0 && elements > kMaxElements / sizes.back()) return std::nullopt;
    elements *= sizes.back();
  }
  return at::empty(sizes, described[0] == "float32" ? at::kFloat : at::kLong);
}

// Ours, with `changes` in place of variables of the same name.
std::vector<std::string> Environment(const std::vector<std::string>& changes) {
  std::vector<std::string> variables = changes;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    const std::string name = text.substr(0, text.find('=') + 1);
    const bool changed =
        std::any_of(changes.begin(), changes.end(), [&](const auto& c) { return c.starts_with(name); });
    if (!changed) variables.push_back(text);
  }
  return variables;
}

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

Result<std::unique_ptr<HostProcess>> HostProcess::Start(const std::vector<std::string>& arguments,
                                                        const std::vector<std::string>& environment) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return Error{ErrorCode::kInternal, "no socket can be made: too many open files"};
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);  // our output is the command's own
  const std::vector<std::string> variables = Environment(environment);
  pid_t pid = 0;
  const int failed = posix_spawnp(&pid, arguments[0].c_str(), &actions, nullptr, Pointers(arguments).data(),
                                  Pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (failed != 0) {
    close(ends[0]);
    return Error{ErrorCode::kNotFound, fmt::format("{}: cannot be started ({})", arguments[0], std::strerror(failed))};
  }
  return std::unique_ptr<HostProcess>(new HostProcess(fmt::format("{}", fmt::join(arguments, " ")), pid, ends[0]));
}

HostProcess::~HostProcess() {
  close(socket_);
  if (pid_ > 0) waitpid(pid_, nullptr, 0);
}

// What the process said about its end stands on the terminal already.
Error HostProcess::Ended() {
  shutdown(socket_, SHUT_RDWR);
  if (pid_ > 0) waitpid(pid_, &end_, 0);
  pid_ = 0;
  const std::string how =
      WIFSIGNALED(end_) ? fmt::format("signal {}", WTERMSIG(end_)) : fmt::format("exit status {}", WEXITSTATUS(end_));
  return {ErrorCode::kInternal, fmt::format("{}: ended with {}, its message is above", name_, how)};
}

Status HostProcess::Write(const void* bytes, size_t count) {
  const char* next = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t sent = send(socket_, next, count, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return Ended();
    next += sent;
    count -= static_cast<size_t>(sent);
  }
  return {};
}

Status HostProcess::Read(void* bytes, size_t count) {
  char* next = static_cast<char*>(bytes);
  while (count > 0) {
    const ssize_t got = recv(socket_, next, count, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Ended();
    next += got;
    count -= static_cast<size_t>(got);
  }
  return {};
}

Status HostProcess::Send(HostMessage message) {
  message.head["arrays"] = nlohmann::json::array();
  for (at::Tensor& array : message.arrays) {
    array = array.detach().contiguous();
    if (array.scalar_type() != at::kLong) array = array.to(at::kFloat);
    message.head["arrays"].push_back({TypeName(array), array.sizes().vec()});
  }
  const std::string head = message.head.dump();
  const uint64_t length = head.size();
  POINTSMAN_CHECK_OK(Write(&length, sizeof(length)));
  POINTSMAN_CHECK_OK(Write(head.data(), head.size()));
  for (const at::Tensor& array : message.arrays) POINTSMAN_CHECK_OK(Write(array.const_data_ptr(), array.nbytes()));
  return {};
}

Result<HostMessage> HostProcess::Receive() {
  const auto no_message = [&] { return Error{ErrorCode::kInternal, name_ + ": what it sent is not a message"}; };
  uint64_t length = 0;
  POINTSMAN_CHECK_OK(Read(&length, sizeof(length)));
  if (length > kMaxHead) return no_message();
  std::string head(length, '\0');
  POINTSMAN_CHECK_OK(Read(head.data(), head.size()));
  HostMessage message;
  message.head = nlohmann::json::parse(head, nullptr, /*allow_exceptions=*/false);
  if (!message.head.is_object() || !message.head.contains("arrays")) return no_message();
  for (const nlohmann::json& described : message.head["arrays"]) {
    std::optional<at::Tensor> array = ArrayOf(described);
    if (!array) return no_message();
    POINTSMAN_CHECK_OK(Read(array->data_ptr(), array->nbytes()));
    message.arrays.push_back(std::move(*array));
  }
  return message;
}

}  // namespace pointsman
