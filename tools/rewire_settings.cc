#include "tools/rewire_settings.h"

#include <charconv>
#include <string>
#include <string_view>

namespace pointsman {
namespace {

bool ParseReal(std::string_view text, double* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

Result<ReroutingOptions> ReroutingOptionsOf(const Settings& settings) {
  ReroutingOptions options;
  options.steps = static_cast<int>(settings.Integer("rewire-steps"));
  options.rate = settings.Real("rewire-lr");
  ParseReroutingRule(settings.Text("rewire-rule"), &options);  // one of its choices
  const std::string layers = settings.Text("rewire-layers"), guard = settings.Text("rewire-guard");
  if (!ParseReroutedLayers(layers, &options)) {
    return Error{ErrorCode::kInvalidArgument,
                 "--rewire-layers " + layers + ": use " + std::string(kReroutedLayersHelp)};
  }
  options.guard = guard != "off";
  if (options.guard && !ParseReal(guard, &options.guard_margin)) {
    return Error{ErrorCode::kInvalidArgument, "--rewire-guard " + guard + ": use off or a margin in nats per token"};
  }
  const std::string stop = settings.Text("rewire-stop");
  options.stop_early = stop != "off";
  if (options.stop_early && !ParseReal(stop, &options.stop_below)) {
    return Error{ErrorCode::kInvalidArgument, "--rewire-stop " + stop + ": use off or nats per token, such as 0.001"};
  }
  return options;
}

}  // namespace pointsman
