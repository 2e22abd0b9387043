// Methods of str and dict.
#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "models/chat_template/limits.h"
#include "models/chat_template/operations.h"
#include "models/chat_template/strings.h"
#include "models/tokenizer/unicode.h"

namespace pointsman::jinja {
namespace {

const Text& RequireText(const Value& value, std::string_view method) {
  const Text* text = value.AsText();
  if (text == nullptr) Fail(fmt::format("{}: a string is needed, not {}", method, TypeName(value)));
  return *text;
}

Value StripBoth(Budget& budget, const Value& receiver, const Arguments& a) {
  return MakeText(budget, Strip(budget, *receiver.AsText(), a[0], true, true));
}
Value StripLeft(Budget& budget, const Value& receiver, const Arguments& a) {
  return MakeText(budget, Strip(budget, *receiver.AsText(), a[0], true, false));
}
Value StripRight(Budget& budget, const Value& receiver, const Arguments& a) {
  return MakeText(budget, Strip(budget, *receiver.AsText(), a[0], false, true));
}

std::vector<Value> SplitAtSpace(Budget& budget, const Text& text, int64_t most) {
  std::vector<Value> parts;
  const std::string_view all = text.bytes;
  size_t at = SpaceAtStart(all);
  while (at < all.size()) {
    if (most >= 0 && static_cast<int64_t>(parts.size()) >= most) {
      parts.push_back(MakeText(budget, text.Slice(at, all.size())));
      break;
    }
    size_t end = at;
    while (end < all.size()) {
      const DecodedCodePoint decoded = DecodeUtf8(all, end);
      if (IsPythonSpace(decoded.value)) break;
      end += decoded.bytes;
    }
    parts.push_back(MakeText(budget, text.Slice(at, end)));
    at = end + SpaceAtStart(all.substr(end));
  }
  return parts;
}

std::vector<Value> SplitAt(Budget& budget, const Text& text, const Text& separator, int64_t most) {
  if (separator.bytes.empty()) Fail("split: the separator is empty");
  std::vector<Value> parts;
  size_t at = 0;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t found = text.bytes.find(separator.bytes, at);
    if (found == std::string::npos) break;
    parts.push_back(MakeText(budget, text.Slice(at, found)));
    at = found + separator.bytes.size();
    if (parts.size() > kMostItems) Fail("split: too many parts");
  }
  parts.push_back(MakeText(budget, text.Slice(at, text.bytes.size())));
  return parts;
}

std::vector<Value> SplitFromEnd(Budget& budget, const Text& text, const Text& separator, int64_t most) {
  if (separator.bytes.empty()) Fail("rsplit: the separator is empty");
  std::vector<Value> parts;
  size_t end = text.bytes.size();
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    if (end < separator.bytes.size()) break;
    const size_t found = text.bytes.rfind(separator.bytes, end - separator.bytes.size());
    if (found == std::string::npos) break;
    parts.push_back(MakeText(budget, text.Slice(found + separator.bytes.size(), end)));
    end = found;
    if (parts.size() > kMostItems) Fail("rsplit: too many parts");
  }
  parts.push_back(MakeText(budget, text.Slice(0, end)));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

bool Given(const std::optional<Value>& value) { return value && !value->Is<None>(); }

Value Split(Budget& budget, const Value& receiver, const Arguments& a) {
  const Text& text = *receiver.AsText();
  budget.Read(text.bytes.size());
  const int64_t most = a[1] ? RequireInteger(*a[1], "split") : -1;
  return MakeList(budget, Given(a[0]) ? SplitAt(budget, text, RequireText(*a[0], "split"), most)
                                      : SplitAtSpace(budget, text, most));
}
Value SplitRight(Budget& budget, const Value& receiver, const Arguments& a) {
  if (!Given(a[0])) Fail("rsplit without a separator is not in the subset");
  const Text& text = *receiver.AsText();
  budget.Read(text.bytes.size());
  const int64_t most = a[1] ? RequireInteger(*a[1], "rsplit") : -1;
  return MakeList(budget, SplitFromEnd(budget, text, RequireText(*a[0], "rsplit"), most));
}

// startswith and endswith take one string or a tuple of them.
template <typename Check>
bool AnyOf(Budget& budget, const Value& wanted, std::string_view method, Check check) {
  const List* list = wanted.AsList();
  if (list == nullptr || list->kind != ListKind::kTuple) return check(RequireText(wanted, method).bytes);
  budget.Step(list->items.size());
  return std::any_of(list->items.begin(), list->items.end(),
                     [&](const Value& one) { return check(RequireText(one, method).bytes); });
}
Value StartsWith(Budget& budget, const Value& receiver, const Arguments& a) {
  return AnyOf(budget, *a[0], "startswith",
               [&](const std::string& part) { return receiver.AsText()->bytes.starts_with(part); });
}
Value EndsWith(Budget& budget, const Value& receiver, const Arguments& a) {
  return AnyOf(budget, *a[0], "endswith",
               [&](const std::string& part) { return receiver.AsText()->bytes.ends_with(part); });
}

Value UpperCase(Budget& budget, const Value& receiver, const Arguments&) {
  return MakeText(budget, Upper(*receiver.AsText()));
}
Value LowerCase(Budget& budget, const Value& receiver, const Arguments&) {
  return MakeText(budget, Lower(*receiver.AsText()));
}
Value Capital(Budget& budget, const Value& receiver, const Arguments&) {
  return MakeText(budget, Capitalize(*receiver.AsText()));
}
Value Titled(Budget& budget, const Value& receiver, const Arguments&) {
  return MakeText(budget, TitleWords(*receiver.AsText()));
}
Value Replace(Budget& budget, const Value& receiver, const Arguments& a) {
  return MakeText(budget, ReplaceAll(budget, *receiver.AsText(), RequireText(*a[0], "replace"),
                                     RequireText(*a[1], "replace"), a[2] ? RequireInteger(*a[2], "replace") : -1));
}
Value Join(Budget& budget, const Value& receiver, const Arguments& a) {
  if (a[0]->Is<Undefined>() || a[0]->AsText() || a[0]->AsList() || a[0]->AsDict()) {
    return MakeText(budget, JoinTexts(budget, *receiver.AsText(), Items(budget, *a[0]), true));
  }
  Fail(fmt::format("join: a {} is not iterable", TypeName(*a[0])));
}
Value Find(Budget& budget, const Value& receiver, const Arguments& a) {
  const std::string& text = receiver.AsText()->bytes;
  budget.Read(text.size());
  const size_t found = text.find(RequireText(*a[0], "find").bytes);
  if (found == std::string::npos) return int64_t{-1};
  return static_cast<int64_t>(CharacterStarts(std::string_view(text).substr(0, found)).size()) - 1;
}
Value CountOf(Budget& budget, const Value& receiver, const Arguments& a) {
  const Text& text = *receiver.AsText();
  const std::string& part = RequireText(*a[0], "count").bytes;
  budget.Read(text.bytes.size());
  if (part.empty()) return static_cast<int64_t>(CharacterStarts(text.bytes).size());
  int64_t count = 0;
  for (size_t at = text.bytes.find(part); at != std::string::npos; at = text.bytes.find(part, at + part.size()))
    ++count;
  return count;
}
Value WithoutPrefix(Budget& budget, const Value& receiver, const Arguments& a) {
  const Text& text = *receiver.AsText();
  const std::string& part = RequireText(*a[0], "removeprefix").bytes;
  return MakeText(budget, text.bytes.starts_with(part) ? text.Slice(part.size(), text.bytes.size()) : text);
}
Value WithoutSuffix(Budget& budget, const Value& receiver, const Arguments& a) {
  const Text& text = *receiver.AsText();
  const std::string& part = RequireText(*a[0], "removesuffix").bytes;
  return MakeText(budget, text.bytes.ends_with(part) ? text.Slice(0, text.bytes.size() - part.size()) : text);
}

Value Get(Budget& budget, const Value& receiver, const Arguments& a) {
  budget.Step(1 + receiver.AsDict()->members.size() / 8);
  const Value* found = a[0]->AsText() ? receiver.AsDict()->Find(a[0]->AsText()->bytes) : nullptr;
  if (found) return *found;
  return a[1] ? *a[1] : Value(None{});
}
Value Pairs(Budget& budget, const Value& receiver, const Arguments&) {
  return MakeList(budget, DictPairs(budget, *receiver.AsDict()), ListKind::kView);
}
Value Keys(Budget& budget, const Value& receiver, const Arguments&) {
  return MakeList(budget, Items(budget, receiver), ListKind::kView);
}
Value Values(Budget& budget, const Value& receiver, const Arguments&) {
  std::vector<Value> values;
  for (const auto& [key, value] : receiver.AsDict()->members) values.push_back(value);
  return MakeList(budget, std::move(values), ListKind::kView);
}

constexpr std::array<MethodSpec, 21> kMethods = {{
    {"strip", "chars", 0, false, false, StripBoth},
    {"lstrip", "chars", 0, false, false, StripLeft},
    {"rstrip", "chars", 0, false, false, StripRight},
    {"split", "sep maxsplit", 0, true, false, Split},
    {"rsplit", "sep maxsplit", 0, true, false, SplitRight},
    {"startswith", "prefix", 1, false, false, StartsWith},
    {"endswith", "suffix", 1, false, false, EndsWith},
    {"upper", "", 0, false, false, UpperCase},
    {"lower", "", 0, false, false, LowerCase},
    {"capitalize", "", 0, false, false, Capital},
    {"title", "", 0, false, false, Titled},
    {"replace", "old new count", 2, false, false, Replace},
    {"join", "items", 1, false, false, Join},
    {"find", "sub", 1, false, false, Find},
    {"count", "sub", 1, false, false, CountOf},
    {"removeprefix", "prefix", 1, false, false, WithoutPrefix},
    {"removesuffix", "suffix", 1, false, false, WithoutSuffix},
    {"get", "key default", 1, false, true, Get},
    {"items", "", 0, false, true, Pairs},
    {"keys", "", 0, false, true, Keys},
    {"values", "", 0, false, true, Values},
}};

}  // namespace

Text Strip(Budget& budget, const Text& text, const std::optional<Value>& characters, bool left, bool right) {
  budget.Read(text.bytes.size());
  size_t begin = 0, end = text.bytes.size();
  if (!Given(characters)) {
    if (left) begin = SpaceAtStart(text.bytes);
    if (right) end = std::max(begin, SpaceAtEnd(text.bytes));
    return text.Slice(begin, end);
  }
  const std::string& set = RequireText(*characters, "strip").bytes;
  budget.Read(set.size());
  const auto taken = [&](size_t at, size_t bytes) {
    // Whole characters: a code point's bytes are found in valid UTF-8 only where it stands.
    budget.Step(1 + set.size() / kBytesPerStep);
    return set.find(text.bytes.substr(at, bytes)) != std::string::npos;
  };
  while (left && begin < end) {
    const size_t bytes = DecodeUtf8(text.bytes, begin).bytes;
    if (!taken(begin, bytes)) break;
    begin += bytes;
  }
  while (right && end > begin) {
    const size_t bytes = DecodeUtf8Before(text.bytes, end).bytes;
    if (!taken(end - bytes, bytes)) break;
    end -= bytes;
  }
  return text.Slice(begin, end);
}

Text ReplaceAll(Budget& budget, const Text& text, const Text& old, const Text& by, int64_t most) {
  budget.Read(text.bytes.size());
  if (old.bytes.empty()) Fail("replacing the empty string is not in the subset");
  Text out;
  size_t at = 0;
  for (int64_t done = 0; most < 0 || done < most; ++done) {
    const size_t found = text.bytes.find(old.bytes, at);
    if (found == std::string::npos) break;
    out.Append(text, at, found);
    out.Append(by);
    at = found + old.bytes.size();
    if (out.bytes.size() > kMostTextBytes) Fail("text longer than 8 MiB");
  }
  out.Append(text, at, text.bytes.size());
  return out;
}

Text JoinTexts(Budget& budget, const Text& glue, const std::vector<Value>& items, bool strict) {
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.Append(glue);
    out.Append(strict ? RequireText(items[i], "join") : ToText(budget, items[i]));
    budget.Step();
    if (out.bytes.size() > kMostTextBytes) Fail("text longer than 8 MiB");
  }
  return out;
}

std::vector<Value> DictPairs(Budget& budget, const Dict& dict) {
  std::vector<Value> pairs;
  for (const auto& [key, value] : dict.members) {
    pairs.push_back(MakeList(budget, {MakeText(budget, key), value}, ListKind::kTuple));
  }
  return pairs;
}

int64_t RequireInteger(const Value& value, std::string_view what) {
  const auto number = value.AsInteger();
  if (!number) Fail(fmt::format("{}: a whole number is needed, not {}", what, TypeName(value)));
  return *number;
}

const MethodSpec* FindMethod(std::string_view name) {
  const auto* found = std::find_if(kMethods.begin(), kMethods.end(), [&](const auto& m) { return m.name == name; });
  return found == kMethods.end() ? nullptr : found;
}

}  // namespace pointsman::jinja
