// pointsman keys new|list|revoke: API keys for `serve`. A key is shown once; the file keeps its hash.
#include "daemon/keys.h"

#include <fmt/format.h>

#include "tools/command.h"

namespace pointsman {
namespace {

nlohmann::json KeyJson(const ListedKey& key) {
  nlohmann::json json = {
      {"id", key.id}, {"name", key.holder.name}, {"access", AccessName(key.holder.access)}, {"memories", nullptr}};
  if (key.holder.memories) json["memories"] = *key.holder.memories;
  return json;
}

}  // namespace

Result<Output> RunKeysNew(const Settings& settings) {
  const std::string name = settings.Text("name");
  const Access access = AccessOf(settings.Text("access")).value_or(Access::kRead);
  POINTSMAN_TRY(const NewKey key, MakeKey(name, access, settings.Texts("memories")));
  POINTSMAN_CHECK_OK(AppendKey(settings.Path("keys"), key));
  return Output{.json = {{"name", name}, {"access", AccessName(access)}, {"key", key.key}},
                .text = fmt::format("{}\nThis is the only time that the key is shown; {} keeps its hash.\n", key.key,
                                    settings.Path("keys").string()),
                .exit_code = 0};
}

Result<Output> RunKeysList(const Settings& settings) {
  POINTSMAN_TRY(const std::vector<ListedKey> keys, ListKeys(settings.Path("keys")));
  Output output{.json = {{"keys", nlohmann::json::array()}}, .text = {}, .exit_code = 0};
  output.text = fmt::format("{:<12}  {:<10}  {:<20}  {}\n", "id", "access", "name", "memories");
  for (const ListedKey& key : keys) {
    output.json["keys"].push_back(KeyJson(key));
    output.text += fmt::format("{:<12}  {:<10}  {:<20}  {}\n", key.id, AccessName(key.holder.access), key.holder.name,
                               key.holder.memories ? fmt::format("{}", fmt::join(*key.holder.memories, ", ")) : "all");
  }
  return output;
}

Result<Output> RunKeysRevoke(const Settings& settings) {
  POINTSMAN_TRY(const std::vector<ListedKey> revoked, RevokeKeys(settings.Path("keys"), settings.Text("key")));
  Output output{.json = {{"revoked", nlohmann::json::array()}}, .text = {}, .exit_code = 0};
  for (const ListedKey& key : revoked) {
    output.json["revoked"].push_back(KeyJson(key));
    output.text += fmt::format("revoked {} of {}\n", key.id, key.holder.name);
  }
  output.text += "running servers read the file again within seconds\n";
  return output;
}

}  // namespace pointsman
