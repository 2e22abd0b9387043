#include "adapt/rerouting_options.h"

#include <charconv>

namespace pointsman {

bool ParseReroutedLayers(std::string_view text, ReroutingOptions* options) {
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
  const std::string_view count = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(count.data(), count.data() + count.size(), options->layer_count);
  return error == std::errc() && end == count.data() + count.size() && options->layer_count > 0;
}

bool ParseReroutingRule(std::string_view text, ReroutingOptions* options) {
  if (text == "adam") {
    options->rule = ReroutingRule::kAdam;
  } else if (text == "evidence") {
    options->rule = ReroutingRule::kEvidence;
  } else if (text == "agreement") {
    options->rule = ReroutingRule::kAgreement;
  } else {
    return false;
  }
  return true;
}

}  // namespace pointsman
