// float16 and bfloat16 as their bits, to and from fp32. Widening is exact; narrowing rounds to the nearest, ties to
// even. By hand: GCC 12 has _Float16, clang 14 (clang-tidy) not without AVX-512. Pure functions.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace pointsman {

inline float BFloat16ToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

inline uint16_t FloatToBFloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);  // stays not a number
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  constexpr float kSmallestSubnormal = 5.9604644775390625e-8f;  // 2^-24
  uint32_t bits = 0;
  if (magnitude < 0x400) {
    bits = std::bit_cast<uint32_t>(static_cast<float>(magnitude) * kSmallestSubnormal);
  } else if (magnitude < 0x7c00) {
    bits = (magnitude << 13) + ((127u - 15u) << 23);
  } else {
    bits = 0x7f800000 | magnitude << 13;
  }
  return std::bit_cast<float>(bits | sign);
}

inline uint16_t FloatToHalf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and above: infinity
  if (magnitude < 0x38800000) {  // below 2^-14; the last bit of a float at 0.5 is 2^-24, so the sum is what rounds
    const auto rounded = std::bit_cast<uint32_t>(std::fabs(value) + 0.5f);
    return static_cast<uint16_t>(sign | (rounded - std::bit_cast<uint32_t>(0.5f)));
  }
  return static_cast<uint16_t>(sign | ((magnitude + 0xfff + (magnitude >> 13 & 1) - ((127u - 15u) << 23)) >> 13));
}

}  // namespace pointsman
