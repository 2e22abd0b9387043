// What `generate --explain` shows: for each new token, who moved which experts. Collects the router's trace of the row
// that predicted the token, and turns rows of the memory into documents and, where the memory kept text, excerpts.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory/memory.h"
#include "models/document_texts.h"
#include "models/model.h"
#include "models/row_sources.h"
#include "router/router.h"

namespace pointsman {

struct LayerExplanation {
  int32_t layer = 0;
  float confidence = 0;
  bool written = false;
  std::vector<RowSource> neighbours;
  std::vector<int64_t> before, after;  // the experts chosen, most likely first
};

struct TokenExplanation {
  uint32_t position = 0;
  int32_t token = 0;
  float gate = 0;
  std::vector<LayerExplanation> layers;
};

// `trace`: of the row that predicted `token`, one a layer. `texts` may be null: no excerpts. Pure: any thread.
TokenExplanation ExplainToken(const RoutingTables& tables, const DocumentTexts* texts, int64_t experts_per_token,
                              uint32_t position, int32_t token, float gate, std::span<const RowTrace> trace);
// design.md 10: an item of "explain", with "excerpt" in a neighbour where there is text.
nlohmann::json ToJson(const TokenExplanation& token);

class Explainer {
 public:
  // `model` must outlive this. Without the memory's texts there are no excerpts; `warning` (may be null) says why.
  Explainer(const MoeModel& model, std::shared_ptr<const Memory> memory, std::string* warning = nullptr);

  // `token` was predicted by the last row of `step`; `trace` holds that step's rows.
  void Add(int32_t token, const Step& step, const std::vector<RowTrace>& trace);

  nlohmann::json Json() const;
  std::string Text() const;

 private:
  const MoeModel& model_;
  std::shared_ptr<const Memory> memory_;
  std::optional<DocumentTexts> texts_;
  std::vector<TokenExplanation> tokens_;
};

}  // namespace pointsman
