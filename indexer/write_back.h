// What online rerouting learned from a text, written into a memory as that text's contribution: similar text that comes
// later, in any session, is then routed as the session was.
//
//   entries      an entry a token and layer: the key of its router input, the value = what the memory changed there
//                already + the text's vector, so that an entry found again does what was done
//   prototypes   one prototype a layer: the mean of the tokens' keys, the value = the text's vector
//
// A copy in RAM; nothing is published. docs/results.md has what it gains. Threads: runs on the calling thread.
#pragma once

#include <memory>

#include "adapt/rerouting_hooks.h"
#include "adapt/sequences.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/model.h"
#include "router/router.h"

namespace pointsman {

// kUnsupported: the memory's values are not changes of logits. kInvalidArgument: the model does not fit the memory.
Result<std::shared_ptr<const RoutingTables>> WriteBack(const MoeModel& model,
                                                       const std::shared_ptr<const RoutingTables>& tables,
                                                       const Sequence& text, const SessionVectors& vectors);

}  // namespace pointsman
