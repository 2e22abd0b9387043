// /v1/memories/{id}/drift and /diagnosis: is live text still what the memory was built for, and if the memory does not
// help, why, and what to do next.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "daemon/api/await.h"
#include "daemon/api/context.h"
#include "daemon/live_window.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

json SignalJson(const RoutingSignal& signal) {
  return {{"tokens", signal.tokens},
          {"open_share", signal.open_share},
          {"gate_mean", signal.gate_mean},
          {"confidence_mean", signal.confidence_mean},
          {"similarity_mean", signal.similarity_mean}};
}

json DriftJson(const MemoryUse& use) {
  const LiveSignal live = use.state->window.Read();
  const auto& calibration = use.loaded->memory->manifest().calibration;
  const Drift drift = DriftOf(live.all, calibration);
  json layers = json::array();
  for (const LayerLive& layer : live.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"confidence_mean", layer.confidence_mean},
                      {"similarity_mean", layer.similarity_mean},
                      {"changed_share", layer.changed_share}});
  }
  return {{"id", use.loaded->id},
          {"window_tokens", live.all.tokens},
          {"live", SignalJson(live.all)},
          {"calibration", calibration ? SignalJson(*calibration) : json()},
          {"layers", std::move(layers)},
          {"alarm", drift.alarm},
          {"reason", drift.reason.empty() ? json() : json(drift.reason)}};
}

// Collects what stands between a memory and its gain, most weighty first.
class Findings {
 public:
  void Add(const char* what, json value, json expected, std::string next) {
    list_.push_back(
        {{"what", what}, {"value", std::move(value)}, {"expected", std::move(expected)}, {"next", std::move(next)}});
  }
  json Take() { return std::move(list_); }
  bool empty() const { return list_.empty(); }
  std::string FirstStep() const { return list_.front()["next"].get<std::string>(); }

 private:
  json list_ = json::array();
};

void CheckSwitches(const ApiContext& context, const MemoryUse& use, Findings& findings) {
  if (context.disabled) {
    findings.Add("kill_switch", true, false, "all routing is off: PATCH /v1/routing with {\"disabled\": false}");
  }
  if (use.state->disabled) {
    findings.Add("memory_disabled", true, false,
                 "the memory is off: PATCH /v1/memories/" + use.loaded->id + " with {\"disabled\": false}");
  }
  if (context.shadow || use.state->shadow) {
    findings.Add("shadow", true, false, "shadow mode computes and changes nothing: PATCH it to false");
  }
  if (use.loaded->settings.strength < 1) {
    findings.Add("strength", use.loaded->settings.strength, 1,
                 "the memory's change is scaled down: send strength 1, or load it so");
  }
}

void CheckVerdict(const VerdictSummary& verdict, Findings& findings) {
  if (verdict.verdict == "reject") {
    findings.Add("verdict", "reject", "adopt",
                 "the memory did not help its own test documents: `pointsman probe` tells what routing could gain on "
                 "this corpus at all");
  } else if (verdict.verdict == "inconclusive" || verdict.verdict == "absent") {
    findings.Add("verdict", verdict.verdict, "adopt",
                 "not measured well enough: `pointsman eval --memory MEM` with more test documents");
  }
  if (verdict.stale) {
    findings.Add("verdict_stale", true, false, "the memory changed since its verdict: `pointsman eval --memory MEM`");
  }
}

void CheckLive(const MemoryUse& use, const LiveSignal& live, Findings& findings) {
  const auto& calibration = use.loaded->memory->manifest().calibration;
  if (use.state->requests == 0) {
    findings.Add("requests", 0, "> 0",
                 "no request used this memory: name it in `memory`, or make it the default with --default-memory");
    return;
  }
  if (live.all.tokens < kDriftTokens) {
    findings.Add("window_tokens", live.all.tokens, kDriftTokens, "too few tokens to tell: send more requests");
    return;
  }
  const Drift drift = DriftOf(live.all, calibration);
  if (drift.alarm) {
    findings.Add("drift", live.all.open_share, calibration->open_share,
                 drift.reason + "; add documents like today's requests, or build a memory of them");
  } else if (live.all.open_share == 0) {
    findings.Add(
        "open_share", 0, "> 0",
        "the gate never opens: this text is not like the corpus; `pointsman generate --explain` shows the gate "
        "by token");
  }
  const auto unchanged =
      std::ranges::count_if(live.layers, [](const LayerLive& layer) { return layer.changed_share < 0.01; });
  if (!live.layers.empty() && 2 * static_cast<size_t>(unchanged) > live.layers.size()) {
    findings.Add("layers_without_effect", unchanged, fmt::format("< {}", live.layers.size() / 2),
                 "most layers keep the experts that they had: the memory's changes are too weak for this text");
  }
}

json DiagnosisJson(const ApiContext& context, const MemoryUse& use) {
  const VerdictSummary& verdict = use.loaded->memory->manifest().verdict;
  const LiveSignal live = use.state->window.Read();
  Findings findings;
  CheckSwitches(context, use, findings);
  CheckVerdict(verdict, findings);
  CheckLive(use, live, findings);
  std::string summary = "nothing stands in the way: the memory routes as it did when it was judged";
  if (!findings.empty()) summary = findings.FirstStep();
  json body = DriftJson(use);
  body["summary"] = std::move(summary);
  body["findings"] = findings.Take();
  // What the verdict measured on held-out documents; how much more routing could gain only `probe` can tell.
  body["measured_gain"] = verdict.verdict == "absent" ? json() : json(verdict.gain);
  return body;
}

asio::awaitable<HttpResponse> Answer(ApiContext& context, const HttpRequest& http,
                                     json (*make)(const ApiContext&, const MemoryUse&)) {
  const auto found = FindMemory(context, http.principal, http.parameters.at("id"));
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  co_return JsonResponse(make(context, std::get<MemoryUse>(found)));
}

}  // namespace

void AddDiagnosisRoutes(PathRouter& router, ApiContext& context) {
  const auto add = [&](const char* pattern, json (*make)(const ApiContext&, const MemoryUse&)) {
    router.Add({.method = "GET",
                .pattern = pattern,
                .access = Access::kRead,
                .handler = [&context, make](const HttpRequest& request) { return Answer(context, request, make); }});
  };
  add("/v1/memories/{id}/drift", [](const ApiContext&, const MemoryUse& use) { return DriftJson(use); });
  add("/v1/memories/{id}/diagnosis", DiagnosisJson);
}

}  // namespace pointsman
