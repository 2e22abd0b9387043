// Hashes: XXH3 for integrity and identity inside Pointsman (fast, not cryptographic), SHA-256 for what a person
// compares with other tools (documents, model fingerprints). Thread-safe; one hasher object belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace pointsman {

uint64_t Xxh3(std::span<const std::byte> bytes);
uint64_t Xxh3(std::string_view text);

// Lower-case hex, 64 digits.
std::string Sha256Hex(std::string_view bytes);

// 128-bit XXH3 of a stream of pieces; where one piece ends does not matter.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(const Xxh3Stream&) = delete;
  Xxh3Stream& operator=(const Xxh3Stream&) = delete;

  void Update(std::span<const std::byte> bytes);
  // A number by its little-endian bytes. For structs hash the fields, never the padding.
  template <typename T>
  requires std::is_arithmetic_v<T>
  void UpdateValue(T value) { Update(std::as_bytes(std::span(&value, 1))); }
  std::string Hex() const;  // 32 digits

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// SHA-256 of a stream, for weights that do not fit one string.
class Sha256Stream {
 public:
  Sha256Stream();
  ~Sha256Stream();
  Sha256Stream(const Sha256Stream&) = delete;
  Sha256Stream& operator=(const Sha256Stream&) = delete;

  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text) { Update(std::as_bytes(std::span(text.data(), text.size()))); }
  std::string Hex() const;  // 64 digits, of what was hashed so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pointsman
