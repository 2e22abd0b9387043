#include "daemon/api/snapshot_download.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "daemon/api/await.h"
#include "daemon/tar.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

constexpr size_t kPieceBytes = size_t{256} << 10;

// What breaks a stream off: the HTTP layer closes the connection without the last chunk.
[[noreturn]] void BreakOff(const std::string& path) { throw std::runtime_error(path + " changed during its download"); }

class OpenFile {
 public:
  OpenFile(const fs::path& path, uint64_t expected_bytes) {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat info = {};
    const bool as_expected = fd_ >= 0 && ::fstat(fd_, &info) == 0 && S_ISREG(info.st_mode) &&
                             static_cast<uint64_t>(info.st_size) == expected_bytes;
    if (as_expected) return;
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  ~OpenFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  bool ok() const { return fd_ >= 0; }
  // The next `bytes`, fewer where the file ends.
  std::string Read(size_t bytes) const {
    std::string piece(bytes, '\0');
    size_t got = 0;
    while (got < bytes) {
      const ssize_t read = ::read(fd_, piece.data() + got, bytes - got);
      if (read < 0 && errno == EINTR) continue;
      if (read <= 0) break;
      got += static_cast<size_t>(read);
    }
    piece.resize(got);
    return piece;
  }

 private:
  int fd_ = -1;
};

struct Download {
  asio::thread_pool& compute;
  fs::path directory;
  std::string name;
  int64_t created_unix_s = 0;
  std::vector<SnapshotFile> files;
};

// false: the client has gone.
asio::awaitable<bool> SendFile(const Download& download, const SnapshotFile& file, HttpStream& out) {
  TarEntry entry;
  entry.path = download.name + "/" + file.path;
  entry.bytes = file.bytes;
  entry.modified_unix_s = download.created_unix_s;
  const auto header = TarHeader(entry);
  const OpenFile opened(download.directory / file.path, file.bytes);
  if (!header.ok() || !opened.ok()) BreakOff(file.path);
  if (!co_await out.Write(header.value())) co_return false;
  for (uint64_t left = file.bytes; left > 0;) {
    const size_t wanted = static_cast<size_t>(std::min<uint64_t>(left, kPieceBytes));
    const std::string piece = co_await OnCompute(download.compute, [&opened, wanted] { return opened.Read(wanted); });
    if (piece.size() != wanted) BreakOff(file.path);
    if (!co_await out.Write(piece)) co_return false;
    left -= wanted;
  }
  co_return co_await out.Write(TarPadding(file.bytes));
}

asio::awaitable<void> SendAll(std::shared_ptr<const Download> download, HttpStream& out) {
  for (const SnapshotFile& file : download->files) {
    if (!co_await SendFile(*download, file, out)) co_return;
  }
  co_await out.Write(TarEnd());
}

}  // namespace

HttpResponse SnapshotDownload(asio::thread_pool& compute, const fs::path& directory, const SnapshotInfo& info) {
  auto download = std::make_shared<Download>(Download{compute, directory, info.name, info.created_unix_s, info.files});
  std::error_code error;
  SnapshotFile record;
  record.path = "SNAPSHOT.json";
  record.bytes = fs::file_size(directory / record.path, error);  // an error gives a size that no file has
  download->files.insert(download->files.begin(), record);
  HttpResponse response;
  response.content_type = "application/x-tar";
  response.headers = {{"Content-Disposition", "attachment; filename=\"" + info.name + ".tar\""}};
  response.stream = [download](HttpStream& out) { return SendAll(download, out); };
  return response;
}

}  // namespace pointsman
