// pointsman keys new: an API key for `serve`, shown once; the file keeps its hash.
#include "daemon/keys.h"

#include <fmt/format.h>

#include "tools/command.h"

namespace pointsman {

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

}  // namespace pointsman
