#include "tools/bench/child_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

namespace pointsman {
namespace {

using Clock = std::chrono::steady_clock;

// The first line of `pipe`, or what there is when it ends or the time is over.
std::string FirstLine(int pipe, double timeout_s) {
  std::string line;
  const auto end = Clock::now() + std::chrono::duration<double>(timeout_s);
  while (line.find('\n') == std::string::npos && Clock::now() < end && line.size() < 1 << 16) {
    pollfd waiting{.fd = pipe, .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, 100) <= 0) continue;
    char bytes[512];
    const ssize_t got = read(pipe, bytes, sizeof(bytes));
    if (got <= 0) break;
    line.append(bytes, static_cast<size_t>(got));
  }
  return line.substr(0, line.find('\n'));
}

uint64_t ResidentPages(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/statm", pid));
  uint64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident;
}

std::vector<pid_t> ChildrenOf(pid_t pid) {
  std::vector<pid_t> children;
  std::ifstream file(fmt::format("/proc/{0}/task/{0}/children", pid));
  for (pid_t child = 0; file >> child;) children.push_back(child);
  return children;
}

}  // namespace

Result<std::unique_ptr<ChildServer>> ChildServer::Start(const std::vector<std::string>& arguments, double timeout_s) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  int out[2];
  if (pipe2(out, O_CLOEXEC) != 0) return Error{ErrorCode::kInternal, "no pipe can be made: too many open files"};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  pid_t pid = 0;
  const int failed = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(out[1]);
  if (failed != 0) {
    close(out[0]);
    return Error{ErrorCode::kNotFound, fmt::format("{}: cannot be started", arguments[0])};
  }
  std::unique_ptr<ChildServer> server(new ChildServer(pid, 0));
  const std::string line = FirstLine(out[0], timeout_s);
  close(out[0]);
  const auto told = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!told.is_object() || !told.contains("port") || !told["port"].is_number_unsigned()) {
    return Error{ErrorCode::kInternal,
                 fmt::format("{}: did not start within {:.0f} s, its message is above", arguments[0], timeout_s)};
  }
  server->port_ = told["port"].get<uint16_t>();
  return server;
}

ChildServer::~ChildServer() {
  kill(pid_, SIGTERM);
  for (int i = 0; i < 200; ++i) {
    if (waitpid(pid_, nullptr, WNOHANG) != 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

uint64_t ChildServer::resident_bytes() const {
  uint64_t pages = ResidentPages(pid_);
  for (const pid_t child : ChildrenOf(pid_)) pages += ResidentPages(child);
  return pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

bool ChildServer::alive() const {
  siginfo_t info{};
  // Looks without reaping: the destructor waits.
  return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

}  // namespace pointsman
