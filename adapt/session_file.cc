#include "adapt/session_file.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "memory/file_layer.h"
#include "models/json_text.h"

namespace pointsman {
namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "pointsman session";
constexpr int64_t kVersion = 1;
constexpr uint64_t kMaxBytes = 64 << 20;  // 256 layers of 4,096 experts need 20 MB
constexpr double kLargestLogit = 1e6;     // far above any router's; keeps sums finite in fp32

struct FingerprintField {
  const char* name;
  std::string Fingerprint::*value;
};
constexpr std::array kFingerprintFields = {
    FingerprintField{"architecture", &Fingerprint::architecture},
    FingerprintField{"config_sha256", &Fingerprint::config_sha256},
    FingerprintField{"router_sha256", &Fingerprint::router_sha256},
    FingerprintField{"tokenizer_sha256", &Fingerprint::tokenizer_sha256},
};

Error Corrupt(const std::string& name, const std::string& what) {
  return {ErrorCode::kCorrupt,
          fmt::format("{}: {}; give a file that generate --session wrote, or remove it", name, what)};
}

Status CheckModel(const Json& file, const std::string& name, const Fingerprint& model) {
  if (!file.contains("fingerprint") || !file["fingerprint"].is_object()) {
    return Corrupt(name, "has no object \"fingerprint\"");
  }
  const JsonFields fingerprint(file["fingerprint"], name);
  for (const FingerprintField& field : kFingerprintFields) {
    POINTSMAN_TRY(const std::string stored, fingerprint.Text(field.name));
    if (stored == model.*field.value) continue;
    return Error{
        ErrorCode::kMismatch,
        fmt::format("{}: learned on another model: {} {} (session) != {} (model); use the model it was learned "
                    "on, or begin a new session",
                    name, field.name, OneLine(stored.substr(0, 16)), (model.*field.value).substr(0, 16))};
  }
  return {};
}

Status ReadLayer(const Json& entry, const std::string& name, const MoeConfig& config, SessionVectors* session) {
  if (!entry.is_object()) return Corrupt(name, "an element of \"layers\" is not an object");
  POINTSMAN_TRY(const int64_t layer, JsonFields(entry, name).Integer("layer", 0, config.num_layers - 1));
  std::vector<float>& vector = session->by_layer[layer];
  if (!vector.empty()) return Corrupt(name, fmt::format("layer {} is there twice", layer));
  const Json& values = entry.contains("vector") ? entry["vector"] : Json();
  if (!values.is_array() || static_cast<int64_t>(values.size()) != config.num_experts) {
    return Corrupt(name, fmt::format("layer {} has {} numbers, not one for each of {} experts", layer,
                                     values.is_array() ? values.size() : 0, config.num_experts));
  }
  for (const Json& value : values) {
    const double number = value.is_number() ? value.get<double>() : NAN;
    if (!(std::fabs(number) <= kLargestLogit)) {
      return Corrupt(name, fmt::format("layer {} holds {}, which is not a number within {:.0e}", layer,
                                       OneLine(value.dump()), kLargestLogit));
    }
    vector.push_back(static_cast<float>(number));
  }
  return {};
}

}  // namespace

std::string SessionToJson(const SessionVectors& session, const Fingerprint& model) {
  Json file = {{"format", kFormat}, {"version", kVersion}, {"fingerprint", Json::object()}, {"layers", Json::array()}};
  for (const FingerprintField& field : kFingerprintFields) file["fingerprint"][field.name] = model.*field.value;
  for (size_t layer = 0; layer < session.by_layer.size(); ++layer) {
    if (!session.by_layer[layer].empty()) {
      file["layers"].push_back({{"layer", layer}, {"vector", session.by_layer[layer]}});
    }
  }
  return file.dump() + "\n";
}

Result<SessionVectors> SessionFromJson(const std::string& text, const std::string& name, const MoeConfig& config,
                                       const Fingerprint& model) {
  POINTSMAN_TRY(const Json file, ParseJson(text, name));
  if (!file.is_object()) return Corrupt(name, "is not a JSON object");
  const JsonFields fields(file, name);
  POINTSMAN_TRY(const std::string format, fields.Text("format", std::string()));
  if (format != kFormat) return Corrupt(name, fmt::format("its format is not \"{}\"", kFormat));
  POINTSMAN_TRY(const int64_t version, fields.Integer("version", 0, 1 << 30));
  if (version != kVersion) {
    return Error{ErrorCode::kUnsupported, fmt::format("{}: is of version {}, this program reads {}; remove it to begin "
                                                      "a new session",
                                                      name, version, kVersion)};
  }
  POINTSMAN_CHECK_OK(CheckModel(file, name, model));
  if (!file.contains("layers") || !file["layers"].is_array()) return Corrupt(name, "has no list \"layers\"");
  SessionVectors session;
  session.by_layer.resize(config.num_layers);
  for (const Json& entry : file["layers"]) POINTSMAN_CHECK_OK(ReadLayer(entry, name, config, &session));
  return session;
}

Status SaveSession(const std::filesystem::path& path, const SessionVectors& session, const Fingerprint& model) {
  return FileSystem::Real().WriteAtomically(path, SessionToJson(session, model));
}

Result<SessionVectors> LoadSession(const std::filesystem::path& path, const MoeConfig& config,
                                   const Fingerprint& model) {
  std::error_code failed;
  if (const uint64_t bytes = std::filesystem::file_size(path, failed); !failed && bytes > kMaxBytes) {
    return Corrupt(path.string(), fmt::format("has {} bytes, a session has at most {}", bytes, kMaxBytes));
  }
  POINTSMAN_TRY(const std::string text, FileSystem::Real().ReadFile(path));
  return SessionFromJson(text, path.string(), config, model);
}

}  // namespace pointsman
