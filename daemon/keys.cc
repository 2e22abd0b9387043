#include "daemon/keys.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <sstream>

#include "memory/file_layer.h"
#include "memory/hash.h"

namespace pointsman {
namespace {

constexpr size_t kKeyBytes = 32;
constexpr size_t kDigestHex = 64;
constexpr size_t kIdDigits = 12;     // of the hash: enough to tell keys apart, useless to who wants in
constexpr size_t kLongestKey = 256;  // of what a client sends: more is not hashed

struct KeyLine {
  Principal principal;
  std::string sha256;
};

// What tells one version of the file from another.
struct FileIdentity {
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = 0;
  timespec modified{};
  bool operator==(const FileIdentity& other) const {
    return device == other.device && inode == other.inode && size == other.size &&
           modified.tv_sec == other.modified.tv_sec && modified.tv_nsec == other.modified.tv_nsec;
  }
};

Error Invalid(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::ranges::all_of(name, [](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == '@';
  });
}

std::string Base64Url(std::span<const unsigned char> bytes) {
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string text;
  uint32_t bits = 0;
  int held = 0;
  for (const unsigned char byte : bytes) {
    bits = bits << 8 | byte;
    for (held += 8; held >= 6; held -= 6) text += kAlphabet[bits >> (held - 6) & 63];
  }
  if (held > 0) text += kAlphabet[bits << (6 - held) & 63];
  return text;
}

std::vector<std::string> SplitCommas(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

Result<KeyLine> ParseLine(const std::string& line, const std::string& where) {
  std::istringstream in(line);
  std::string name, access, digest, memories, more;
  in >> name >> access >> digest >> memories >> more;
  if (!IsName(name)) return Invalid(where + ": a name has 1 to 64 letters, digits or any of -_.@");
  const std::optional<Access> level = AccessOf(access);
  if (!level) return Invalid(fmt::format("{}: access '{}'; use read-only, read-write or admin", where, access));
  const bool hex = std::ranges::all_of(digest, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (digest.size() != kDigestHex || !hex) {
    return Invalid(where +
                   ": the third column is the SHA-256 of the key, 64 digits of lower-case hex; "
                   "`pointsman keys new` makes such a line");
  }
  if (!more.empty())
    return Invalid(where + ": more than four columns; memories are separated by commas, without spaces");
  KeyLine key;
  key.principal.name = name;
  key.principal.access = *level;
  key.sha256 = digest;
  if (!memories.empty()) {
    const auto list = SplitCommas(memories);
    key.principal.memories.emplace(list.begin(), list.end());
    if (key.principal.memories->contains("")) return Invalid(where + ": an empty name among the memories");
  }
  return key;
}

bool IsKeyLine(const std::string& line) {
  const size_t first = line.find_first_not_of(" \t\r");
  return first != std::string::npos && line[first] != '#';
}

Result<std::vector<KeyLine>> ParseKeys(const std::string& text, const std::filesystem::path& file) {
  std::vector<KeyLine> keys;
  std::istringstream in(text);
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (!IsKeyLine(line)) continue;
    POINTSMAN_TRY(KeyLine key, ParseLine(line, fmt::format("{}:{}", file.string(), number)));
    keys.push_back(std::move(key));
  }
  if (keys.empty()) {
    return Invalid(file.string() + ": holds no key, so nobody could ask anything; `pointsman keys new` adds one");
  }
  return keys;
}

Result<FileIdentity> Identify(const std::filesystem::path& file) {
  struct stat status {};
  if (stat(file.c_str(), &status) != 0) {
    return Error{errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo,
                 fmt::format("{}: {}; `pointsman keys new` makes a key file", file.string(), std::strerror(errno))};
  }
  if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return Invalid(fmt::format("{}: others may read or change it; run chmod 600 {}", file.string(), file.string()));
  }
  return FileIdentity{status.st_dev, status.st_ino, status.st_size, status.st_mtim};
}

Result<std::string> ReadKeyFile(const std::filesystem::path& file) {
  if (const auto identity = Identify(file); !identity.ok()) return identity.error();
  return FileSystem::Real().ReadFile(file);
}

// A new file with the right mode and the old one's owner, renamed over it: a server that reads meanwhile sees either,
// and one that is another user than who writes (root) still may.
Status WriteKeyFile(const std::filesystem::path& file, const std::string& text) {
  if (const auto parsed = ParseKeys(text, file); !parsed.ok()) return parsed.error();
  const std::string temporary = file.string() + ".tmp";
  unlink(temporary.c_str());  // of a crash, or somebody's link: what is given away must be a new file
  const int handle = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (handle < 0) return Error{ErrorCode::kIo, fmt::format("{}: {}", temporary, std::strerror(errno))};
  struct stat old {};
  if (lstat(file.c_str(), &old) == 0 && old.st_uid != geteuid() && fchown(handle, old.st_uid, old.st_gid) != 0) {
    const int reason = errno;
    close(handle);
    unlink(temporary.c_str());
    return Error{ErrorCode::kIo,
                 fmt::format("{}: belongs to user {}, to whom the new one cannot be given ({}): run this as that "
                             "user or as root",
                             file.string(), old.st_uid, std::strerror(reason))};
  }
  const bool written =
      write(handle, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && fsync(handle) == 0;
  const int reason = errno;
  close(handle);
  if (!written) {
    unlink(temporary.c_str());
    return Error{reason == ENOSPC ? ErrorCode::kNoSpace : ErrorCode::kIo,
                 fmt::format("{}: {}", temporary, std::strerror(reason))};
  }
  POINTSMAN_CHECK_OK(FileSystem::Real().Rename(temporary, file));
  const std::filesystem::path folder = file.parent_path();
  return FileSystem::Real().SyncDirectory(folder.empty() ? "." : folder);
}

ListedKey Listed(const KeyLine& key) { return {key.sha256.substr(0, kIdDigits), key.principal}; }

std::string CommaList(const std::vector<std::string>& items) { return fmt::format("{}", fmt::join(items, ",")); }

}  // namespace

Result<std::string> RandomToken(size_t bytes) {
  std::vector<unsigned char> secret(bytes);
  if (RAND_bytes(secret.data(), static_cast<int>(secret.size())) != 1) {
    return Error{ErrorCode::kInternal, "the system's random numbers are not available"};
  }
  std::string token = Base64Url(secret);
  OPENSSL_cleanse(secret.data(), secret.size());
  return token;
}

Result<NewKey> MakeKey(const std::string& name, Access access, const std::vector<std::string>& memories) {
  if (!IsName(name)) return Invalid("--name " + name + ": use 1 to 64 letters, digits or any of -_.@");
  if (access == Access::kPublic) return Invalid("--access: use read-only, read-write or admin");
  for (const std::string& memory : memories) {
    if (!IsName(memory)) return Invalid("--memories " + memory + ": not an id of a memory");
  }
  POINTSMAN_TRY(const std::string secret, RandomToken(kKeyBytes));
  NewKey key{"pm-" + secret, {}};
  key.line = fmt::format("{} {} {}", name, AccessName(access), Sha256Hex(key.key));
  if (!memories.empty()) key.line += " " + CommaList(memories);
  return key;
}

Status AppendKey(const std::filesystem::path& file, const NewKey& key) {
  std::string text = "# name access sha256-of-the-key [memories,separated,by,commas]\n";
  if (FileSystem::Real().Exists(file)) {
    POINTSMAN_TRY(const std::string old, ReadKeyFile(file));
    if (!old.empty()) text = old.ends_with('\n') ? old : old + '\n';
  }
  text += key.line + "\n";
  return WriteKeyFile(file, text);
}

Result<std::vector<ListedKey>> ListKeys(const std::filesystem::path& file) {
  POINTSMAN_TRY(const std::string text, ReadKeyFile(file));
  POINTSMAN_TRY(const std::vector<KeyLine> keys, ParseKeys(text, file));
  std::vector<ListedKey> listed;
  for (const KeyLine& key : keys) listed.push_back(Listed(key));
  return listed;
}

Result<std::vector<ListedKey>> RevokeKeys(const std::filesystem::path& file, const std::string& name_or_id) {
  POINTSMAN_TRY(const std::string text, ReadKeyFile(file));
  POINTSMAN_TRY(const std::vector<KeyLine> keys, ParseKeys(text, file));
  std::vector<ListedKey> revoked;
  std::string kept;
  std::istringstream in(text);
  auto key = keys.begin();
  for (std::string line; std::getline(in, line);) {
    if (IsKeyLine(line)) {
      const ListedKey listed = Listed(*key++);
      if (listed.holder.name == name_or_id || listed.id == name_or_id) {
        revoked.push_back(listed);
        continue;
      }
    }
    kept += line + "\n";
  }
  if (revoked.empty()) {
    return Error{ErrorCode::kNotFound, fmt::format("{}: no key has the name or id '{}'; see `pointsman keys list`",
                                                   file.string(), name_or_id)};
  }
  if (revoked.size() == keys.size()) {
    return Invalid(
        fmt::format("{}: these are all its keys, and a server goes on with the old ones rather than let "
                    "nobody in; add another first with `pointsman keys new`",
                    file.string()));
  }
  POINTSMAN_CHECK_OK(WriteKeyFile(file, kept));
  return revoked;
}

struct KeyStore::Impl {
  std::filesystem::path file;
  mutable std::mutex mutex;
  std::shared_ptr<const std::vector<KeyLine>> keys;  // null: no keys are asked for
  FileIdentity identity;
};

KeyStore::KeyStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KeyStore::~KeyStore() = default;

Result<std::unique_ptr<KeyStore>> KeyStore::Open(const std::filesystem::path& file) {
  auto impl = std::make_unique<Impl>();
  impl->file = file;
  std::unique_ptr<KeyStore> store(new KeyStore(std::move(impl)));
  if (!file.empty()) POINTSMAN_CHECK_OK(store->Refresh());
  return store;
}

bool KeyStore::enabled() const { return !impl_->file.empty(); }

Result<Principal> KeyStore::Authenticate(std::string_view key) const {
  if (!enabled()) return Principal{.name = "anonymous", .access = Access::kAdmin, .memories = std::nullopt};
  std::shared_ptr<const std::vector<KeyLine>> keys;
  {
    const std::lock_guard lock(impl_->mutex);
    keys = impl_->keys;
  }
  const std::string digest = Sha256Hex(key.substr(0, kLongestKey));
  const KeyLine* found = nullptr;
  for (const KeyLine& line : *keys) {
    if (CRYPTO_memcmp(line.sha256.data(), digest.data(), kDigestHex) == 0) found = &line;
  }
  if (!found || key.size() > kLongestKey) {
    return Invalid("a valid API key is needed: send Authorization: Bearer KEY or X-Api-Key: KEY");
  }
  return found->principal;
}

Status KeyStore::Refresh() {
  if (!enabled()) return {};
  POINTSMAN_TRY(const FileIdentity identity, Identify(impl_->file));
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->keys && identity == impl_->identity) return {};
  }
  POINTSMAN_TRY(const std::string text, FileSystem::Real().ReadFile(impl_->file));
  POINTSMAN_TRY(std::vector<KeyLine> keys, ParseKeys(text, impl_->file));
  const std::lock_guard lock(impl_->mutex);
  impl_->keys = std::make_shared<const std::vector<KeyLine>>(std::move(keys));
  impl_->identity = identity;
  return {};
}

}  // namespace pointsman
