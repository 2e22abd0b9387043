// The ustar format (POSIX), for downloads of several files as one stream: a header of 512 bytes, the file, zeros up to
// the next 512, and two blocks of zeros at the end. Plain functions; the caller sends the files' bytes.
#pragma once

#include <cstdint>
#include <string>

#include "memory/result.h"

namespace pointsman {

struct TarEntry {
  std::string path;  // relative, '/' between folders
  uint64_t bytes = 0;
  int64_t modified_unix_s = 0;
};

// kInvalidArgument for a path that is empty or has more than 100 bytes, which is all that our downloads need.
Result<std::string> TarHeader(const TarEntry& entry);
std::string TarPadding(uint64_t bytes);  // what follows a file of so many bytes
std::string TarEnd();

}  // namespace pointsman
