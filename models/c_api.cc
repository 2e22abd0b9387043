#include "models/c_api.h"

#include <fmt/format.h>

#include <filesystem>
#include <span>

#include "models/config.h"
#include "models/fingerprint.h"
#include "models/safetensors.h"
#include "models/tokenizer/tokenizer.h"
#include "router/c_api_handles.h"

namespace pointsman {
namespace {

Status CopyField(const std::string& text, std::span<char> out) {
  if (text.size() >= out.size()) {
    return Error{ErrorCode::kInternal, fmt::format("'{}' is longer than a fingerprint's field", text)};
  }
  std::memcpy(out.data(), text.c_str(), text.size() + 1);
  return {};
}

Result<Fingerprint> FingerprintOf(const std::filesystem::path& directory) {
  POINTSMAN_TRY(const MoeConfig config, LoadConfig(directory));
  POINTSMAN_TRY(const SafetensorsFiles files, SafetensorsFiles::Open(directory));
  POINTSMAN_TRY(const auto tokenizer, Tokenizer::Load(directory / "tokenizer.json"));
  return ComputeFingerprint(config, files, *tokenizer);
}

}  // namespace
}  // namespace pointsman

using namespace pointsman;  // NOLINT(google-build-using-namespace): the function below is C's

pm_status pm_fingerprint_of_model(const char* directory, pm_model_fingerprint* fingerprint, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    POINTSMAN_TRY(const Fingerprint found, FingerprintOf(directory));
    POINTSMAN_CHECK_OK(CopyField(found.architecture, fingerprint->architecture));
    POINTSMAN_CHECK_OK(CopyField(found.config_sha256, fingerprint->config_sha256));
    POINTSMAN_CHECK_OK(CopyField(found.router_sha256, fingerprint->router_sha256));
    POINTSMAN_CHECK_OK(CopyField(found.tokenizer_sha256, fingerprint->tokenizer_sha256));
    POINTSMAN_CHECK_OK(CopyField(found.dtype, fingerprint->dtype));
    POINTSMAN_CHECK_OK(CopyField(found.experts_sha256, fingerprint->experts_sha256));
    return {};
  });
}
