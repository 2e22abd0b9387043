#include "tools/rewire_settings.h"

#include <charconv>
#include <string>
#include <string_view>

namespace pointsman {
namespace {

template <typename T>
bool Parse(std::string_view text, T* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

// all | (last | most-confident | least-confident)[:N] | soft-most | soft-least
bool ParseLayers(std::string_view text, ReroutingOptions* options) {
  if (text == "all") return true;
  if (text == "soft-most" || text == "soft-least") {
    options->soft = true;
    options->layers = text == "soft-most" ? ReroutedLayers::kMostConfident : ReroutedLayers::kLeastConfident;
    return true;
  }
  const size_t colon = text.find(':');
  const std::string_view which = text.substr(0, colon);
  if (which == "last") {
    options->layers = ReroutedLayers::kLast;
  } else if (which == "most-confident") {
    options->layers = ReroutedLayers::kMostConfident;
  } else if (which == "least-confident") {
    options->layers = ReroutedLayers::kLeastConfident;
  } else {
    return false;
  }
  if (colon == std::string_view::npos) return true;
  return Parse(text.substr(colon + 1), &options->layer_count) && options->layer_count > 0;
}

}  // namespace

Result<ReroutingOptions> ReroutingOptionsOf(const Settings& settings) {
  ReroutingOptions options;
  options.steps = static_cast<int>(settings.Integer("rewire-steps"));
  options.rate = settings.Real("rewire-lr");
  const std::string rule = settings.Text("rewire-rule");
  options.rule = rule == "adam"       ? ReroutingRule::kAdam
                 : rule == "evidence" ? ReroutingRule::kEvidence
                                      : ReroutingRule::kAgreement;
  const std::string layers = settings.Text("rewire-layers"), guard = settings.Text("rewire-guard");
  if (!ParseLayers(layers, &options)) {
    return Error{ErrorCode::kInvalidArgument,
                 "--rewire-layers " + layers +
                     ": use all, soft-most, soft-least, or last, most-confident, least-confident with a count such as "
                     "last:3"};
  }
  options.guard = guard != "off";
  if (options.guard && !Parse(guard, &options.guard_margin)) {
    return Error{ErrorCode::kInvalidArgument, "--rewire-guard " + guard + ": use off or a margin in nats per token"};
  }
  return options;
}

}  // namespace pointsman
