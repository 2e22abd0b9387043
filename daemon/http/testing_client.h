// A client for tests that sends bytes as they are, over TCP or a Unix socket, and reads answers one by one.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cctype>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace pointsman::testing {

struct RawResponse {
  int status = 0;                              // 0: the connection ended before an answer
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

class RawClient {
 public:
  explicit RawClient(uint16_t port) {
    handle_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(handle_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  explicit RawClient(const std::filesystem::path& path) {
    handle_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    connected_ = connect(handle_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~RawClient() { Close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }
  int handle() const { return handle_; }
  void Close() {
    if (handle_ >= 0) close(handle_);
    handle_ = -1;
  }
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(handle_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  // The next whole answer. `head`: it has no body whatever its Content-Length says.
  RawResponse Receive(int timeout_ms = 5000, bool head = false) {
    RawResponse response;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    size_t end = 0;
    while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
      if (!More(deadline)) return response;
    }
    const std::string block = buffer_.substr(0, end + 2);
    buffer_.erase(0, end + 4);
    response.status = std::atoi(block.c_str() + 9);
    for (size_t at = block.find("\r\n") + 2; at < block.size();) {
      const size_t line_end = block.find("\r\n", at), colon = block.find(':', at);
      std::string name = block.substr(at, colon - at);
      for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      response.headers[name] = block.substr(colon + 2, line_end - colon - 2);
      at = line_end + 2;
    }
    if (response.status == 100) return Receive(timeout_ms, head);
    if (head) return response;
    if (response.headers.contains("content-length")) {
      const size_t length = std::stoul(response.headers["content-length"]);
      while (buffer_.size() < length && More(deadline)) {
      }
      response.body = buffer_.substr(0, length);
      buffer_.erase(0, length);
    } else if (response.headers.contains("transfer-encoding")) {
      ReadChunks(deadline, response);
    } else {
      while (More(deadline)) {
      }
      response.body.swap(buffer_);
    }
    return response;
  }

  // Whether the server closed: nothing more comes, in time.
  bool AtEnd(int timeout_ms = 5000) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    return buffer_.empty() && !More(deadline) && ended_;
  }
  const std::string& rest() const { return buffer_; }
  bool truncated() const { return truncated_; }  // a chunked body without its last chunk

 private:
  using Deadline = std::chrono::steady_clock::time_point;
  bool More(Deadline deadline) {
    if (ended_) return false;
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd waiting{handle_, POLLIN, 0};
    if (left.count() <= 0 || poll(&waiting, 1, static_cast<int>(left.count())) <= 0) return false;
    char bytes[65536];
    const ssize_t got = recv(handle_, bytes, sizeof(bytes), 0);
    if (got <= 0) {
      ended_ = true;
      return false;
    }
    buffer_.append(bytes, static_cast<size_t>(got));
    return true;
  }
  void ReadChunks(Deadline deadline, RawResponse& response) {
    for (;;) {
      size_t line = 0;
      while ((line = buffer_.find("\r\n")) == std::string::npos) {
        if (!More(deadline)) {
          truncated_ = true;
          return;
        }
      }
      const size_t length = std::stoul(buffer_.substr(0, line), nullptr, 16);
      while (buffer_.size() < line + 2 + length + 2) {
        if (!More(deadline)) {
          truncated_ = true;
          return;
        }
      }
      response.body += buffer_.substr(line + 2, length);
      buffer_.erase(0, line + 2 + length + 2);
      if (length == 0) return;
    }
  }

  int handle_ = -1;
  bool connected_ = false, ended_ = false, truncated_ = false;
  std::string buffer_;
};

}  // namespace pointsman::testing
