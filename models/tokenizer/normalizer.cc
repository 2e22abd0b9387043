#include "models/tokenizer/normalizer.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "models/json_text.h"
#include "models/tokenizer/unicode.h"

namespace pointsman {
namespace {

struct NamedForm {
  std::string_view name;
  NormalForm form;
  int options;
};
constexpr NamedForm kForms[] = {
    {"NFC", NormalForm::kNfc, UTF8PROC_STABLE | UTF8PROC_COMPOSE},
    {"NFD", NormalForm::kNfd, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
    {"NFKC", NormalForm::kNfkc, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
    {"NFKD", NormalForm::kNfkd, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
};

const NamedForm& Describe(NormalForm form) {
  return *std::find_if(std::begin(kForms), std::end(kForms),
                       [&](const NamedForm& named) { return named.form == form; });
}

void AppendNormalized(std::string_view text, int options, std::string& out) {
  utf8proc_uint8_t* raw = nullptr;
  const auto length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &raw, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(raw, &std::free);
  if (length < 0) {
    out += text;  // valid UTF-8 fails only without memory
  } else {
    out.append(reinterpret_cast<const char*>(raw), static_cast<size_t>(length));
  }
}

std::string Apply(const std::string& text, int options) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; })) return text;
  std::string out;
  out.reserve(text.size());
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const DecodedCodePoint decoded = DecodeUtf8(text, at);
    if (IsInertInNormalization(decoded.value)) {  // a barrier: nothing composes or is reordered across it
      AppendNormalized(std::string_view(text).substr(start, at - start), options, out);
      out.append(text, at, decoded.bytes);
      start = at + decoded.bytes;
    }
    at += decoded.bytes;
  }
  AppendNormalized(std::string_view(text).substr(start), options, out);
  return out;
}

}  // namespace

Result<Normalizer> Normalizer::Create(const nlohmann::json& spec, const std::string& file) {
  Normalizer normalizer;
  if (spec.is_null()) return normalizer;
  POINTSMAN_TRY(const std::vector<const nlohmann::json*> steps, FlattenSequence(spec, "normalizers", file));
  for (const nlohmann::json* step : steps) {
    const std::string type = step->at("type").get<std::string>();
    auto named = std::find_if(std::begin(kForms), std::end(kForms), [&](const NamedForm& f) { return f.name == type; });
    if (named == std::end(kForms)) {
      return Error{ErrorCode::kUnsupported,
                   fmt::format("{}: normalizer '{}' is not supported; NFC, NFD, NFKC, NFKD and Sequence are", file,
                               OneLine(type))};
    }
    normalizer.forms_.push_back(named->form);
  }
  return normalizer;
}

std::string Normalizer::Normalize(std::string text) const {
  for (NormalForm form : forms_) text = Apply(text, Describe(form).options);
  return text;
}

std::string Normalizer::Canonical() const {
  std::string out;
  for (NormalForm form : forms_) out += fmt::format("{}\n", Describe(form).name);
  return out;
}

}  // namespace pointsman
