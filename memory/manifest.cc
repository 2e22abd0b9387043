#include "memory/manifest.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <variant>

#include "memory/strict_json.h"

namespace pointsman {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMaxBytes = size_t{64} << 20;
constexpr uint32_t kMaxDepth = 8;
constexpr size_t kMaxNameBytes = 256;

constexpr std::array<const char*, 2> kKindNames = {"entries", "prototypes"};
constexpr std::array<const char*, 3> kValueKindNames = {"delta", "logits", "assignments"};
constexpr std::array<const char*, 4> kVerdictNames = {"adopt", "reject", "inconclusive", "absent"};

bool IsHex(std::string_view text) { return text.find_first_not_of("0123456789abcdef") == std::string_view::npos; }

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// 2026-01-31T12:00:00Z
bool IsTimestamp(std::string_view text) {
  constexpr std::string_view kShape = "dddd-dd-ddTdd:dd:ddZ";
  if (text.size() != kShape.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (kShape[i] == 'd' ? !IsDigit(text[i]) : text[i] != kShape[i]) return false;
  }
  return true;
}

// Takes the fields out of one JSON object; the first problem sticks, with its path ("$.fingerprint.dtype").
class ObjectReader {
 public:
  ObjectReader(const json& object, std::string path, std::optional<std::string>* problem)
      : object_(object), path_(std::move(path)), problem_(problem) {
    if (!object_.is_object()) Fail({}, "must be an object");
  }

  std::string Text(const char* key, size_t max_bytes = kMaxNameBytes) {
    const json* value = Find(key);
    if (value == nullptr) return {};
    if (!value->is_string() || value->get_ref<const std::string&>().size() > max_bytes) {
      return Fail(key, fmt::format("must be a string of at most {} bytes", max_bytes)), std::string();
    }
    return value->get<std::string>();
  }
  // Lower-case hex of exactly `digits` digits, or empty (unknown).
  std::string Hex(const char* key, size_t digits) {
    std::string text = Text(key);
    if (!text.empty() && (text.size() != digits || !IsHex(text))) {
      Fail(key, fmt::format("must be {} lower-case hex digits or empty", digits));
    }
    return text;
  }
  uint64_t Count(const char* key) {
    const json* value = Find(key);
    if (value == nullptr) return 0;
    if (!value->is_number_unsigned()) return Fail(key, "must be an integer from 0 to 2^64 - 1"), 0;
    return value->get<uint64_t>();
  }
  double Number(const char* key) {
    const json* value = Find(key);
    if (value == nullptr) return 0;
    if (!value->is_number()) return Fail(key, "must be a number"), 0;
    return value->get<double>();
  }
  // null, what JSON has for an end of an interval that is not known, is `unknown`.
  double Bound(const char* key, double unknown) {
    const json* value = Find(key);
    if (value == nullptr || value->is_null()) return unknown;
    if (!value->is_number()) return Fail(key, "must be a number or null"), 0;
    return value->get<double>();
  }
  bool Bool(const char* key) {
    const json* value = Find(key);
    if (value == nullptr) return false;
    if (!value->is_boolean()) return Fail(key, "must be true or false"), false;
    return value->get<bool>();
  }
  template <size_t N>
  size_t OneOf(const char* key, const std::array<const char*, N>& names) {
    const std::string text = Text(key);
    for (size_t i = 0; i < N; ++i) {
      if (text == names[i]) return i;
    }
    Fail(key, fmt::format("must be one of {}", fmt::join(names, ", ")));
    return 0;
  }
  std::vector<std::string> Texts(const char* key, size_t hex_digits) {
    std::vector<std::string> texts;
    const json* value = Find(key);
    if (value == nullptr) return texts;
    if (!value->is_array()) return Fail(key, "must be an array"), texts;
    for (const json& element : *value) {
      const bool good =
          element.is_string() && (hex_digits == 0 || (element.get_ref<const std::string&>().size() == hex_digits &&
                                                      IsHex(element.get_ref<const std::string&>())));
      if (!good) {
        Fail(fmt::format("{}[{}]", key, texts.size()),
             hex_digits == 0 ? "must be a string" : fmt::format("must be {} lower-case hex digits", hex_digits));
        return texts;
      }
      texts.push_back(element.get<std::string>());
    }
    return texts;
  }
  std::map<std::string, std::string> TextMap(const char* key) {
    std::map<std::string, std::string> map;
    const json* value = Find(key);
    if (value == nullptr) return map;
    if (!value->is_object()) return Fail(key, "must be an object"), map;
    for (const auto& [name, element] : value->items()) {
      if (!element.is_string()) return Fail(fmt::format("{}.{}", key, name), "must be a string"), map;
      map[name] = element.get<std::string>();
    }
    return map;
  }
  ObjectReader Object(const char* key) {
    static const json kNothing = json::object();
    const json* value = Find(key);
    return ObjectReader(value == nullptr ? kNothing : *value, fmt::format("{}.{}", path_, key), problem_);
  }
  bool Has(const char* key) const { return object_.is_object() && object_.contains(key); }
  // A share or mean of the router's: 0..1, a cosine: -1..1.
  double Within(const char* key, double low, double high) {
    const double value = Number(key);
    if (value < low || value > high) Fail(key, fmt::format("must be from {} to {}", low, high));
    return value;
  }
  void Fail(const std::string& key, std::string_view what) {
    if (!problem_->has_value()) *problem_ = fmt::format("{}{}{} {}", path_, key.empty() ? "" : ".", key, what);
  }
  // Rejects keys that nothing asked for.
  void Finish() {
    if (!object_.is_object()) return;
    for (const auto& [key, value] : object_.items()) {
      if (!seen_.contains(key)) Fail(key.substr(0, kMaxNameBytes), "is not a known field");
    }
  }

 private:
  const json* Find(const char* key) {
    seen_.insert(key);
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    Fail(key, "is missing");
    return nullptr;
  }

  const json& object_;
  std::string path_;
  std::optional<std::string>* problem_;
  std::set<std::string, std::less<>> seen_;
};

Fingerprint ReadFingerprint(ObjectReader reader) {
  Fingerprint fingerprint;
  fingerprint.architecture = reader.Text("architecture");
  fingerprint.config_sha256 = reader.Hex("config_sha256", 64);
  fingerprint.router_sha256 = reader.Hex("router_sha256", 64);
  fingerprint.tokenizer_sha256 = reader.Hex("tokenizer_sha256", 64);
  fingerprint.dtype = reader.Text("dtype");
  fingerprint.experts_sha256 = reader.Hex("experts_sha256", 64);
  reader.Finish();
  return fingerprint;
}

VerdictSummary ReadVerdict(ObjectReader reader) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  VerdictSummary summary;
  summary.verdict = kVerdictNames[reader.OneOf("verdict", kVerdictNames)];
  summary.stale = reader.Bool("stale");
  summary.gain = reader.Number("gain");
  summary.gain_low = reader.Bound("gain_low", -kInfinity);
  summary.gain_high = reader.Bound("gain_high", kInfinity);
  summary.damage = reader.Number("damage");
  summary.damage_low = reader.Bound("damage_low", -kInfinity);
  summary.damage_high = reader.Bound("damage_high", kInfinity);
  summary.test_documents = reader.Count("test_documents");
  summary.test_tokens = reader.Count("test_tokens");
  reader.Finish();
  return summary;
}

RoutingSignal ReadSignal(ObjectReader reader) {
  RoutingSignal signal;
  signal.tokens = reader.Count("tokens");
  signal.open_share = reader.Within("open_share", 0, 1);
  signal.gate_mean = reader.Within("gate_mean", 0, 1);
  signal.confidence_mean = reader.Within("confidence_mean", 0, 1);
  signal.similarity_mean = reader.Within("similarity_mean", -1, 1);
  reader.Finish();
  return signal;
}

Manifest ReadManifest(ObjectReader reader) {
  Manifest manifest;
  manifest.format_version = static_cast<int>(reader.Count("format_version"));
  manifest.generation = reader.Count("generation");
  manifest.truth_sequence = reader.Count("truth_sequence");
  manifest.kind = static_cast<MemoryKind>(reader.OneOf("kind", kKindNames));
  manifest.value_kind = static_cast<ValueKind>(reader.OneOf("value_kind", kValueKindNames));
  manifest.fingerprint = ReadFingerprint(reader.Object("fingerprint"));
  manifest.transform_sha256 = reader.Hex("transform_sha256", 64);
  manifest.digest = reader.Hex("digest", 32);
  manifest.seed = reader.Count("seed");
  manifest.created = reader.Text("created");
  if (!IsTimestamp(manifest.created)) reader.Fail("created", "must be a UTC time like 2026-01-31T12:00:00Z");
  manifest.reference_documents = reader.Count("reference_documents");
  manifest.reference_tokens = reader.Count("reference_tokens");
  manifest.entries = reader.Count("entries");
  manifest.calibration_documents = reader.Count("calibration_documents");
  manifest.test_documents = reader.Count("test_documents");
  manifest.test_looks = reader.Count("test_looks");
  manifest.has_text = reader.Bool("has_text");
  manifest.settings = reader.TextMap("settings");
  manifest.off_domain_sources = reader.Texts("off_domain_sources", 0);
  manifest.test_sha256 = reader.Texts("test_sha256", 64);
  manifest.damage_sha256 = reader.Texts("damage_sha256", 64);
  manifest.verdict = ReadVerdict(reader.Object("verdict"));
  if (reader.Has("calibration")) manifest.calibration = ReadSignal(reader.Object("calibration"));
  reader.Finish();
  return manifest;
}

Error Damaged(const std::string& path, std::string_view problem) {
  return {ErrorCode::kCorrupt,
          fmt::format("{}: {}; restore it with `pointsman verify --repair` or from a snapshot", path, problem)};
}

}  // namespace

Result<Manifest> ParseManifest(const std::string& json_text, const std::string& path_for_errors) {
  if (json_text.size() > kMaxBytes) return Damaged(path_for_errors, fmt::format("larger than {} bytes", kMaxBytes));
  const auto parsed = ParseStrictJson(json_text, {.depth = kMaxDepth});
  if (const auto* problem = std::get_if<JsonProblem>(&parsed)) return Damaged(path_for_errors, problem->what);
  const json& root = std::get<json>(parsed);
  if (!root.is_object()) return Damaged(path_for_errors, "$ must be an object");

  const auto version = root.find("format_version");
  if (version == root.end() || !version->is_number_unsigned() || version->get<uint64_t>() == 0) {
    return Damaged(path_for_errors, "$.format_version must be a positive integer");
  }
  if (version->get<uint64_t>() != kFormatVersion) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: format version {}, this Pointsman reads {}; install the version that wrote it",
                             path_for_errors, version->get<uint64_t>(), kFormatVersion)};
  }
  std::optional<std::string> problem;
  Manifest manifest = ReadManifest(ObjectReader(root, "$", &problem));
  if (problem) return Damaged(path_for_errors, *problem);
  return manifest;
}

std::string SerializeManifest(const Manifest& manifest) {
  const Fingerprint& fingerprint = manifest.fingerprint;
  const VerdictSummary& verdict = manifest.verdict;
  ordered_json root = {
      {"format_version", manifest.format_version},
      {"generation", manifest.generation},
      {"truth_sequence", manifest.truth_sequence},
      {"kind", kKindNames[static_cast<size_t>(manifest.kind)]},
      {"value_kind", kValueKindNames[static_cast<size_t>(manifest.value_kind)]},
      {"fingerprint",
       {{"architecture", fingerprint.architecture},
        {"config_sha256", fingerprint.config_sha256},
        {"router_sha256", fingerprint.router_sha256},
        {"tokenizer_sha256", fingerprint.tokenizer_sha256},
        {"dtype", fingerprint.dtype},
        {"experts_sha256", fingerprint.experts_sha256}}},
      {"transform_sha256", manifest.transform_sha256},
      {"digest", manifest.digest},
      {"seed", manifest.seed},
      {"created", manifest.created},
      {"reference_documents", manifest.reference_documents},
      {"reference_tokens", manifest.reference_tokens},
      {"entries", manifest.entries},
      {"calibration_documents", manifest.calibration_documents},
      {"test_documents", manifest.test_documents},
      {"test_looks", manifest.test_looks},
      {"has_text", manifest.has_text},
      {"settings", ordered_json(manifest.settings)},
      {"off_domain_sources", ordered_json(manifest.off_domain_sources)},
      {"test_sha256", ordered_json(manifest.test_sha256)},
      {"damage_sha256", ordered_json(manifest.damage_sha256)},
      {"verdict",
       {{"verdict", verdict.verdict},
        {"stale", verdict.stale},
        {"gain", verdict.gain},
        {"gain_low", verdict.gain_low},
        {"gain_high", verdict.gain_high},
        {"damage", verdict.damage},
        {"damage_low", verdict.damage_low},
        {"damage_high", verdict.damage_high},
        {"test_documents", verdict.test_documents},
        {"test_tokens", verdict.test_tokens}}},
  };
  if (manifest.calibration) {
    root["calibration"] = {{"tokens", manifest.calibration->tokens},
                           {"open_share", manifest.calibration->open_share},
                           {"gate_mean", manifest.calibration->gate_mean},
                           {"confidence_mean", manifest.calibration->confidence_mean},
                           {"similarity_mean", manifest.calibration->similarity_mean}};
  }
  // Invalid UTF-8 in a path becomes U+FFFD: dump() would throw otherwise.
  return root.dump(2, ' ', /*ensure_ascii=*/false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace pointsman
