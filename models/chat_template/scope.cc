#include "models/chat_template/scope.h"

#include <fmt/format.h>

#include "memory/one_line.h"

namespace pointsman::jinja {

void Scope::Set(const std::string& name, Value value) {
  for (auto& [known, old] : variables) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

std::optional<Value> Loop::Pull() {
  if (!ahead.empty()) {
    Value value = std::move(ahead.front());
    ahead.pop_front();
    return value;
  }
  while (next < source.size()) {
    Value value = source[next++];
    if (!accepts || accepts(value)) return value;
  }
  return std::nullopt;
}

const Value* Loop::Peek() {
  if (ahead.empty()) {
    if (auto value = Pull()) ahead.push_front(std::move(*value));
  }
  return ahead.empty() ? nullptr : &ahead.front();
}

int64_t Loop::Length() {
  if (!length && accepts) {
    std::deque<Value> rest;
    while (auto value = Pull()) rest.push_back(std::move(*value));
    ahead = std::move(rest);
    length = index0 + 1 + static_cast<int64_t>(ahead.size());
  }
  return length.value_or(static_cast<int64_t>(source.size()));
}

Value LoopAttribute(Loop& loop, std::string_view name) {
  if (name == "index") return loop.index0 + 1;
  if (name == "index0") return loop.index0;
  if (name == "first") return loop.index0 == 0;
  if (name == "last") return loop.Peek() == nullptr;
  if (name == "length") return loop.Length();
  if (name == "revindex") return loop.Length() - loop.index0;
  if (name == "revindex0") return loop.Length() - loop.index0 - 1;
  if (name == "depth") return int64_t{1};
  if (name == "depth0") return int64_t{0};
  if (name == "previtem") return loop.previous ? *loop.previous : Undefined{.why = "there is no previous item"};
  if (name == "nextitem") return loop.Peek() ? *loop.Peek() : Undefined{.why = "there is no next item"};
  Fail(fmt::format("'loop.{}' is not in the subset of Jinja that is supported", OneLine(name)));
}

}  // namespace pointsman::jinja
