// Sixteen lanes of float32 or int32, in the instructions of whichever build includes this: AVX-512
// with VNNI, AVX2 with FMA and F16C, or plain C++ that any compiler builds. The same lanes take
// the same operations in the same order in each, so that the builds differ by roundings of fma
// alone, and not at all where both have it.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include "vectors_avx512.h"
#elif defined(__AVX2__)
#include "vectors_avx2.h"
#else
#include "vectors_portable.h"
#endif

namespace {

constexpr int64_t LANES = 16;

// 2^x with a relative error of 2e-7: the polynomial of degree 5 that is nearest on [-1/2, 1/2] and
// exact at 0. It is 0 from -127 down, and 2^127 from 127 up.
inline Floats exp2_of(Floats x) {
  constexpr float FACTORS[] = {9.6715127e-3f, 5.5507337e-2f, 2.4022242e-1f, 6.9314698e-1f, 1.f};
  x = smaller(larger(x, all(-150.f)), all(127.f));
  const Floats whole = rounded(x);
  const Floats rest = x - whole;
  Floats power = all(1.3264727e-3f);
  for (const float factor : FACTORS) power = fma(power, rest, all(factor));
  return scaled(power, whole);
}

// 2^x of finite x up to 0 with a relative error of 1e-4, for what is then rounded to bfloat16,
// whose is 2e-3: degree 3, exact at 0, and 0 from -127 down.
inline Floats exp2_for_bf16(Floats x) {
  constexpr float FACTORS[] = {2.4221097e-1f, 6.9328293e-1f, 1.f};
  const Floats whole = rounded(x);
  const Floats rest = x - whole;
  Floats power = all(5.500893e-2f);
  for (const float factor : FACTORS) power = fma(power, rest, all(factor));
  return scaled(power, whole);
}

// Pairs (a, b) turned by the angle of each: (a cos - b sin, a sin + b cos).
inline Floats turned(Floats pairs, Floats cosines, Floats sines) {
  alignas(64) static constexpr float SIGNS[16] = {-1, 1, -1, 1, -1, 1, -1, 1,
                                                  -1, 1, -1, 1, -1, 1, -1, 1};
  return fma(swapped(pairs), sines * load(SIGNS), pairs * cosines);
}

// a · b + c, rounded once where the processor can.
inline float fma(float a, float b, float c) {
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline float exp2_of(float x) {
  alignas(64) float at[16];
  store(at, exp2_of(all(x)));
  return at[0];
}

inline float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

// To nearest, ties to even; no NaN comes here.
inline uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace
