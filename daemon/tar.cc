#include "daemon/tar.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <string_view>

namespace pointsman {
namespace {

constexpr size_t kBlock = 512;
constexpr uint64_t kLargestOctal = (uint64_t{1} << 33) - 1;  // 11 digits

// Fields of a header: offset and width.
struct Field {
  size_t offset = 0, width = 0;
};
constexpr Field kName{0, 100}, kMode{100, 8}, kOwner{108, 8}, kGroup{116, 8}, kSize{124, 12}, kTime{136, 12},
    kChecksum{148, 8}, kType{156, 1}, kMagic{257, 6}, kVersion{263, 2};

void Put(std::string& header, Field field, std::string_view text) {
  std::ranges::copy(text, header.begin() + static_cast<std::ptrdiff_t>(field.offset));
}

// Octal digits and a NUL; from 8 GiB on big-endian bytes behind a set top bit, as GNU tar, libarchive and Python do.
void PutNumber(std::string& header, Field field, uint64_t number) {
  if (number <= kLargestOctal) {
    Put(header, field, fmt::format("{:0{}o}", number, field.width - 1));
    return;
  }
  header[field.offset] = static_cast<char>(0x80);
  for (size_t i = 0; i < sizeof number; ++i) {
    header[field.offset + field.width - 1 - i] = static_cast<char>(number >> (8 * i));
  }
}

}  // namespace

Result<std::string> TarHeader(const TarEntry& entry) {
  if (entry.path.empty() || entry.path.size() > kName.width) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{}: a path in a tar file has 1 to 100 bytes", entry.path)};
  }
  std::string header(kBlock, '\0');
  Put(header, kName, entry.path);
  PutNumber(header, kMode, 0644);
  PutNumber(header, kOwner, 0);
  PutNumber(header, kGroup, 0);
  PutNumber(header, kSize, entry.bytes);
  PutNumber(header, kTime, static_cast<uint64_t>(std::max<int64_t>(0, entry.modified_unix_s)));
  Put(header, kType, "0");
  Put(header, kMagic, "ustar");
  Put(header, kVersion, "00");
  // The sum of all bytes, with spaces where the sum stands.
  Put(header, kChecksum, "        ");
  const uint32_t sum = std::accumulate(header.begin(), header.end(), uint32_t{0},
                                       [](uint32_t total, char c) { return total + static_cast<unsigned char>(c); });
  Put(header, kChecksum, fmt::format("{:06o}", sum));
  header[kChecksum.offset + 6] = '\0';
  return header;
}

std::string TarPadding(uint64_t bytes) { return std::string((kBlock - bytes % kBlock) % kBlock, '\0'); }

std::string TarEnd() { return std::string(2 * kBlock, '\0'); }

}  // namespace pointsman
