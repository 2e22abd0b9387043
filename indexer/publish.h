// Stage 5: what a build found out becomes truth and a published generation.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "indexer/builder.h"
#include "indexer/candidates.h"
#include "indexer/corpus.h"
#include "indexer/reference_set.h"
#include "memory/memory.h"
#include "memory/result.h"

namespace pointsman {

struct PublishInputs {
  const BuildOptions& options;
  const Fingerprint& fingerprint;
  const Corpus& corpus;
  const Corpus& general;
  const std::vector<std::string>& general_sources;
  const ReferenceSet& set;
  const std::string& inputs;  // hash of what the memory was made from
};

// Writes documents, entries and the other trained kinds to truth, then publishes candidates[chosen] with the verdict
// still absent. A failure leaves whatever was published before.
Status PublishMemory(MemoryWriter& writer, const PublishInputs& inputs, const std::vector<Candidate>& candidates,
                     size_t chosen);

// The kinds that a build trained and did not publish, as PublishMemory kept them in truth; `build_s` by kind, the
// published one included.
struct KeptKinds {
  std::map<std::string, std::shared_ptr<const RoutingTables>> tables;
  std::map<std::string, double> build_s;
};
Result<KeptKinds> LoadKeptKinds(const std::filesystem::path& memory);

}  // namespace pointsman
