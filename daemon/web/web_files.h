// The dashboard's files as they are in this folder, compiled into the binary (cmake/EmbedFiles.cmake).
#pragma once

#include <span>
#include <string_view>

namespace pointsman {

struct WebFile {
  std::string_view name;  // "index.html"
  std::string_view bytes;
  std::string_view sha256;  // of `bytes`, hex
};

// By name. Constants: live for ever, any thread.
std::span<const WebFile> WebFiles();

}  // namespace pointsman
