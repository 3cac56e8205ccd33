// AVX2 with FMA and F16C: sixteen lanes are two registers. Included by vectors.h.
#pragma once
#include <immintrin.h>

namespace {

constexpr int ROWS_AT_ONCE = 2;  // sixteen registers hold no more

struct Floats {
  __m256 a, b;
};
struct Ints {
  __m256i a, b;
};
struct Bytes {
  __m256i a, b;
};

inline Floats all(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Floats load(const float* at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
inline void store(float* at, Floats x) {
  _mm256_storeu_ps(at, x.a);
  _mm256_storeu_ps(at + 8, x.b);
}
inline Floats operator+(Floats x, Floats y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline Floats operator-(Floats x, Floats y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline Floats operator*(Floats x, Floats y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline Floats operator/(Floats x, Floats y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline Floats fma(Floats x, Floats y, Floats z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Floats larger(Floats x, Floats y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline Floats smaller(Floats x, Floats y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline Floats magnitude(Floats x) {
  const __m256 sign = _mm256_set1_ps(-0.f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline Floats rounded(Floats x) { return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }
inline __m256 scaled(__m256 x, __m256 power) {  // x is about 1; a power below -126 gives 0
  const __m256 normal = _mm256_max_ps(power, _mm256_set1_ps(-127.f));
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(normal), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline Floats scaled(Floats x, Floats power) {
  return {scaled(x.a, power.a), scaled(x.b, power.b)};
}

inline Floats first(int64_t count, Floats x, Floats y) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i wanted = _mm256_set1_epi32(static_cast<int32_t>(count));
  const __m256i low = _mm256_cmpgt_epi32(wanted, lanes);
  const __m256i high = _mm256_cmpgt_epi32(wanted, _mm256_add_epi32(lanes, _mm256_set1_epi32(8)));
  return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(low)),
          _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(high))};
}

// Of pairs (a, b): (b, a).
inline Floats swapped(Floats x) {
  return {_mm256_permute_ps(x.a, 0xB1), _mm256_permute_ps(x.b, 0xB1)};
}
// Eight values, each twice.
inline Floats load_twice(const float* at) {
  const __m256 eight = _mm256_loadu_ps(at);
  return {_mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
          _mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))};
}

// Lane i + lane i + 8, then 4, 2 and 1 apart: one order in every build.
inline float sum(Floats x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float greatest(Floats x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline Ints all_ints(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
inline Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline __m128i sixteen(const int8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}
inline void store_rounded_bytes(int8_t* at, Floats x) {
  const __m256i low = _mm256_cvtps_epi32(x.a), high = _mm256_cvtps_epi32(x.b);
  const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), bytes);
}
inline Floats from_bytes(const int8_t* at) {
  const __m128i bytes = sixteen(at);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
// Of 32 bytes, those at even and at odd places.
inline Floats even_bytes(const int8_t* at) {
  const __m256i low = _mm256_cvtepu16_epi32(sixteen(at));
  const __m256i high = _mm256_cvtepu16_epi32(sixteen(at + 16));
  return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(low, 24), 24)),
          _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(high, 24), 24))};
}
inline Floats odd_bytes(const int8_t* at) {
  const __m256i low = _mm256_cvtepi16_epi32(sixteen(at));
  const __m256i high = _mm256_cvtepi16_epi32(sixteen(at + 16));
  return {_mm256_cvtepi32_ps(_mm256_srai_epi32(low, 8)),
          _mm256_cvtepi32_ps(_mm256_srai_epi32(high, 8))};
}
inline int32_t byte_sum(const int8_t* at) {
  int32_t total = 0;
  for (int i = 0; i < 16; ++i) total += at[i];
  return total;
}

inline Floats load_half(const uint16_t* at) {
  const __m128i* bits = reinterpret_cast<const __m128i*>(at);
  return {_mm256_cvtph_ps(_mm_loadu_si128(bits)), _mm256_cvtph_ps(_mm_loadu_si128(bits + 1))};
}
inline __m256i eight(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
inline Floats even_places(const uint16_t* at) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(eight(at), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(eight(at + 16), 16))};
}
inline Floats odd_places(const uint16_t* at) {
  const __m256i upper = _mm256_set1_epi32(-65536);
  return {_mm256_castsi256_ps(_mm256_and_si256(eight(at), upper)),
          _mm256_castsi256_ps(_mm256_and_si256(eight(at + 16), upper))};
}
inline Floats load_bf16(const uint16_t* at) {
  const __m256i bits = eight(at);
  const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(bits));
  const __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(bits, 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}
inline __m256i rounded_upper(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
}
inline Floats rounded_bf16(Floats x) {
  const __m256i upper = _mm256_set1_epi32(-65536);
  return {_mm256_castsi256_ps(_mm256_and_si256(rounded_upper(x.a), upper)),
          _mm256_castsi256_ps(_mm256_and_si256(rounded_upper(x.b), upper))};
}
inline void store_bf16(uint16_t* at, Floats x) {
  const __m256i low = _mm256_srli_epi32(rounded_upper(x.a), 16);
  const __m256i high = _mm256_srli_epi32(rounded_upper(x.b), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at),
                      _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8));
}
inline __m256i joined(__m256 even, __m256 odd) {
  return _mm256_blend_epi16(_mm256_srli_epi32(rounded_upper(even), 16), rounded_upper(odd), 0xAA);
}
inline void store_bf16_pairs(uint16_t* at, Floats even, Floats odd) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), joined(even.a, odd.a));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + 16), joined(even.b, odd.b));
}

inline Bytes load_bytes(const void* at) {
  return {eight(at), eight(static_cast<const char*>(at) + 32)};
}
inline void store_bytes(void* at, Bytes x) {
  _mm256_storeu_si256(static_cast<__m256i*>(at), x.a);
  _mm256_storeu_si256(static_cast<__m256i*>(at) + 1, x.b);
}
inline Bytes low_nibbles(Bytes x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline Bytes high_nibbles(Bytes x) {
  return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}
inline Floats byte_of(Bytes x, int place) {
  const __m256i mask = _mm256_set1_epi32(255);
  return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.a, 8 * place), mask)),
          _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.b, 8 * place), mask))};
}
// Products of 16 bits: maddubs would saturate.
inline __m256i dot(__m256i sum, __m256i weights, __m256i even, __m256i odd) {
  const __m256i even_weights = _mm256_and_si256(weights, _mm256_set1_epi16(255));
  const __m256i odd_weights = _mm256_srli_epi16(weights, 8);
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even_weights, even));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(odd_weights, odd));
}
inline Ints dot(Ints sum, Bytes weights, const int8_t* four) {
  int32_t packed;
  memcpy(&packed, four, 4);
  const __m256i each = _mm256_set1_epi32(packed);
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(each, 8), 8);
  const __m256i odd = _mm256_srai_epi16(each, 8);
  return {dot(sum.a, weights.a, even, odd), dot(sum.b, weights.b, even, odd)};
}

inline void prefetch(const char* at, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(at + i, _MM_HINT_T0);
}

class NoDenormals {
 public:
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~NoDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
};

}  // namespace
