// The live sequences of a Router: what each is bound to and the state of its gate. Ids start at 1 (0 is the frozen
// router), a released id is given out again. One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "router/context_gate.h"
#include "router/router.h"

namespace pointsman {

struct Slot {
  Binding binding;
  GateState gate;
  uint32_t length = 0;  // positions announced by BeginStep so far
  uint64_t step = 0;    // the last step with rows of this slot; tells a reused id from the sequence it had before
};

class SlotTable {
 public:
  uint32_t Add(Binding binding);
  void Release(uint32_t id);
  // nullptr when no such slot is live.
  Slot* Find(uint32_t id);
  const Slot* Find(uint32_t id) const;
  // Every live id is below this.
  uint32_t bound() const { return static_cast<uint32_t>(slots_.size()) + 1; }

 private:
  std::vector<std::unique_ptr<Slot>> slots_;  // by id - 1
  std::vector<uint32_t> free_;
};

// Strengths outside 0..1 are cut off; NaN is 0.
float ClampStrength(float strength);

}  // namespace pointsman
