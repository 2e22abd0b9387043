// A server process for measuring: started with its arguments, known by the port it prints, ended with the object.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

class ChildServer {
 public:
  // The process's first line on stdout must be JSON with "port". Errors: kNotFound (no such program), kInternal (it
  // ended, or said nothing within `timeout_s`: what it said is on our stderr).
  static Result<std::unique_ptr<ChildServer>> Start(const std::vector<std::string>& arguments, double timeout_s);
  ~ChildServer();  // SIGTERM, then waits; SIGKILL after 10 s
  ChildServer(const ChildServer&) = delete;
  ChildServer& operator=(const ChildServer&) = delete;

  uint16_t port() const { return port_; }
  pid_t pid() const { return pid_; }
  uint64_t resident_bytes() const;  // of the process and its children; 0 when it is gone
  bool alive() const;

 private:
  ChildServer(pid_t pid, uint16_t port) : pid_(pid), port_(port) {}
  pid_t pid_;
  uint16_t port_;
};

}  // namespace pointsman
