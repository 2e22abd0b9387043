#include "router/slots.h"

#include <algorithm>
#include <utility>

namespace pointsman {

uint32_t SlotTable::Add(Binding binding) {
  binding.strength = ClampStrength(binding.strength);
  auto slot = std::make_unique<Slot>();
  slot->binding = std::move(binding);
  if (free_.empty()) {
    slots_.push_back(std::move(slot));
    return static_cast<uint32_t>(slots_.size());
  }
  const uint32_t id = free_.back();
  free_.pop_back();
  slots_[id - 1] = std::move(slot);
  return id;
}

void SlotTable::Release(uint32_t id) {
  if (Find(id) == nullptr) return;
  slots_[id - 1].reset();
  free_.push_back(id);
}

Slot* SlotTable::Find(uint32_t id) { return id == 0 || id > slots_.size() ? nullptr : slots_[id - 1].get(); }

const Slot* SlotTable::Find(uint32_t id) const {
  return id == 0 || id > slots_.size() ? nullptr : slots_[id - 1].get();
}

float ClampStrength(float strength) { return strength > 0 ? std::min(strength, 1.0f) : 0.0f; }

}  // namespace pointsman
