#include "memory/section_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "memory/hash.h"

namespace pointsman {
namespace {

constexpr char kMagic[8] = {'P', 'T', 'M', 'N', 'D', 'R', 'V', '\n'};
constexpr uint32_t kMaxSections = 64;

struct Header {
  char magic[8];
  uint32_t version;
  DerivedKind kind;
  uint64_t set_id;
  uint64_t file_size;
  uint64_t footer_offset;
  uint32_t section_count;
  uint32_t reserved;
  uint64_t table_hash;  // of the header with this field 0, then the section table
  uint64_t reserved2;
};
static_assert(sizeof(Header) == 64);

struct TableEntry {
  SectionType type;
  uint32_t element_bytes;
  uint64_t offset;
  uint64_t rows;
  uint64_t columns;
};
static_assert(sizeof(TableEntry) == 32);

uint64_t AlignUp(uint64_t value) { return (value + kSectionAlign - 1) / kSectionAlign * kSectionAlign; }

uint64_t BlockCount(uint64_t footer_offset) { return (footer_offset + kDerivedBlockBytes - 1) / kDerivedBlockBytes; }

// One hash per block, then the hash of those hashes.
uint64_t FooterBytes(uint64_t footer_offset) { return (BlockCount(footer_offset) + 1) * sizeof(uint64_t); }

uint64_t TableHash(Header header, std::span<const std::byte> table) {
  header.table_hash = 0;
  std::vector<std::byte> bytes(sizeof header + table.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  std::copy(table.begin(), table.end(), bytes.begin() + sizeof header);
  return Xxh3(bytes);
}

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// Cuts a stream into blocks, hashes each and appends it to the file.
class BlockWriter {
 public:
  explicit BlockWriter(WritableFile& file) : file_(file) { block_.reserve(kDerivedBlockBytes); }

  Status Append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const size_t take = std::min<size_t>(bytes.size(), kDerivedBlockBytes - block_.size());
      block_.insert(block_.end(), bytes.begin(), bytes.begin() + take);
      bytes = bytes.subspan(take);
      written_ += take;
      if (block_.size() == kDerivedBlockBytes) POINTSMAN_CHECK_OK(Flush());
    }
    return {};
  }

  Status PadTo(uint64_t offset) {
    const std::vector<std::byte> zeros(offset - written_);
    return Append(zeros);
  }

  Status Finish() {
    POINTSMAN_CHECK_OK(Flush());
    hashes_.push_back(Xxh3(std::as_bytes(std::span(hashes_))));
    return file_.Append(std::as_bytes(std::span(hashes_)));
  }

 private:
  Status Flush() {
    if (block_.empty()) return {};
    hashes_.push_back(Xxh3(block_));
    Status appended = file_.Append(block_);
    block_.clear();
    return appended;
  }

  WritableFile& file_;
  std::vector<std::byte> block_;
  std::vector<uint64_t> hashes_;
  uint64_t written_ = 0;
};

// A file's bytes in memory of our own, on a section boundary as a mapping would be.
class RamCopy final : public MappedFile {
 public:
  explicit RamCopy(std::span<const std::byte> bytes)
      : size_(bytes.size()),
        bytes_(static_cast<std::byte*>(::operator new (std::max<size_t>(size_, 1), std::align_val_t{kSectionAlign}))) {
    std::copy(bytes.begin(), bytes.end(), bytes_);
  }
  ~RamCopy() override { ::operator delete (bytes_, std::align_val_t{kSectionAlign}); }
  RamCopy(const RamCopy&) = delete;
  RamCopy& operator=(const RamCopy&) = delete;
  std::span<const std::byte> bytes() const override { return {bytes_, size_}; }

 private:
  size_t size_;
  std::byte* bytes_;
};

Result<std::shared_ptr<const MappedFile>> Load(FileSystem& files, const std::filesystem::path& path, bool to_ram) {
  POINTSMAN_TRY(std::shared_ptr<const MappedFile> file, files.Map(path));
  if (!to_ram) return file;
  return std::shared_ptr<const MappedFile>(std::make_shared<RamCopy>(file->bytes()));
}

// The header, once its sizes fit the file.
Result<Header> ReadHeader(const std::filesystem::path& path, std::span<const std::byte> bytes, DerivedKind kind) {
  Header header;
  if (bytes.size() < sizeof header) {
    return DerivedError(path, fmt::format("only {} bytes long, the header is cut off", bytes.size()));
  }
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) {
    return DerivedError(path, "does not start like a derived file of Pointsman");
  }
  if (header.version != kDerivedVersion) {
    return Error{
        ErrorCode::kUnsupported,
        fmt::format("{}: format version {}, this build reads {}; {}, or, if the file is damaged, run `pointsman "
                    "verify --repair MEM`",
                    path.string(), header.version, kDerivedVersion,
                    header.version > kDerivedVersion ? "use a newer pointsman" : "build the memory again")};
  }
  if (header.kind != kind) return DerivedError(path, "is a derived file of another kind");
  if (header.file_size != bytes.size()) {
    return DerivedError(path, fmt::format("{} bytes long, its header says {}", bytes.size(), header.file_size));
  }
  // The first comparison keeps the sum of the second from wrapping.
  if (header.footer_offset > bytes.size() ||
      header.footer_offset + FooterBytes(header.footer_offset) != header.file_size) {
    return DerivedError(path, "the block hashes are not where the header says");
  }
  const uint64_t table_bytes = uint64_t{header.section_count} * sizeof(TableEntry);
  if (header.section_count > kMaxSections || sizeof header + table_bytes > header.footer_offset) {
    return DerivedError(path, fmt::format("{} sections do not fit", header.section_count));
  }
  return header;
}

Status VerifyBlocks(const std::filesystem::path& path, std::span<const std::byte> bytes, uint64_t footer_offset) {
  const uint64_t blocks = BlockCount(footer_offset);
  std::vector<uint64_t> hashes(blocks + 1);
  std::memcpy(hashes.data(), bytes.data() + footer_offset, hashes.size() * sizeof(uint64_t));
  if (Xxh3(std::as_bytes(std::span(hashes)).first(blocks * sizeof(uint64_t))) != hashes.back()) {
    return DerivedError(path, "the table of block hashes is damaged");
  }
  for (uint64_t b = 0; b < blocks; ++b) {
    const uint64_t begin = b * kDerivedBlockBytes;
    const uint64_t size = std::min(kDerivedBlockBytes, footer_offset - begin);
    if (Xxh3(bytes.subspan(begin, size)) != hashes[b]) {
      return DerivedError(path, fmt::format("block {} of {} (at byte {}) does not match its hash", b, blocks, begin));
    }
  }
  return {};
}

}  // namespace

Error DerivedError(const std::filesystem::path& path, const std::string& problem) {
  return {ErrorCode::kCorrupt, fmt::format("{}: {}; run `pointsman verify --repair MEM`", path.string(), problem)};
}

Status WriteSectionFile(FileSystem& files, const std::filesystem::path& path, DerivedKind kind, uint64_t set_id,
                        std::span<const SectionData> sections) {
  std::vector<TableEntry> table;
  uint64_t offset = AlignUp(sizeof(Header) + sections.size() * sizeof(TableEntry));
  for (const SectionData& section : sections) {
    table.push_back({section.type, section.element_bytes, offset, section.rows, section.columns});
    offset = AlignUp(offset + section.bytes.size());
  }
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kDerivedVersion;
  header.kind = kind;
  header.set_id = set_id;
  header.footer_offset = offset;
  header.file_size = offset + FooterBytes(offset);
  header.section_count = static_cast<uint32_t>(sections.size());
  header.table_hash = TableHash(header, std::as_bytes(std::span(table)));

  POINTSMAN_TRY(std::unique_ptr<WritableFile> file, files.Create(path));
  BlockWriter writer(*file);
  POINTSMAN_CHECK_OK(writer.Append(BytesOf(header)));
  POINTSMAN_CHECK_OK(writer.Append(std::as_bytes(std::span(table))));
  for (size_t i = 0; i < sections.size(); ++i) {
    POINTSMAN_CHECK_OK(writer.PadTo(table[i].offset));
    POINTSMAN_CHECK_OK(writer.Append(sections[i].bytes));
  }
  POINTSMAN_CHECK_OK(writer.PadTo(header.footer_offset));
  POINTSMAN_CHECK_OK(writer.Finish());
  POINTSMAN_CHECK_OK(file->Sync());
  return file->Close();
}

Result<SectionFile> SectionFile::Open(FileSystem& files, const std::filesystem::path& path, DerivedKind kind,
                                      const Options& options) {
  SectionFile result;
  result.path_ = path;
  POINTSMAN_TRY(result.file_, Load(files, path, options.load_to_ram));
  const std::span<const std::byte> bytes = result.file_->bytes();
  POINTSMAN_TRY(const Header header, ReadHeader(path, bytes, kind));
  if (options.verify) POINTSMAN_CHECK_OK(VerifyBlocks(path, bytes, header.footer_offset));

  const uint64_t table_bytes = uint64_t{header.section_count} * sizeof(TableEntry);
  if (TableHash(header, bytes.subspan(sizeof header, table_bytes)) != header.table_hash) {
    return DerivedError(path, "the header or the section table is damaged");
  }
  result.set_id_ = header.set_id;
  std::vector<TableEntry> table(header.section_count);
  if (!table.empty()) std::memcpy(table.data(), bytes.data() + sizeof header, table_bytes);
  for (const TableEntry& entry : table) {
    uint64_t elements = 0, size = 0, end = 0;
    if (__builtin_mul_overflow(entry.rows, entry.columns, &elements) ||
        __builtin_mul_overflow(elements, uint64_t{entry.element_bytes}, &size) ||
        __builtin_add_overflow(entry.offset, size, &end) || end > header.footer_offset ||
        entry.offset < sizeof header + table_bytes || entry.offset % kSectionAlign != 0 || entry.element_bytes == 0) {
      return DerivedError(path, fmt::format("section {} lies outside the file", static_cast<uint32_t>(entry.type)));
    }
    if (result.Has(entry.type)) {
      return DerivedError(path, fmt::format("section {} is there twice", static_cast<uint32_t>(entry.type)));
    }
    result.sections_.push_back(
        {entry.type, entry.element_bytes, entry.rows, entry.columns, bytes.subspan(entry.offset, size)});
  }
  return result;
}

const SectionFile::Section* SectionFile::Find(SectionType type) const {
  auto found = std::find_if(sections_.begin(), sections_.end(), [&](const Section& s) { return s.type == type; });
  return found == sections_.end() ? nullptr : &*found;
}

uint64_t SectionFile::Rows(SectionType type) const {
  const Section* section = Find(type);
  return section == nullptr ? 0 : section->rows;
}

Result<std::span<const std::byte>> SectionFile::GetBytes(SectionType type, uint32_t element_bytes, uint64_t rows,
                                                         uint64_t columns) const {
  const Section* section = Find(type);
  if (section == nullptr) {
    return DerivedError(path_, fmt::format("section {} is missing", static_cast<uint32_t>(type)));
  }
  if (section->element_bytes != element_bytes || section->rows != rows || section->columns != columns) {
    return DerivedError(
        path_, fmt::format("section {} is {} x {} of {} bytes, expected {} x {} of {}", static_cast<uint32_t>(type),
                           section->rows, section->columns, section->element_bytes, rows, columns, element_bytes));
  }
  return section->bytes;
}

}  // namespace pointsman
