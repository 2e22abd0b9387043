// The options in force for one command: flags before POINTSMAN_* before the TOML file before the defaults, each checked
// against its row of tools/options.h, each knowing where it came from.
//
// The file's top level holds for every command that has the key; a section ([build], [docs-list]) for that command only
// and before the top level. An unknown key anywhere is an error that names the file, the key and the nearest known one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "memory/result.h"
#include "tools/options.h"

namespace pointsman {

// What one source says: option name -> values (one, except for lists).
using RawOptions = std::map<std::string, std::vector<std::string>, std::less<>>;

struct ConfigFile {
  std::filesystem::path path;
  RawOptions top;                                           // keys outside of a section
  std::map<std::string, RawOptions, std::less<>> sections;  // by command key
};

// Errors: kNotFound, kInvalidArgument (not TOML: with the line; an unknown key or section; a value of a wrong type).
Result<ConfigFile> ReadConfigFile(const std::filesystem::path& path, const std::vector<std::string>& command_keys);

// POINTSMAN_* variables of known options.
RawOptions ReadEnvironment();
// Logs a warning for every other POINTSMAN_* variable: a misspelt one would be lost silently.
void WarnOfUnknownEnvironment();

struct Setting {
  const OptionSpec* option = nullptr;
  std::vector<std::string> values;  // empty = not set
  std::string source;               // "flag", "environment POINTSMAN_X", "file PATH", "default"
};

class Settings {
 public:
  // Resolves all options of a command. Errors (kInvalidArgument) name the source as the user wrote it.
  static Result<Settings> Resolve(std::string_view command_key, const RawOptions& flags, const RawOptions& environment,
                                  const ConfigFile* file);

  // Whether the command has an option of this name at all.
  bool Knows(std::string_view name) const;
  // REQUIRES below: Knows(name), and the option is of this kind.
  bool Has(std::string_view name) const;
  std::string Text(std::string_view name) const;
  std::filesystem::path Path(std::string_view name) const;
  std::vector<std::string> Texts(std::string_view name) const;
  std::vector<std::filesystem::path> Paths(std::string_view name) const;
  int64_t Integer(std::string_view name) const;
  double Real(std::string_view name) const;
  bool Flag(std::string_view name) const;

  const std::vector<Setting>& all() const { return settings_; }
  // kInvalidArgument naming the first required option that is not set.
  Status CheckRequired() const;

 private:
  const Setting& Get(std::string_view name) const;
  std::string command_key_;
  std::vector<Setting> settings_;  // in the order of the table
};

}  // namespace pointsman
