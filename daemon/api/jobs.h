// What the handlers of jobs share with those of other resources that have long work to do.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daemon/api/context.h"
#include "daemon/jobs/runner.h"

namespace pointsman {

// Hands the job over, audits it and answers: 202 with the job, 403 without --jobs, 409, 429 or the failure. The
// principal and, if it is empty, the id are filled in. Writes files: on a compute thread.
HttpResponse SubmitJob(ApiContext& context, const HttpRequest& http, JobSpec spec);

// `text` as a file of the job's uploads, below `folder` of them (a name of ours; empty: at the top): a number, and of
// the client's `name` what is safe in a file's name.
void AddUpload(JobSpec& spec, const std::filesystem::path& folder, const std::string& name, std::string text);

// J of the API: what clients see. Errors lose the folders of paths.
nlohmann::json JobJson(const ApiContext& context, const JobRecord& job);

}  // namespace pointsman
