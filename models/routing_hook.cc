#include "models/routing_hook.h"

namespace pointsman {

StepInfo DescribeStep(const at::Tensor& ids, const std::vector<uint32_t>& slots, int64_t past) {
  const at::Tensor contiguous = ids.contiguous();
  const int64_t length = ids.size(1), rows = ids.size(0) * length;
  StepInfo step;
  step.slots.resize(rows);
  step.positions.resize(rows);
  step.tokens.resize(rows);
  for (int64_t row = 0; row < rows; ++row) {
    step.slots[row] = slots.empty() ? 0 : slots[row / length];
    step.positions[row] = static_cast<uint32_t>(past + row % length);
    step.tokens[row] = static_cast<int32_t>(contiguous.const_data_ptr<int64_t>()[row]);
    if (row % length == length - 1) step.output_rows.push_back(static_cast<uint32_t>(row));
  }
  return step;
}

}  // namespace pointsman
