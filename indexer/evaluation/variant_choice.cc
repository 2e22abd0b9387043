#include "indexer/evaluation/variant_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "indexer/builder.h"

namespace pointsman {
namespace {

bool Has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool NeedsMemory(const std::string& variant) {
  static constexpr std::array kNames{"memory",          "random_neighbours", "shuffled_values", "memory_second_half",
                                     "memory+rewiring", "warm_rewiring",     "memory+output"};
  return std::find(kNames.begin(), kNames.end(), variant) != kNames.end();
}

std::vector<std::string> KnownVariants(bool in_host) { return in_host ? VariantNamesInHost() : VariantNames(); }

}  // namespace

Status CheckVariants(const std::vector<std::string>& asked, bool in_host) {
  const std::vector<std::string> known = KnownVariants(in_host);
  if (asked == std::vector<std::string>{"all"}) return {};
  for (const std::string& name : asked) {
    if (Has(known, name)) continue;
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--variants: '{}' is no variant{}; use all, or some of {}", name,
                             in_host ? " that --capture transformers can make" : "", fmt::join(known, ", "))};
  }
  return {};
}

std::vector<std::string> ChooseVariants(const VariantChoice& choice) {
  const std::vector<std::string> known = KnownVariants(choice.in_host);
  std::vector<std::string> chosen = choice.asked;
  if (chosen == std::vector<std::string>{"all"}) chosen = known;
  // Everything is a difference to frozen, on the same tokens.
  const bool halves = std::any_of(chosen.begin(), chosen.end(), [](const std::string& name) {
    return name.ends_with("rewiring") || name.ends_with("_second_half");
  });
  chosen.emplace_back("frozen");
  if (Has(chosen, "memory")) chosen.push_back(choice.retrained_kind);
  if (halves) chosen.emplace_back("frozen_second_half");
  std::vector<std::string> ordered;
  for (const std::string& name : known) {
    if (Has(chosen, name) && (choice.has_memory || !NeedsMemory(name))) ordered.push_back(name);
  }
  return ordered;
}

bool NeedsReference(const std::string& variant, bool output_published) {
  if (variant == "memory+output") return !output_published;
  static constexpr std::array kNames{"frozen", "oracle", "frozen_second_half", "rewiring"};
  return !NeedsMemory(variant) && std::find(kNames.begin(), kNames.end(), variant) == kNames.end();
}

}  // namespace pointsman
