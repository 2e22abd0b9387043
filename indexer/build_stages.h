// Finished stages of a build, kept inside the memory until it is published: a killed build goes on after the last one.
//
// A stage is keyed by a hash of everything that it was made from (model, documents, settings); a stage of other inputs
// is never reused.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "indexer/candidates.h"
#include "memory/file_layer.h"
#include "memory/result.h"

namespace pointsman {

class BuildStages {
 public:
  // `directory` is MEMORY/build. `inputs` is the hash described above.
  BuildStages(FileSystem& files, std::filesystem::path directory, std::string inputs)
      : files_(files), directory_(std::move(directory)), inputs_(std::move(inputs)) {}

  // A candidate that an earlier run finished from the same inputs; empty if there is none (or it is damaged).
  std::optional<Candidate> Load(const std::string& name) const;
  Status Save(const Candidate& candidate);
  // Everything away: after publication, or before a build from scratch.
  Status Clear() { return files_.Remove(directory_); }

 private:
  FileSystem& files_;
  std::filesystem::path directory_;
  std::string inputs_;
};

}  // namespace pointsman
