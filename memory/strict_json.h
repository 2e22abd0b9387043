// JSON that a stranger wrote, parsed within limits: no key twice, no nesting or number of values beyond what was
// expected, finite numbers, valid UTF-8. Pure function; never throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <variant>

namespace pointsman {

struct JsonLimits {
  uint32_t depth = 32;                                     // arrays and objects inside each other
  uint64_t values = std::numeric_limits<uint64_t>::max();  // numbers, strings, literals, arrays, objects together
};

enum class JsonFault : uint8_t {
  kSyntax,        // not JSON, not UTF-8
  kNumber,        // a number that no double holds
  kDuplicateKey,  // what the reader would make of it depends on the reader
  kDepth,
  kValues,
};

struct JsonProblem {
  JsonFault fault = JsonFault::kSyntax;
  size_t byte = 0;   // where it was noticed, from 1; 0 for limits and keys
  std::string what;  // one line without the document's name: "not valid JSON at byte 9: unexpected '}'"
};

std::variant<nlohmann::json, JsonProblem> ParseStrictJson(std::string_view text, const JsonLimits& limits = {});

}  // namespace pointsman
