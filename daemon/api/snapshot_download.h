// A snapshot as one tar stream: NAME/SNAPSHOT.json first, then the files that it lists.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <filesystem>

#include "daemon/http/message.h"
#include "memory/snapshot.h"

namespace pointsman {

// The stream reads on `compute`, a piece at a time, as fast as the client takes it: nothing is held but one piece. A
// file that is not as long as the record says breaks the stream off, so that the client notices.
HttpResponse SnapshotDownload(boost::asio::thread_pool& compute, const std::filesystem::path& directory,
                              const SnapshotInfo& info);

}  // namespace pointsman
