// The bytes of truth/: keys and values of its RocksDB column families (docs/formats.md).
//
// Keys are big-endian, so that RocksDB's byte order is the order of document hash, of (layer, EntryId) and of sequence.
// A value is one version byte, then little-endian fixed-width fields; arrays carry their length. Decoding checks every
// length before it allocates, rejects leftovers, and returns nothing for bytes that no Encode function wrote, this one
// or that of an older version.
// Pure functions: any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "memory/document.h"
#include "memory/entry_store.h"

namespace pointsman {

std::string DocumentKey(uint64_t hash);                  // 8 bytes
std::string LayerKey(int32_t layer);                     // 4 bytes: prefix of the layer's entries
std::string EntryKey(int32_t layer, const EntryId& id);  // 16 bytes
std::string ChangeKey(uint64_t sequence);                // 8 bytes

std::optional<uint64_t> DecodeDocumentKey(std::string_view key);
std::optional<uint64_t> DecodeChangeKey(std::string_view key);

// The value alone; identifiers stand in the key.
std::string EncodeDocument(const Document& document);
std::string EncodeEntry(const StoredEntry& entry);
std::string EncodeChange(const Change& change);

std::optional<Document> DecodeDocument(std::string_view key, std::string_view value);
std::optional<StoredEntry> DecodeEntry(std::string_view key, std::string_view value);
std::optional<Change> DecodeChange(std::string_view key, std::string_view value);

}  // namespace pointsman
