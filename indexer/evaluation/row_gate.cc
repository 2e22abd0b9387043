#include "indexer/evaluation/row_gate.h"

#include "router/context_gate.h"

namespace pointsman {

std::vector<float> GateOfRows(const GateView& gate, const StepInfo& step) {
  std::vector<float> values;
  values.reserve(step.tokens.size());
  GateState state;
  for (size_t row = 0; row < step.tokens.size(); ++row) {
    values.push_back(state.Append(gate, step.positions[row], step.tokens[row]));
  }
  return values;
}

}  // namespace pointsman
