// What `generate --explain` shows: for each new token, who moved which experts. Collects the router's trace of the row
// that predicted the token, and turns rows of the memory into documents and, where the memory kept text, excerpts.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "indexer/document_texts.h"
#include "indexer/row_sources.h"
#include "memory/memory.h"
#include "models/model.h"
#include "router/router.h"

namespace pointsman {

class Explainer {
 public:
  // `model` must outlive this. Excerpts are left out, with a warning, if the memory's truth cannot be read.
  Explainer(const MoeModel& model, std::shared_ptr<const Memory> memory);

  // `token` was predicted by the last row of `step`; `trace` holds that step's rows.
  void Add(int32_t token, const Step& step, std::vector<RowTrace> trace);

  nlohmann::json Json() const;  // design.md 10: "explain", with "excerpt" in a neighbour where there is text
  std::string Text() const;

 private:
  struct Layer {
    int32_t layer = 0;
    float confidence = 0;
    bool written = false;
    std::vector<RowSource> neighbours;
    std::vector<int64_t> before, after;  // the experts chosen, most likely first
  };
  struct Token {
    uint32_t position = 0;
    int32_t id = 0;
    float gate = 0;
    std::vector<Layer> layers;
  };

  const MoeModel& model_;
  std::shared_ptr<const Memory> memory_;
  const RoutingTables& tables_;
  std::optional<DocumentTexts> texts_;
  std::vector<Token> tokens_;
};

}  // namespace pointsman
