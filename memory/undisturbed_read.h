// Opening files beside a process that replaces them.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>

#include "memory/result.h"

namespace pointsman {

// Runs `open` until every file that `directory` had before is still there after it, and returns what it then says: the
// files of a store that never gives a name twice (RocksDB numbers them) were then all there at one moment. New ones do
// not matter: RocksDB removes a log only after the older ones. An error is believed when two runs in a row find it in
// files that stayed; one alone may be of a file that came and went in between.
// kBusy when files went each time for `patience`. Threads: any.
Status OpenUndisturbed(const std::filesystem::path& directory, const std::function<Status()>& open,
                       std::chrono::milliseconds patience = std::chrono::seconds(20));

}  // namespace pointsman
