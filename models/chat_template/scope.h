// Where a rendering finds its names, and the variable `loop`.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/chat_template/value.h"

namespace pointsman::jinja {

// Names that a block assigns; what it does not find it looks for in the block around it.
struct Scope {
  explicit Scope(Scope* p) : parent(p) {}

  Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> variables;

  void Set(const std::string& name, Value value);
};

// The variable `loop`. Items that the condition refuses are never seen; the condition is asked as late as in Jinja,
// since what the loop does may change its answer.
struct Loop {
  std::vector<Value> source;
  size_t next = 0;
  std::function<bool(const Value&)> accepts;  // empty: all
  std::deque<Value> ahead;                    // looked at already
  std::optional<Value> previous;
  Value current;
  int64_t index0 = -1;
  std::optional<int64_t> length;

  std::optional<Value> Pull();  // the next item, taken
  const Value* Peek();          // the next item, which stays; nullptr behind the last
  int64_t Length();
};

// loop.index and its like; fails for a name that is not in the subset.
Value LoopAttribute(Loop& loop, std::string_view name);

}  // namespace pointsman::jinja
