// pointsman config: every option of every command, its value, and where the value came from. The text is a TOML file.
#include <fmt/format.h>

#include <optional>

#include "tools/command.h"

namespace pointsman {
namespace {

std::string TomlValue(const Setting& setting) {
  const auto scalar = [&](const std::string& value) {
    const bool bare = setting.option->kind == OptionKind::kInteger || setting.option->kind == OptionKind::kReal ||
                      setting.option->kind == OptionKind::kFlag;
    return bare ? value : nlohmann::json(value).dump();  // JSON's escapes are those of TOML's basic strings
  };
  if (setting.values.size() == 1) return scalar(setting.values.front());
  std::string list;
  for (const std::string& value : setting.values) list += (list.empty() ? "" : ", ") + scalar(value);
  return fmt::format("[{}]", list);
}

std::string TomlLine(const Setting& setting) {
  std::string comment{setting.option->help};
  if (!setting.option->choices.empty()) comment += fmt::format(" ({})", setting.option->choices);
  const std::string_view name = setting.option->name;
  if (setting.values.empty()) return fmt::format("# {}\n# not set: {} =\n", comment, name);
  return fmt::format("# {}\n{} = {}  # {}\n", comment, name, TomlValue(setting), setting.source);
}

}  // namespace

Result<Output> RunConfig(const Settings& settings) {
  const RawOptions environment = ReadEnvironment();
  std::optional<ConfigFile> file;
  if (settings.Has("config")) {
    std::vector<std::string> keys;
    for (const Command& command : AllCommands()) keys.emplace_back(command.key);
    POINTSMAN_TRY(file, ReadConfigFile(settings.Path("config"), keys));
  }
  Output output{.json = {{"settings", nlohmann::json::array()}}, .text = {}, .exit_code = 0};
  for (const Command& command : AllCommands()) {
    std::string section;
    POINTSMAN_TRY(const Settings resolved, Settings::Resolve(command.key, {}, environment, file ? &*file : nullptr));
    for (const Setting& setting : resolved.all()) {
      if (setting.option->positional || setting.option->name == "config" || setting.option->name == "json") continue;
      section += TomlLine(setting);
      output.json["settings"].push_back({{"command", command.key},
                                         {"name", setting.option->name},
                                         {"value", setting.values},
                                         {"source", setting.source}});
    }
    if (!section.empty()) output.text += fmt::format("[{}]\n{}\n", command.key, section);
  }
  return output;
}

}  // namespace pointsman
