// The container of every derived file: a header, a table of typed arrays, the arrays on 64-byte boundaries, and the
// XXH3 of every 64 KiB in a footer (docs/formats.md). Little-endian.
//
// Bytes from disk are input, possibly a stranger's: nothing is interpreted before the block hashes match (unless
// `verify` is off), and with or without them no count, offset or size in the file is believed before it was checked
// against the file's real size. Errors are kCorrupt, name the file and say how to repair it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "memory/file_layer.h"
#include "memory/result.h"

namespace pointsman {

inline constexpr uint32_t kDerivedVersion = 3;
inline constexpr uint64_t kDerivedBlockBytes = 64 << 10;
inline constexpr uint64_t kSectionAlign = 64;

enum class DerivedKind : uint32_t { kLayer = 1, kGate = 2, kDocuments = 3, kOutput = 4 };

// What an array is; the numbers are on disk.
enum class SectionType : uint32_t {
  kParameters = 1,
  kMean = 2,
  kProjection = 3,
  kCodes = 4,
  kCodeScales = 5,
  kValues = 6,
  kValueScales = 7,
  kReferences = 8,
  kRouterDelta = 9,
  kTokenTable = 10,
  kTokenTableScales = 11,
  kLayerNumbers = 12,
  kNameOffsets = 13,
  kNames = 14,
  kTokenPairs = 15,
  kCommonPairs = 16,
  kParts = 17,
  kNextTokens = 18,
  kGateRamps = 19,
  kPairGroups = 20,
  kTokenIds = 21,
};

// One array to write; `bytes` is rows * columns * element_bytes long.
struct SectionData {
  SectionType type = SectionType::kParameters;
  uint32_t element_bytes = 1;
  uint64_t rows = 0;
  uint64_t columns = 1;
  std::span<const std::byte> bytes;
};

template <typename T>
SectionData SectionOf(SectionType type, std::span<const T> values, uint64_t rows, uint64_t columns) {
  return {type, sizeof(T), rows, columns, std::as_bytes(values)};
}

// `set_id` binds the files of one generation together. The file is synced when this returns.
Status WriteSectionFile(FileSystem& files, const std::filesystem::path& path, DerivedKind kind, uint64_t set_id,
                        std::span<const SectionData> sections);

// kCorrupt, "PATH: PROBLEM; run `pointsman verify --repair MEM`".
Error DerivedError(const std::filesystem::path& path, const std::string& problem);

class SectionFile {
 public:
  struct Options {
    bool load_to_ram = false;  // a private copy instead of a mapping
    bool verify = true;        // hash every block before use
  };

  static Result<SectionFile> Open(FileSystem& files, const std::filesystem::path& path, DerivedKind kind,
                                  const Options& options);

  uint64_t set_id() const { return set_id_; }
  bool Has(SectionType type) const { return Find(type) != nullptr; }
  // Rows of a section, 0 if it is absent.
  uint64_t Rows(SectionType type) const;
  // The array, which must be there in exactly this shape.
  template <typename T>
  Result<std::span<const T>> Get(SectionType type, uint64_t rows, uint64_t columns) const {
    POINTSMAN_TRY(std::span<const std::byte> bytes, GetBytes(type, sizeof(T), rows, columns));
    return std::span<const T>(reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T));
  }
  // The same, but an absent section is an empty span.
  template <typename T>
  Result<std::span<const T>> GetOptional(SectionType type, uint64_t rows, uint64_t columns) const {
    if (!Has(type)) return std::span<const T>();
    return Get<T>(type, rows, columns);
  }
  // What the spans point into.
  const std::shared_ptr<const MappedFile>& storage() const { return file_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  struct Section {
    SectionType type;
    uint32_t element_bytes;
    uint64_t rows, columns;
    std::span<const std::byte> bytes;
  };

  const Section* Find(SectionType type) const;
  Result<std::span<const std::byte>> GetBytes(SectionType type, uint32_t element_bytes, uint64_t rows,
                                              uint64_t columns) const;

  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> file_;
  uint64_t set_id_ = 0;
  std::vector<Section> sections_;
};

}  // namespace pointsman
