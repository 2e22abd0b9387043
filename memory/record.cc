#include "memory/record.h"

#include <bit>
#include <climits>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace pointsman {
namespace {

static_assert(std::endian::native == std::endian::little, "truth records are little-endian");

constexpr uint8_t kDocumentVersion = 2;  // 1 had no time of expiry
constexpr uint8_t kEntryVersion = 1;
constexpr uint8_t kChangeVersion = 1;

template <typename T>
void AppendBigEndian(std::string& out, T value) {
  for (int shift = 8 * (static_cast<int>(sizeof(T)) - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>((value >> shift) & 0xff));
  }
}

template <typename T>
T ReadBigEndian(std::string_view bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>((value << 8) | static_cast<uint8_t>(bytes[i]));
  return value;
}

class Encoder {
 public:
  explicit Encoder(uint8_t version) { Put(version); }

  template <typename T>
  void Put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  template <typename Array>  // a string or a vector of fixed-width elements
  void PutArray(const Array& array) {
    Put(static_cast<uint32_t>(array.size()));
    out_.append(reinterpret_cast<const char*>(array.data()), array.size() * sizeof(array[0]));
  }
  std::string Take() && { return std::move(out_); }

 private:
  std::string out_;
};

// Reads what Encoder wrote; the first failure sticks and every later read yields zeros.
class Decoder {
 public:
  // Versions 1 to `newest` are read.
  Decoder(std::string_view bytes, uint8_t newest) : rest_(bytes) {
    version_ = Get<uint8_t>();
    ok_ = ok_ && version_ >= 1 && version_ <= newest;
  }
  uint8_t version() const { return version_; }

  template <typename T>
  T Get() {
    T value{};
    if (!ok_ || rest_.size() < sizeof value) {
      ok_ = false;
      return value;
    }
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
    return value;
  }
  template <typename Array>
  Array GetArray() {
    const uint64_t bytes = uint64_t{Get<uint32_t>()} * sizeof(typename Array::value_type);
    Array array;
    if (!ok_ || rest_.size() < bytes) {
      ok_ = false;
      return array;
    }
    array.resize(bytes / sizeof(typename Array::value_type));
    if (bytes > 0) std::memcpy(array.data(), rest_.data(), bytes);
    rest_.remove_prefix(bytes);
    return array;
  }
  void Require(bool condition) { ok_ = ok_ && condition; }
  bool ok() const { return ok_; }
  // Everything read, nothing left over.
  bool Finished() const { return ok_ && rest_.empty(); }

 private:
  std::string_view rest_;
  uint8_t version_ = 0;
  bool ok_ = true;
};

}  // namespace

std::string DocumentKey(uint64_t hash) {
  std::string key;
  AppendBigEndian(key, hash);
  return key;
}

std::string LayerKey(int32_t layer) {
  std::string key;
  AppendBigEndian(key, static_cast<uint32_t>(layer));
  return key;
}

std::string EntryKey(int32_t layer, const EntryId& id) {
  std::string key = LayerKey(layer);
  AppendBigEndian(key, id.document);
  AppendBigEndian(key, id.position);
  return key;
}

std::string ChangeKey(uint64_t sequence) { return DocumentKey(sequence); }

std::optional<uint64_t> DecodeDocumentKey(std::string_view key) {
  if (key.size() != sizeof(uint64_t)) return std::nullopt;
  return ReadBigEndian<uint64_t>(key);
}

std::optional<uint64_t> DecodeChangeKey(std::string_view key) { return DecodeDocumentKey(key); }

std::string EncodeDocument(const Document& document) {
  Encoder encoder(kDocumentVersion);
  encoder.PutArray(document.source);
  encoder.PutArray(document.sha256);
  encoder.Put(document.cluster);
  encoder.Put(static_cast<uint8_t>(document.role));
  encoder.Put(document.added_unix_s);
  encoder.Put(document.expires_unix_s);
  encoder.Put(static_cast<uint32_t>(document.tags.size()));
  for (const std::string& tag : document.tags) encoder.PutArray(tag);
  encoder.PutArray(document.tokens);
  encoder.PutArray(document.loss_mask);
  return std::move(encoder).Take();
}

std::optional<Document> DecodeDocument(std::string_view key, std::string_view value) {
  const std::optional<uint64_t> hash = DecodeDocumentKey(key);
  if (!hash) return std::nullopt;
  Decoder decoder(value, kDocumentVersion);
  Document document;
  document.hash = *hash;
  document.source = decoder.GetArray<std::string>();
  document.sha256 = decoder.GetArray<std::string>();
  document.cluster = decoder.Get<uint64_t>();
  const auto role = decoder.Get<uint8_t>();
  decoder.Require(role <= static_cast<uint8_t>(SplitRole::kTest));
  document.role = static_cast<SplitRole>(role);
  document.added_unix_s = decoder.Get<int64_t>();
  if (decoder.version() >= 2) document.expires_unix_s = decoder.Get<int64_t>();
  const auto tags = decoder.Get<uint32_t>();
  decoder.Require(tags <= value.size() / sizeof(uint32_t));  // each tag takes at least its length field
  if (!decoder.ok()) return std::nullopt;
  for (uint32_t i = 0; i < tags; ++i) document.tags.push_back(decoder.GetArray<std::string>());
  document.tokens = decoder.GetArray<std::vector<int32_t>>();
  document.loss_mask = decoder.GetArray<std::vector<uint8_t>>();
  decoder.Require(document.loss_mask.empty() || document.loss_mask.size() == document.tokens.size());
  if (!decoder.Finished()) return std::nullopt;
  return document;
}

std::string EncodeEntry(const StoredEntry& entry) {
  Encoder encoder(kEntryVersion);
  encoder.Put(entry.code_scale);
  encoder.Put(entry.value_scale);
  encoder.PutArray(entry.code);
  encoder.PutArray(entry.value);
  return std::move(encoder).Take();
}

std::optional<StoredEntry> DecodeEntry(std::string_view key, std::string_view value) {
  if (key.size() != 16) return std::nullopt;
  const auto layer = ReadBigEndian<uint32_t>(key.substr(0, 4));
  if (layer > static_cast<uint32_t>(INT32_MAX)) return std::nullopt;
  Decoder decoder(value, kEntryVersion);
  StoredEntry entry;
  entry.layer = static_cast<int32_t>(layer);
  entry.id = {ReadBigEndian<uint64_t>(key.substr(4, 8)), ReadBigEndian<uint32_t>(key.substr(12, 4))};
  entry.code_scale = decoder.Get<float>();
  entry.value_scale = decoder.Get<float>();
  entry.code = decoder.GetArray<std::vector<int8_t>>();
  entry.value = decoder.GetArray<std::vector<int8_t>>();
  decoder.Require(std::isfinite(entry.code_scale) && std::isfinite(entry.value_scale));
  if (!decoder.Finished()) return std::nullopt;
  return entry;
}

std::string EncodeChange(const Change& change) {
  Encoder encoder(kChangeVersion);
  encoder.Put(static_cast<uint8_t>(change.kind));
  encoder.Put(change.document);
  encoder.PutArray(change.setting);
  return std::move(encoder).Take();
}

std::optional<Change> DecodeChange(std::string_view key, std::string_view value) {
  const std::optional<uint64_t> sequence = DecodeChangeKey(key);
  if (!sequence) return std::nullopt;
  Decoder decoder(value, kChangeVersion);
  Change change;
  change.sequence = *sequence;
  const auto kind = decoder.Get<uint8_t>();
  decoder.Require(kind >= static_cast<uint8_t>(ChangeKind::kPutDocument) &&
                  kind <= static_cast<uint8_t>(ChangeKind::kPutSetting));
  change.kind = static_cast<ChangeKind>(kind);
  change.document = decoder.Get<uint64_t>();
  change.setting = decoder.GetArray<std::string>();
  if (!decoder.Finished()) return std::nullopt;
  return change;
}

}  // namespace pointsman
