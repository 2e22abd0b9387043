#include "daemon/api/binding.h"

namespace pointsman {

Binding BoundRouting::binding() const {
  return {
      .tables = memory ? memory->loaded->tables : nullptr, .session = session, .strength = strength, .shadow = shadow};
}

std::variant<BoundRouting, ApiError> BindRouting(ApiContext& context, const Principal& principal,
                                                 const RoutingChoice& choice) {
  BoundRouting bound;
  std::string id = choice.memory;
  if (!choice.session.empty()) {
    const Result<Session> session = context.sessions.Find(principal.name, choice.session, NowUnixSeconds());
    if (!session.ok()) return ApiError{ApiCode::kNotFound, session.error().message, "session"};
    bound.session = session.value().vectors;
    bound.session_id = choice.session;
    if (id.empty()) id = session.value().memory;
  }
  const bool named = !id.empty();
  if (!named) id = context.options.default_memory;
  if (!choice.frozen && !id.empty() && (named || principal.MayUse(id))) {
    auto found = FindMemory(context, principal, id);
    if (auto* memory = std::get_if<MemoryUse>(&found)) {
      // Switched off counts as frozen, so that an operator's switch needs no client to change.
      if (!memory->state->disabled && !context.disabled) bound.memory = std::move(*memory);
    } else if (named) {
      return std::get<ApiError>(found);
    }  // a default that was unloaded: frozen
  }
  if (context.disabled) bound.session = nullptr;
  if (bound.memory) {
    bound.strength = static_cast<float>(choice.strength.value_or(bound.memory->loaded->settings.strength));
    bound.shadow = bound.memory->state->shadow;
  }
  bound.shadow = bound.shadow || choice.shadow || context.shadow;
  return bound;
}

}  // namespace pointsman
