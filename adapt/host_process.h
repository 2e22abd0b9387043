// A child process that computes for this one, and the messages between them over a socket that is the child's standard
// input. It ends when the socket closes, so it does not outlive this process.
//
// A message is 8 bytes (length of the head, little-endian), the head as JSON, then the arrays' bytes one after another:
// head["arrays"] lists them as [type, [sizes]], type "float32" or "int64", both little-endian and row-major.
//
// Threads: one at a time.
#pragma once

#include <ATen/core/Tensor.h>
#include <sys/types.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct HostMessage {
  nlohmann::json head = nlohmann::json::object();
  std::vector<at::Tensor> arrays = {};  // fp32 or int64, on the CPU
};

class HostProcess {
 public:
  // arguments[0] is a program's path, or a name that PATH finds. `environment`: NAME=VALUE, in place of ours.
  // kNotFound where it cannot be started.
  static Result<std::unique_ptr<HostProcess>> Start(const std::vector<std::string>& arguments,
                                                    const std::vector<std::string>& environment);
  ~HostProcess();  // closes the socket and waits for the end
  HostProcess(const HostProcess&) = delete;
  HostProcess& operator=(const HostProcess&) = delete;

  // kInternal: the process has ended, or what came is not a message.
  Status Send(HostMessage message);
  Result<HostMessage> Receive();

 private:
  HostProcess(std::string name, pid_t pid, int socket) : name_(std::move(name)), pid_(pid), socket_(socket) {}
  Status Write(const void* bytes, size_t count);
  Status Read(void* bytes, size_t count);
  Error Ended();

  std::string name_;
  pid_t pid_;  // 0: it has ended
  int socket_;
  int end_ = 0;  // how, as waitpid says it
};

}  // namespace pointsman
