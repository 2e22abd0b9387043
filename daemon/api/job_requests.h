// The bodies of POST /v1/builds and /v1/evals, turned into a command line: options by an allow-list, paths below the
// operator's directories, texts as uploads. No value of a client can become an option or a path of its own.
#pragma once

#include <nlohmann/json.hpp>

#include "daemon/api/context.h"
#include "daemon/jobs/runner.h"
#include "daemon/json_body.h"

namespace pointsman {

// The spec has everything but its principal.
ApiResult<JobSpec> BuildJobOf(const ApiContext& context, const Principal& principal, const nlohmann::json& body);
ApiResult<JobSpec> EvalJobOf(const ApiContext& context, const Principal& principal, const nlohmann::json& body);

// POST /v1/memories/{id}/documents: `docs add` with one text.
struct DocumentText {
  std::string text;
  std::string name;  // its source; empty: the job's id
  std::vector<std::string> tags;
  int64_t ttl_s = 0;  // 0: never expires
};
ApiResult<JobSpec> DocumentJobOf(const ApiContext& context, const MemoryUse& use, DocumentText document);

}  // namespace pointsman
