// API keys from a file, hashed at rest; the file is read again when it changes, so keys are rotated without a restart.
//
//   # name        access      sha256 of the key, hex                memories (optional, comma-separated)
//   alice         read-write  9f86d081884c7d65...                    support,legal
//   prometheus    read-only   ...
//
// `pointsman keys new --name alice --access read-write` makes a random key of 256 bits, prints it once and appends the
// line. Keys have that much entropy, so a plain SHA-256 is enough; a key typed by a person is refused by length.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/access.h"
#include "memory/result.h"

namespace pointsman {

struct NewKey {
  std::string key;   // "pm-" and 43 characters of base64url: shown once
  std::string line;  // for the file
};
Result<NewKey> MakeKey(const std::string& name, Access access, const std::vector<std::string>& memories);
// Appends `line` to the file (made with mode 0600). A name may come again: to rotate a key, add the new one, tell its
// holder, then revoke the old one by its id.
Status AppendKey(const std::filesystem::path& file, const NewKey& key);

// A line of the file without what would let anybody in.
struct ListedKey {
  std::string id;  // the first 12 digits of the hash
  Principal holder;
};
Result<std::vector<ListedKey>> ListKeys(const std::filesystem::path& file);
// Takes out every key of this name, or the one of this id; comments stay. Returns what was taken out. Errors: kNotFound
// (none is like that), kInvalidArgument (no key would be left: a server would keep the old ones rather than let nobody
// in), those of ListKeys.
Result<std::vector<ListedKey>> RevokeKeys(const std::filesystem::path& file, const std::string& name_or_id);

// `bytes` of the system's randomness as base64url without padding: for names that must not be guessed.
Result<std::string> RandomToken(size_t bytes);

// Any thread. Readers take a snapshot; Refresh replaces it.
class KeyStore {
 public:
  // An empty path: no keys, everyone is `anonymous` with kAdmin (the server then refuses public addresses).
  // Errors: kNotFound, kInvalidArgument (names file and line), kInvalidArgument if others may read the file.
  static Result<std::unique_ptr<KeyStore>> Open(const std::filesystem::path& file);
  ~KeyStore();

  bool enabled() const;
  // The holder of `key`; kInvalidArgument otherwise, the same text for a wrong and a missing key. Compares digests in
  // constant time and looks at every line, whichever matches.
  Result<Principal> Authenticate(std::string_view key) const;
  // Reads the file again if its identity, size or time changed. A broken file keeps the old keys and returns the error.
  Status Refresh();

 private:
  struct Impl;
  explicit KeyStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pointsman
