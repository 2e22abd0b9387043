// Lists the regular files below corpus paths, each once. See ingest.h for the rules on links and folders.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct FoundFile {
  std::string path;  // as the user named the corpus path, plus `name`
  std::string name;  // below the corpus path, with '/'; the file's own name when the path is a file
  uint64_t bytes = 0;
  size_t root = 0;  // index of the corpus path
};

struct FoundFiles {
  std::vector<FoundFile> files;         // ordered by root, then name
  std::vector<std::string> unreadable;  // folders that could not be listed, dangling links
};

// kNotFound: a path that is not there. Devices, sockets and pipes inside a folder are passed over.
Result<FoundFiles> FindFiles(const std::vector<std::string>& paths);

}  // namespace pointsman
