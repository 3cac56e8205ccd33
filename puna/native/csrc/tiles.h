// AMX tiles of bfloat16, and the forms in which matrices lie for them.
//
// A tile is 16 rows of 64 bytes. The product of tile A (16 rows, 32 values of contraction) and
// tile B (16 pairs of contraction, 16 columns, the two of a pair side by side) is added to a tile
// of 16 x 16 float32. A matrix [rows, width] is packed into whole tiles in one of four forms:
//   rows    A tiles as the matrix lies      [row / 16][column / 32]   contraction: width
//   over    the same, turned over by pairs  [row / 16][column / 32]   B tiles, contraction: width
//   pairs   pairs of rows side by side      [row / 32][column / 16]   B tiles, contraction: rows
//   across  the transpose                   [row / 32][column / 16]   A tiles, contraction: rows
// `rows` are padded to whole tiles with zeros; widths are multiples of 32.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace {

using bf16 = uint16_t;
constexpr int64_t TILE = 512;  // bf16 values in a tile

// GCC's intrinsics do not tell the compiler which memory a tile is loaded from: what was stored
// there before must really be stored.
inline void finish_stores() { __asm__ volatile("" ::: "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Eight full tiles while this lives; afterwards what the thread had configured before, which
// other libraries rely on.
class Tiles {
 public:
  Tiles() {
    _tile_storeconfig(before_);
    TileConfig full;
    for (int i = 0; i < 8; ++i) full.row_bytes[i] = 64, full.rows[i] = 16;
    finish_stores();
    _tile_loadconfig(&full);
  }
  ~Tiles() {
    finish_stores();
    if (before_[0])
      _tile_loadconfig(before_);
    else
      _tile_release();
  }

 private:
  alignas(64) uint8_t before_[64];
};

// Where the tiles of a packed operand stand: `next` from one tile of the output's rows (or
// columns) to the other, `step` along the contraction.
struct Operand {
  const bf16* at;
  int64_t next, step;
};

// c[32, 32] = a b, or += with `add`; c's rows are `stride` floats apart.
inline void product(Operand a, Operand b, int64_t steps, float* c, int64_t stride, bool add) {
  const int64_t bytes = stride * 4;
  float* below = c + 16 * stride;
  finish_stores();
  if (add) {
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + 16, bytes);
    _tile_loadd(2, below, bytes);
    _tile_loadd(3, below + 16, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t i = 0; i < steps; ++i, a.at += a.step, b.at += b.step) {
    _tile_loadd(4, a.at, 64);
    _tile_loadd(6, b.at, 64);
    _tile_loadd(5, a.at + a.next, 64);
    _tile_loadd(7, b.at + b.next, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + 16, bytes);
  _tile_stored(2, below, bytes);
  _tile_stored(3, below + 16, bytes);
}

inline __m512 widen(__m256i values) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

inline __m512 widen_at(const bf16* at) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}

inline __m512i narrow(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

inline void narrow_to(bf16* at, __m512 values) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), (__m256i)_mm512_cvtneps_pbh(values));
}

// 2^x with a relative error of 2e-7: the polynomial of degree 5 that is nearest on [-1/2, 1/2] and
// exact at 0. It is 0 from -150 down, and NaN stays NaN (of two operands max returns the second).
inline __m512 exp2_of(__m512 x) {
  constexpr float FACTORS[] = {9.6715127e-3f, 5.5507337e-2f, 2.4022242e-1f, 6.9314698e-1f, 1.f};
  x = _mm512_max_ps(_mm512_set1_ps(-150.f), x);
  const __m512 whole = _mm512_roundscale_ps(x, 8);
  const __m512 rest = _mm512_sub_ps(x, whole);
  __m512 power = _mm512_set1_ps(1.3264727e-3f);
  for (const float factor : FACTORS)
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(factor));
  return _mm512_scalef_ps(power, whole);
}

// Transposes 16 rows of 16 32-bit values: first 4 x 4 blocks within lanes, then the lanes.
inline void transpose(__m512i* rows) {
  __m512i halfway[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    const __m512i b = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]);
    halfway[i] = _mm512_unpacklo_epi64(a, c);
    halfway[i + 1] = _mm512_unpackhi_epi64(a, c);
    halfway[i + 2] = _mm512_unpacklo_epi64(b, d);
    halfway[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(halfway[i], halfway[i + 4], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(halfway[i], halfway[i + 4], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(halfway[i + 8], halfway[i + 12], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(halfway[i + 8], halfway[i + 12], 0xdd);
    rows[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    rows[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    rows[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Lane i of an index holds start + (i % 2) odd + (i / 2) pair: what a permutation puts there.
struct Lanes {
  alignas(64) uint16_t at[32] = {};
  constexpr Lanes(int start, int odd, int pair) {
    for (int i = 0; i < 32; ++i) at[i] = static_cast<uint16_t>(start + i % 2 * odd + i / 2 * pair);
  }
  __m512i get() const { return _mm512_load_si512(at); }
};

// rows -> over
inline void turn_over(const bf16* rows, int64_t tiles, bf16* over) {
  for (const bf16* end = rows + tiles * TILE; rows < end; rows += TILE, over += TILE) {
    __m512i lines[16];
    for (int i = 0; i < 16; ++i) lines[i] = _mm512_load_si512(rows + 32 * i);
    transpose(lines);
    for (int i = 0; i < 16; ++i) _mm512_store_si512(over + 32 * i, lines[i]);
  }
}

// 32 rows of a matrix as it lies in memory, or of form rows: `line` values from a row to the next,
// `below` from the first to the seventeenth, `next` from 32 columns to the 32 after them.
struct Rows {
  const bf16* at;
  int64_t line, below, next;
};

// 32 rows -> pairs
inline void pair_up(Rows from, int64_t width, bf16* pairs) {
  static constexpr Lanes LEFT(0, 32, 1), RIGHT(16, 32, 1);  // 16 columns each, of both rows
  const __m512i left = LEFT.get(), right = RIGHT.get();
  for (int64_t row = 0; row < 32; row += 2) {
    const bf16* at = from.at + row / 16 * from.below + row % 16 * from.line;
    bf16* to = pairs + row / 2 * 32;
    for (int64_t column = 0; column < width; column += 32, at += from.next, to += 2 * TILE) {
      const __m512i a = _mm512_loadu_si512(at), b = _mm512_loadu_si512(at + from.line);
      _mm512_store_si512(to, _mm512_permutex2var_epi16(a, left, b));
      _mm512_store_si512(to + TILE, _mm512_permutex2var_epi16(a, right, b));
    }
  }
}

// Lane i: 16 bytes of row 4 i.
inline __m512i every_fourth_row(const bf16* at, int64_t line) {
  const auto row = [&](int64_t i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 4 * i * line));
  };
  __m512i lanes = _mm512_castsi128_si512(row(0));
  lanes = _mm512_inserti32x4(lanes, row(1), 1);
  lanes = _mm512_inserti32x4(lanes, row(2), 2);
  return _mm512_inserti32x4(lanes, row(3), 3);
}

// Eight values of 16 rows -> four lines, each with two of the values for the 16 rows.
inline void take_pairs(const bf16* at, int64_t line, __m512i* pairs) {
  const __m512i first = every_fourth_row(at, line), second = every_fourth_row(at + line, line);
  const __m512i third = every_fourth_row(at + 2 * line, line);
  const __m512i fourth = every_fourth_row(at + 3 * line, line);
  const __m512i a = _mm512_unpacklo_epi32(first, second), c = _mm512_unpackhi_epi32(first, second);
  const __m512i b = _mm512_unpacklo_epi32(third, fourth), d = _mm512_unpackhi_epi32(third, fourth);
  pairs[0] = _mm512_unpacklo_epi64(a, b), pairs[1] = _mm512_unpackhi_epi64(a, b);
  pairs[2] = _mm512_unpacklo_epi64(c, d), pairs[3] = _mm512_unpackhi_epi64(c, d);
}

// 32 rows -> across
inline void lay_across(Rows from, int64_t width, bf16* across) {
  static constexpr Lanes EVEN(0, 2, 4), ODD(1, 2, 4);
  const __m512i even = EVEN.get(), odd = ODD.get();
  for (int64_t column = 0; column < width; column += 8) {
    __m512i upper[4], lower[4];
    const bf16* at = from.at + column / 32 * from.next + column % 32;
    take_pairs(at, from.line, upper);
    take_pairs(at + from.below, from.line, lower);
    bf16* to = across + column / 16 * TILE + column % 16 * 32;
    for (int i = 0; i < 4; ++i, to += 64) {
      _mm512_store_si512(to, _mm512_permutex2var_epi16(upper[i], even, lower[i]));
      _mm512_store_si512(to + 32, _mm512_permutex2var_epi16(upper[i], odd, lower[i]));
    }
  }
}

}  // namespace
