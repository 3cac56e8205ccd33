// AVX-512 F, BW, DQ, VL and VNNI. Included by vectors.h.
#pragma once
#include <immintrin.h>

namespace {

constexpr int ROWS_AT_ONCE = 8;  // rows of activations that one read of the weights serves

struct Floats {
  __m512 v;
};
struct Ints {
  __m512i v;
};
struct Bytes {
  __m512i v;
};

inline Floats all(float value) { return {_mm512_set1_ps(value)}; }
inline Floats load(const float* at) { return {_mm512_loadu_ps(at)}; }
inline void store(float* at, Floats a) { _mm512_storeu_ps(at, a.v); }
inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats larger(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats smaller(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats magnitude(Floats a) { return {_mm512_abs_ps(a.v)}; }
inline Floats rounded(Floats a) { return {_mm512_roundscale_ps(a.v, 8)}; }
inline Floats scaled(Floats a, Floats power) { return {_mm512_scalef_ps(a.v, power.v)}; }

// Lanes below `count` of a, the others of b.
inline Floats first(int64_t count, Floats a, Floats b) {
  const int64_t some = count < 0 ? 0 : count;
  const auto mask = static_cast<__mmask16>(some >= 16 ? 0xFFFF : (1u << some) - 1);
  return {_mm512_mask_mov_ps(b.v, mask, a.v)};
}

// Of pairs (a, b): (b, a).
inline Floats swapped(Floats a) { return {_mm512_permute_ps(a.v, 0xB1)}; }
// Eight values, each twice.
inline Floats load_twice(const float* at) {
  const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  return {_mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(at)))};
}

// Lane i + lane i + 8, then 4, 2 and 1 apart: one order in every build.
inline float sum(Floats a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float greatest(Floats a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline Ints all_ints(int32_t value) { return {_mm512_set1_epi32(value)}; }
inline Floats to_floats(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline void store_rounded_bytes(int8_t* at, Floats a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
inline Floats from_bytes(const int8_t* at) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
// Of 32 bytes, those at even and at odd places.
inline __m512i pairs_of_bytes(const int8_t* at) {
  return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}
inline Floats even_bytes(const int8_t* at) {
  return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(pairs_of_bytes(at), 24), 24))};
}
inline Floats odd_bytes(const int8_t* at) {
  return {_mm512_cvtepi32_ps(_mm512_srai_epi32(pairs_of_bytes(at), 8))};
}
inline int32_t byte_sum(const int8_t* at) {  // of 16
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  return _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(bytes));
}

inline Floats load_half(const uint16_t* at) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)))};
}
// Of 32 bfloat16 values, those at even and at odd places.
inline Floats even_places(const uint16_t* at) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(at), 16))};
}
inline Floats odd_places(const uint16_t* at) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(at), _mm512_set1_epi32(-65536)))};
}
inline Floats load_bf16(const uint16_t* at) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
#ifdef __AVX512BF16__
// The processor's rounding takes denormals as 0; under NoDenormals there are none.
inline __m256i halves(Floats a) { return (__m256i)_mm512_cvtneps_pbh(a.v); }
inline Floats rounded_bf16(Floats a) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves(a)), 16))};
}
inline void store_bf16(uint16_t* at, Floats a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), halves(a));
}
// 32 values: even's at even places.
inline void store_bf16_pairs(uint16_t* at, Floats even, Floats odd) {
  const __m512i low = _mm512_cvtepu16_epi32(halves(even));
  const __m512i high = _mm512_cvtepu16_epi32(halves(odd));
  _mm512_storeu_si512(at, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
#else
inline __m512i rounded_upper(Floats a) {  // bfloat16 in the upper halves, below them rubbish
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
}
inline Floats rounded_bf16(Floats a) {
  return {_mm512_castsi512_ps(_mm512_and_si512(rounded_upper(a), _mm512_set1_epi32(-65536)))};
}
inline void store_bf16(uint16_t* at, Floats a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_upper(a), 16)));
}
// 32 values: even's at even places.
inline void store_bf16_pairs(uint16_t* at, Floats even, Floats odd) {
  const __m512i low = _mm512_srli_epi32(rounded_upper(even), 16);
  _mm512_storeu_si512(at, _mm512_mask_blend_epi16(0xAAAAAAAA, low, rounded_upper(odd)));
}
#endif

// 64 bytes: four inputs of each of 16 outputs.
inline Bytes load_bytes(const void* at) { return {_mm512_loadu_si512(at)}; }
inline void store_bytes(void* at, Bytes a) { _mm512_storeu_si512(at, a.v); }
inline Bytes low_nibbles(Bytes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline Bytes high_nibbles(Bytes a) {
  return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}
inline Bytes less(Bytes a, int8_t offset) {
  return {_mm512_sub_epi8(a.v, _mm512_set1_epi8(offset))};
}
// Byte `place` (0 to 3) of each lane, without sign.
inline Floats byte_of(Bytes a, int place) {
  const __m512i moved = _mm512_srli_epi32(a.v, static_cast<unsigned>(8 * place));
  return {_mm512_cvtepi32_ps(_mm512_and_si512(moved, _mm512_set1_epi32(255)))};
}
// Adds to each lane the product of its four bytes, without sign, and these four with sign.
inline Ints dot(Ints sum, Bytes weights, const int8_t* four) {
  int32_t packed;
  memcpy(&packed, four, 4);
  return {_mm512_dpbusd_epi32(sum.v, weights.v, _mm512_set1_epi32(packed))};
}

inline void prefetch(const char* at, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(at + i, _MM_HINT_T0);
}

// Denormals count as 0 while this lives: tiles count them so.
class NoDenormals {
 public:
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~NoDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
};

}  // namespace
