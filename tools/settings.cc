#include "tools/settings.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "memory/nearest_word.h"

namespace pointsman {
namespace {

Error WrongUse(std::string message) { return Error{ErrorCode::kInvalidArgument, std::move(message)}; }

bool IsList(OptionKind kind) {
  return kind == OptionKind::kPaths || kind == OptionKind::kTexts || kind == OptionKind::kNames;
}

std::string DidYouMean(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string nearest = NearestWord(word, candidates);
  return nearest.empty() ? "see pointsman config for the known ones" : fmt::format("did you mean {}?", nearest);
}

std::optional<std::string> ScalarText(const toml::node& node) {
  if (const auto text = node.value_exact<std::string>()) return *text;
  if (const auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
  if (const auto number = node.value_exact<int64_t>()) return fmt::format("{}", *number);
  if (const auto real = node.value_exact<double>()) return fmt::format("{}", *real);
  return std::nullopt;
}

// Keys of the table that a file may set for `command_key` (any command when empty).
std::vector<std::string> FileKeys(std::string_view command_key) {
  std::vector<std::string> keys;
  for (const OptionSpec& option : AllOptions()) {
    if (option.positional || option.name == "config") continue;
    if (command_key.empty() || BelongsTo(option, command_key)) keys.emplace_back(option.name);
  }
  return keys;
}

Status ReadTable(const toml::table& table, std::string_view command_key, const std::filesystem::path& path,
                 RawOptions& out) {
  const std::vector<std::string> known = FileKeys(command_key);
  for (const auto& [key_node, node] : table) {
    const std::string key{key_node.str()};
    if (command_key.empty() && node.is_table()) continue;  // a section
    const auto line = node.source().begin.line;
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return WrongUse(fmt::format("{}:{}: unknown key '{}'; {}", path.string(), line, key, DidYouMean(key, known)));
    }
    std::vector<std::string> values;
    if (const toml::array* array = node.as_array()) {
      for (const toml::node& element : *array) {
        if (auto text = ScalarText(element)) values.push_back(std::move(*text));
      }
      if (values.size() != array->size()) values.clear();
    } else if (auto text = ScalarText(node)) {
      values.push_back(std::move(*text));
    }
    if (values.empty()) {
      return WrongUse(fmt::format("{}:{}: '{}' must be a text, a number, true, false or a list of texts", path.string(),
                                  line, key));
    }
    out[key] = std::move(values);
  }
  return {};
}

// Turns what a source said into the option's values, or says what is wrong with it. `origin` is the user's spelling.
Status Check(const OptionSpec& option, std::vector<std::string>& values, const std::string& origin) {
  if (option.kind == OptionKind::kNames) {
    std::vector<std::string> names;
    for (const std::string& value : values) {
      for (std::string& name : Split(value, ',')) names.push_back(std::move(name));
    }
    values = std::move(names);
  }
  if (!IsList(option.kind) && values.size() != 1) return WrongUse(fmt::format("{}: give one value", origin));
  if (IsList(option.kind) && values.empty()) return WrongUse(fmt::format("{}: give at least one value", origin));
  const std::string& value = values.front();
  const char* const end = value.data() + value.size();
  switch (option.kind) {
    case OptionKind::kInteger: {
      int64_t number = 0;
      const auto [stop, failure] = std::from_chars(value.data(), end, number);
      if (failure != std::errc() || stop != end) {
        return WrongUse(fmt::format("{}: '{}' is not a whole number", origin, value));
      }
      if (static_cast<double>(number) < option.min || static_cast<double>(number) > option.max) {
        return WrongUse(
            fmt::format("{}: {} is out of range; at least {}, at most {}", origin, value, option.min, option.max));
      }
      break;
    }
    case OptionKind::kReal: {
      double number = 0;
      const auto [stop, failure] = std::from_chars(value.data(), end, number);
      if (failure != std::errc() || stop != end || !std::isfinite(number)) {
        return WrongUse(fmt::format("{}: '{}' is not a number", origin, value));
      }
      if (number < option.min || number > option.max) {
        return WrongUse(
            fmt::format("{}: {} is out of range; at least {}, at most {}", origin, value, option.min, option.max));
      }
      break;
    }
    case OptionKind::kFlag:
      if (value != "true" && value != "false") return WrongUse(fmt::format("{}: use true or false", origin));
      break;
    case OptionKind::kChoice: {
      const std::vector<std::string> choices = Split(option.choices, ' ');
      if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
        return WrongUse(
            fmt::format("{}: '{}' is not in this version; use {}", origin, value, fmt::join(choices, ", ")));
      }
      break;
    }
    case OptionKind::kPath:
    case OptionKind::kPaths:
      for (const std::string& path : values) {
        if (path.empty()) return WrongUse(fmt::format("{}: an empty path; give a file or a directory", origin));
      }
      break;
    case OptionKind::kText:
    case OptionKind::kTexts:
    case OptionKind::kNames:
      break;
  }
  return {};
}

}  // namespace

Result<ConfigFile> ReadConfigFile(const std::filesystem::path& path, const std::vector<std::string>& command_keys) {
  std::error_code failure;
  if (!std::filesystem::is_regular_file(path, failure)) {
    return Error{ErrorCode::kNotFound, fmt::format("{}: no such configuration file; see --config", path.string())};
  }
  ConfigFile file{.path = path, .top = {}, .sections = {}};
  toml::table table;
  try {
    table = toml::parse_file(path.string());
  } catch (const toml::parse_error& error) {
    return WrongUse(
        fmt::format("{}:{}: not valid TOML: {}", path.string(), error.source().begin.line, error.description()));
  }
  POINTSMAN_CHECK_OK(ReadTable(table, "", path, file.top));
  for (const auto& [key_node, node] : table) {
    const toml::table* section = node.as_table();
    if (section == nullptr) continue;
    const std::string key{key_node.str()};
    if (std::find(command_keys.begin(), command_keys.end(), key) == command_keys.end()) {
      return WrongUse(fmt::format("{}:{}: unknown section [{}]; {}", path.string(), node.source().begin.line, key,
                                  DidYouMean(key, command_keys)));
    }
    POINTSMAN_CHECK_OK(ReadTable(*section, key, path, file.sections[key]));
  }
  return file;
}

RawOptions ReadEnvironment() {
  RawOptions found;
  for (const OptionSpec& option : AllOptions()) {
    if (option.positional) continue;
    const char* const value = std::getenv(EnvironmentName(option).c_str());
    if (value == nullptr) continue;
    found[std::string(option.name)] =
        option.kind == OptionKind::kPaths ? Split(value, ':') : std::vector<std::string>{value};
  }
  return found;
}

void WarnOfUnknownEnvironment() {
  std::vector<std::string> known = {"POINTSMAN_TORCH_PIP_ARGS", "POINTSMAN_SETUP_PYTHON"};  // of tools/setup
  for (const OptionSpec& option : AllOptions()) {
    if (!option.positional) known.push_back(EnvironmentName(option));
  }
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    const std::string name{text.substr(0, text.find('='))};
    if (!name.starts_with("POINTSMAN_") || std::find(known.begin(), known.end(), name) != known.end()) continue;
    spdlog::warn("the environment's {} is not an option and has no effect; {}", name, DidYouMean(name, known));
  }
}

Result<Settings> Settings::Resolve(std::string_view command_key, const RawOptions& flags, const RawOptions& environment,
                                   const ConfigFile* file) {
  Settings settings;
  settings.command_key_ = command_key;
  static const RawOptions kNone;
  const RawOptions* section = &kNone;
  if (file != nullptr && file->sections.contains(command_key)) section = &file->sections.find(command_key)->second;
  for (const OptionSpec* option : OptionsOf(command_key)) {
    Setting setting{.option = option, .values = {}, .source = "default"};
    std::string origin;
    if (const auto flag = flags.find(option->name); flag != flags.end()) {
      setting.values = flag->second;
      setting.source = "flag";
      origin = option->positional ? std::string(option->value_name) : fmt::format("--{}", option->name);
    } else if (const auto variable = environment.find(option->name);
               variable != environment.end() && !option->positional) {
      setting.values = variable->second;
      setting.source = fmt::format("environment {}", EnvironmentName(*option));
      origin = EnvironmentName(*option);
    } else if (file != nullptr && !option->positional &&
               (section->contains(option->name) || file->top.contains(option->name))) {
      const RawOptions& from = section->contains(option->name) ? *section : file->top;
      setting.values = from.find(option->name)->second;
      setting.source = fmt::format("file {}", file->path.string());
      origin = fmt::format("{}: {}", file->path.string(), option->name);
    } else if (option->kind == OptionKind::kFlag) {
      setting.values = {"false"};
    } else if (!option->fallback.empty()) {
      setting.values = {std::string(option->fallback)};
    }
    if (!setting.values.empty() || setting.source != "default") {
      POINTSMAN_CHECK_OK(Check(*option, setting.values, origin));
    }
    settings.settings_.push_back(std::move(setting));
  }
  return settings;
}

Status Settings::CheckRequired() const {
  for (const Setting& setting : settings_) {
    const OptionSpec& option = *setting.option;
    if (!option.required || !setting.values.empty()) continue;
    if (option.positional) return WrongUse(fmt::format("{} is missing: give {}", option.value_name, option.help));
    return WrongUse(fmt::format("--{} {} is missing: give {}", option.name, option.value_name, option.help));
  }
  return {};
}

const Setting& Settings::Get(std::string_view name) const {
  return *std::find_if(settings_.begin(), settings_.end(),
                       [&](const Setting& setting) { return setting.option->name == name; });
}

bool Settings::Knows(std::string_view name) const {
  return std::any_of(settings_.begin(), settings_.end(),
                     [&](const Setting& setting) { return setting.option->name == name; });
}

bool Settings::Has(std::string_view name) const { return !Get(name).values.empty(); }

std::string Settings::Text(std::string_view name) const { return Has(name) ? Get(name).values.front() : std::string(); }

std::filesystem::path Settings::Path(std::string_view name) const { return Text(name); }

std::vector<std::string> Settings::Texts(std::string_view name) const { return Get(name).values; }

std::vector<std::filesystem::path> Settings::Paths(std::string_view name) const {
  const std::vector<std::string>& values = Get(name).values;
  return {values.begin(), values.end()};
}

int64_t Settings::Integer(std::string_view name) const { return std::stoll(Text(name)); }

double Settings::Real(std::string_view name) const { return std::stod(Text(name)); }

bool Settings::Flag(std::string_view name) const { return Text(name) == "true"; }

}  // namespace pointsman
