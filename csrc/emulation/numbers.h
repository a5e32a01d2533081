// bfloat16, float16 and TF32 as bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace clipfast {
namespace emulation {

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float from_bfloat16(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }
inline uint16_t to_bfloat16(float x) {
  if (x != x) return 0x7fff;
  const uint32_t bits = bits_of(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                     : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return bits >> 15 ? -size : size;
}
inline uint16_t to_half(float x) {
  const uint16_t sign = static_cast<uint16_t>(bits_of(x) >> 16 & 0x8000);
  const double size = std::fabs(static_cast<double>(x));
  if (x != x) return 0x7fff;
  if (size >= 65520.0) return sign | 0x7c00;
  int exponent = 0;
  std::frexp(size, &exponent);  // 2^(exponent - 1) <= size < 2^exponent
  if (size == 0.0 || exponent < -13) return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(size, 24)));
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) +
                                      static_cast<int>(std::nearbyint(std::ldexp(size, 11 - exponent))) - 1024);
}

// The tensor cores ignore the low 13 bits.
inline float truncated_to_tf32(uint32_t bits) { return float_of(bits & ~0x1fffu); }
inline uint32_t rounded_to_tf32(uint32_t bits) {
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
}

}  // namespace emulation
}  // namespace clipfast
