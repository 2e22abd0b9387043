#include "daemon/api/job_requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "daemon/api/jobs.h"
#include "daemon/api/paths.h"
#include "memory/gate_groups.h"

namespace pointsman {
namespace {

using nlohmann::json;

constexpr double kLargest = 9e15;  // whole numbers up to here are exact in JSON
constexpr size_t kMostTexts = 100'000, kMostTextBytes = 1ull << 30, kMostPaths = 1000, kMostPathBytes = 4096;

enum class ValueKind { kChoice, kLayers, kNames, kInteger, kReal, kFlag };

// A field of the body that becomes an option of the command. The command checks the values again.
struct CommandOption {
  const char* field;  // the option with '_' for '-'
  ValueKind kind = ValueKind::kFlag;
  double low = 0, high = 0;
  std::vector<std::string> choices = {};
};

std::vector<CommandOption> BuildFields() {
  return {{.field = "kind", .kind = ValueKind::kChoice, .choices = {"auto", "entries", "prototypes"}},
          {.field = "preset", .kind = ValueKind::kChoice, .choices = {"default", "fast", "knn"}},
          {.field = "blend", .kind = ValueKind::kChoice, .choices = {"delta", "logits", "assignments"}},
          {.field = "layers", .kind = ValueKind::kLayers},
          {.field = "jsonl_fields", .kind = ValueKind::kNames},
          {.field = "max_tokens", .kind = ValueKind::kInteger, .low = 1, .high = kLargest},
          {.field = "max_test_tokens", .kind = ValueKind::kInteger, .low = 1, .high = kLargest},
          {.field = "seed", .kind = ValueKind::kInteger, .low = 0, .high = kLargest},
          {.field = "min_gain", .kind = ValueKind::kReal, .low = 0, .high = 100},
          {.field = "damage_bound", .kind = ValueKind::kReal, .low = 0, .high = 100},
          {.field = "split_by_library"},
          {.field = "output_memory"},
          {.field = "no_text"}};
}

std::vector<CommandOption> EvalFields() {
  return {{.field = "variants", .kind = ValueKind::kNames},
          {.field = "jsonl_fields", .kind = ValueKind::kNames},
          {.field = "max_test_tokens", .kind = ValueKind::kInteger, .low = 1, .high = kLargest},
          {.field = "seed", .kind = ValueKind::kInteger, .low = 0, .high = kLargest},
          {.field = "seeds", .kind = ValueKind::kInteger, .low = 1, .high = 20},
          {.field = "generations", .kind = ValueKind::kInteger, .low = 0, .high = 10'000},
          {.field = "generation_temperature", .kind = ValueKind::kReal, .low = 0, .high = 100},
          {.field = "min_gain", .kind = ValueKind::kReal, .low = 0, .high = 100},
          {.field = "damage_bound", .kind = ValueKind::kReal, .low = 0, .high = 100},
          {.field = "require", .kind = ValueKind::kChoice, .choices = {"adopt"}},
          {.field = "no_text"}};
}

bool IsName(const std::string& text) {
  const auto plain = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == '+'; };
  return !text.empty() && std::all_of(text.begin(), text.end(), plain);
}

std::string NamesOf(FieldReader& fields, const char* field) {
  const std::vector<std::string> names = fields.Texts(field, 100, 100);
  if (!std::all_of(names.begin(), names.end(), IsName)) {
    fields.Fail(field, "names have letters, digits and _ - . + only");
  }
  return fmt::format("{}", fmt::join(names, ","));
}

// The option's value; only for fields that are there.
std::string ValueOf(FieldReader& fields, const CommandOption& option) {
  const auto low = static_cast<int64_t>(option.low), high = static_cast<int64_t>(option.high);
  switch (option.kind) {
    case ValueKind::kChoice:
      return fields.Choice(option.field, option.choices.front(), option.choices);
    case ValueKind::kNames:
      return NamesOf(fields, option.field);
    case ValueKind::kInteger:
      return fmt::format("{}", fields.Integer(option.field, low, low, high));
    case ValueKind::kReal:
      return fmt::format("{}", fields.Real(option.field, option.low, option.low, option.high));
    case ValueKind::kLayers: {
      const std::string layers = fields.Text(option.field, "auto", 1000);
      const bool plain = layers.find_first_not_of("0123456789,") == std::string::npos;
      if (layers.empty() || (layers != "auto" && layers != "all" && !plain)) {
        fields.Fail(option.field, "auto, all, or numbers with commas between");
      }
      return layers;
    }
    case ValueKind::kFlag:
      break;
  }
  return {};
}

// "--name=value": one word, so that no value is taken for an option.
void AddOptions(FieldReader& fields, std::span<const CommandOption> options, std::vector<std::string>& arguments) {
  for (const CommandOption& option : options) {
    if (!fields.Has(option.field)) continue;
    std::string name = option.field;
    std::replace(name.begin(), name.end(), '_', '-');
    if (option.kind == ValueKind::kFlag) {
      if (fields.Flag(option.field, false)) arguments.push_back("--" + name);
    } else {
      arguments.push_back(fmt::format("--{}={}", name, ValueOf(fields, option)));
    }
  }
}

// Absolute, so that it means the same at the next start and never begins with '-'.
std::string Absolute(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return (error ? path : absolute).lexically_normal().string();
}

// A list of paths below --corpus-root, absolute; a failure is the fields'.
std::vector<std::string> ServerPaths(const ApiContext& context, FieldReader& fields, const char* field) {
  const std::vector<std::string> paths = fields.Texts(field, kMostPaths, kMostPathBytes);
  std::vector<std::string> absolute;
  const std::filesystem::path& root = context.options.corpus_root;
  if (paths.empty()) fields.Fail(field, "name at least one file or folder");
  if (root.empty()) {
    fields.Fail(field, "this server reads no files of its own for jobs; it has no --corpus-root", ApiCode::kForbidden);
  }
  for (const std::string& relative : paths) {
    if (fields.error()) break;
    const auto path = PathBelow(root, relative, field, "the server's corpus root");
    if (const auto* error = std::get_if<ApiError>(&path)) {
      fields.Fail(field, fmt::format("'{}' is no path below the server's corpus root", relative), error->code);
      break;
    }
    std::error_code error;
    if (!std::filesystem::exists(std::get<std::filesystem::path>(path), error)) {
      fields.Fail(field, fmt::format("'{}' is not there", relative));
      break;
    }
    absolute.push_back(Absolute(std::get<std::filesystem::path>(path)));
  }
  return absolute;
}

// Such a list as the values of one option.
void AddPaths(const ApiContext& context, FieldReader& fields, const char* field, const char* option, JobSpec& spec) {
  if (!fields.Has(field)) return;
  const std::vector<std::string> paths = ServerPaths(context, fields, field);
  if (fields.error()) return;
  spec.arguments.emplace_back(option);
  spec.arguments.insert(spec.arguments.end(), paths.begin(), paths.end());
}

// Calls `read` with a reader of each object of a list, until one has an error. Whether there is a list without any.
// `members` of the objects and the `most` there may be are named in errors.
template <typename Read>
bool ReadObjects(FieldReader& fields, const char* field, size_t most, const char* members, const Read& read) {
  const json* list = fields.Member(field);
  if (!list || list->is_null()) return false;
  if (!list->is_array() || list->empty() || list->size() > most) {
    fields.Fail(field, fmt::format("a list of 1 to {} objects with {}", most, members));
    return false;
  }
  for (size_t i = 0; i < list->size() && !fields.error(); ++i) {
    FieldReader one((*list)[i], fmt::format("{}[{}].", fields.PathOf(field), i));
    read(one);
    one.Finish();
    fields.Absorb(one);
  }
  return !fields.error();
}

// A list of {"name", "text"} as uploads in `folder`. Whether there is one without an error.
bool ReadTexts(FieldReader& fields, const char* field, const std::string& folder, JobSpec& spec) {
  return ReadObjects(fields, field, kMostTexts, R"("name" and "text")", [&](FieldReader& one) {
    const std::string name = one.Text("name", "", 1024);
    AddUpload(spec, folder, name, one.RequiredText("text", kMostTextBytes));
  });
}

// All uploads as the value of an option.
void AddTexts(FieldReader& fields, const char* field, const char* option, JobSpec& spec) {
  if (!ReadTexts(fields, field, "", spec)) return;
  spec.arguments.emplace_back(option);
  spec.arguments.emplace_back(JobRunner::kUploads);
}

// A list of {"name", "paths"} or {"name", "corpus"} as the values of --group.
void AddGroups(const ApiContext& context, FieldReader& fields, JobSpec& spec) {
  size_t number = 0;
  ReadObjects(fields, "groups", kMostGateGroups, R"("name" and "paths" or "corpus")", [&](FieldReader& one) {
    const std::string name = one.RequiredText("name", 80);
    if (!IsGroupName(name)) one.Fail("name", "1 to 80 printable ASCII characters, no '='");
    const auto add = [&](const std::string& path) {
      spec.arguments.push_back(fmt::format("--group={}={}", name, path));
    };
    const std::string folder = fmt::format("group-{}", ++number);
    if (!one.Has("corpus")) {
      for (const std::string& path : ServerPaths(context, one, "paths")) add(path);
    } else if (one.Has("paths")) {
      one.Fail("paths", "give one of paths on the server and corpus, a list of texts");
    } else if (ReadTexts(one, "corpus", folder, spec)) {
      add(fmt::format("{}/{}", JobRunner::kUploads, folder));
    }
  });
}

bool IsListOfTexts(FieldReader& fields, const char* field) {
  const json* list = fields.Member(field);
  return list && list->is_array() && !list->empty() && list->front().is_object();
}

// "corpus" (texts), "paths" or "groups": one of them.
void AddCorpus(const ApiContext& context, FieldReader& fields, JobSpec& spec) {
  AddTexts(fields, "corpus", "--corpus", spec);
  AddPaths(context, fields, "paths", "--corpus", spec);
  AddGroups(context, fields, spec);
}

JobSpec Begin(const ApiContext& context, const char* command, FieldReader& fields) {
  JobSpec spec;
  spec.id = JobRunner::NewId();
  spec.kind = command;
  const int64_t threads = fields.Integer("threads", std::max(0, context.options.engine.threads), 0, 4096);
  spec.arguments = {command, "--json", "--progress=json", fmt::format("--threads={}", threads),
                    "--model=" + Absolute(context.options.model)};
  return spec;
}

}  // namespace

ApiResult<JobSpec> BuildJobOf(const ApiContext& context, const Principal& principal, const json& body) {
  FieldReader fields(body);
  JobSpec spec = Begin(context, "build", fields);
  const std::string out = fields.RequiredText("out", 1024);
  if (fields.error()) return *fields.error();
  const auto path = PathBelowMemoryRoot(context, out, "out");
  if (const auto* error = std::get_if<ApiError>(&path)) return *error;
  spec.target = Absolute(std::get<std::filesystem::path>(path));
  if (spec.target.ends_with('/')) spec.target.pop_back();
  spec.memory = std::filesystem::path(spec.target).filename().string();
  spec.only_one = true;
  if (!principal.MayUse(spec.memory)) {
    return ApiError{ApiCode::kForbidden, "out: this key is confined to other memories", "out"};
  }
  // --resume: after the server's end the same command goes on where it was.
  spec.arguments.insert(spec.arguments.end(), {"--resume", "--out=" + spec.target});
  const std::vector<CommandOption> options = BuildFields();
  AddOptions(fields, options, spec.arguments);
  if (fields.Has("corpus") + fields.Has("paths") + fields.Has("groups") != 1) {
    fields.Fail("corpus", "give one of corpus, a list of texts, paths on the server, and groups of either");
  }
  AddCorpus(context, fields, spec);
  AddPaths(context, fields, "off_domain", "--off-domain", spec);
  fields.Finish();
  if (fields.error()) return *fields.error();
  return spec;
}

ApiResult<JobSpec> DocumentJobOf(const ApiContext& context, const MemoryUse& use, DocumentText document) {
  constexpr int64_t kLongestTtl = 100LL * 366 * 24 * 3600;
  if (document.text.empty()) return ApiError{ApiCode::kInvalidValue, "text: empty; give the document's text", "text"};
  if (document.ttl_s < 0 || document.ttl_s > kLongestTtl) {
    return ApiError{ApiCode::kInvalidValue, fmt::format("ttl_s: outside of 0..{} seconds", kLongestTtl), "ttl_s"};
  }
  JobSpec spec;
  spec.id = JobRunner::NewId();
  spec.kind = "documents";
  spec.memory = use.loaded->id;
  spec.target = Absolute(use.loaded->settings.directory);
  spec.arguments = {
      "docs", "add", spec.target, "--json", "--progress=json", "--model=" + Absolute(context.options.model)};
  if (context.options.engine.threads > 0) {
    spec.arguments.push_back(fmt::format("--threads={}", context.options.engine.threads));
  }
  spec.arguments.push_back("--name=" + (document.name.empty() ? spec.id : document.name));
  if (document.ttl_s > 0) spec.arguments.push_back(fmt::format("--ttl={}", document.ttl_s));
  for (const std::string& tag : document.tags) spec.arguments.push_back("--tag=" + tag);
  // Plain text whatever the client calls it: a name must not choose how it is read.
  AddUpload(spec, "", "document.txt", std::move(document.text));
  spec.arguments.emplace_back("--corpus");
  spec.arguments.emplace_back(JobRunner::kUploads);
  return spec;
}

ApiResult<JobSpec> EvalJobOf(const ApiContext& context, const Principal& principal, const json& body) {
  FieldReader fields(body);
  JobSpec spec = Begin(context, "eval", fields);
  spec.memory = fields.RequiredText("memory", 64);
  if (fields.error()) return *fields.error();
  const auto found = FindMemory(context, principal, spec.memory);
  if (const auto* error = std::get_if<ApiError>(&found)) return *error;
  spec.target = Absolute(std::get<MemoryUse>(found).loaded->settings.directory);
  if (spec.target.ends_with('/')) spec.target.pop_back();
  spec.arguments.push_back("--memory=" + spec.target);
  const std::vector<CommandOption> options = EvalFields();
  AddOptions(fields, options, spec.arguments);
  const int given = fields.Has("corpus") + fields.Has("paths") + fields.Has("groups") + fields.Has("test_corpus");
  if (given != 1) {
    fields.Fail("test_corpus",
                "give either test_corpus (texts, or paths on the server), or what the memory was built from as corpus, "
                "paths or groups: its recorded test documents are scored then");
  }
  AddCorpus(context, fields, spec);
  if (IsListOfTexts(fields, "test_corpus")) {
    AddTexts(fields, "test_corpus", "--test-corpus", spec);
  } else {
    AddPaths(context, fields, "test_corpus", "--test-corpus", spec);
  }
  AddPaths(context, fields, "off_domain", "--off-domain", spec);
  fields.Finish();
  if (fields.error()) return *fields.error();
  return spec;
}

}  // namespace pointsman
