/* The C interface as C sees it: what a host in C does, from opening a memory to a routed layer. Called by
 * c_api_test.cc. */
#include <string.h>

#include "models/c_api.h"
#include "router/c_api.h"

/* Routes `rows` tokens of one new sequence through `layer`. Returns a pm_status, with the message in `message`. */
int route_in_c(const char* path, int32_t layer, const int32_t* tokens, size_t rows, const float* hidden,
               size_t hidden_size, float* logits, size_t experts, char* message, size_t capacity) {
  enum { kMostRows = 64 };
  uint32_t slots[kMostRows], positions[kMostRows];
  pm_error error = {0};
  pm_memory* memory = NULL;
  pm_router* router = NULL;
  pm_step* step = NULL;
  const pm_open_options options = {.allow_rejected = 1, .load_to_ram = 0};
  pm_status status = PM_ABI_VERSION == pm_abi_version() ? PM_OK : PM_INTERNAL;
  if (rows > kMostRows) return PM_INVALID_ARGUMENT;
  if (status == PM_OK) status = pm_memory_open(path, &options, &memory, &error);
  if (status == PM_OK) {
    router = pm_router_new();
    const uint32_t slot = pm_router_add_slot(router, memory, NULL, 1.0f, 0);
    pm_memory_close(memory); /* the slot keeps what it needs */
    for (uint32_t i = 0; i < rows; ++i) {
      slots[i] = slot;
      positions[i] = i;
    }
    status = pm_router_begin_step(router, slots, positions, tokens, rows, &step, &error);
  }
  if (status == PM_OK) {
    status = pm_router_route(router, step, layer, hidden, PM_F32, hidden_size, logits, PM_F32, experts, &error);
  }
  strncpy(message, error.message, capacity - 1);
  message[capacity - 1] = 0;
  pm_step_free(step);
  pm_router_free(router);
  return (int)status;
}
