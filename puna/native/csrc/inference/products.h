// Weights times many rows, on AMX tiles: a block of weights is expanded once, into the second-level
// cache, and serves all rows.
//
// `multiply_tiles`: bfloat16 activations and weights rounded to bfloat16, sums of whole
// contractions in float32. For bfloat16 weights that is what dots.h computes, bit for bit.
// `multiply_bytes`: the arithmetic of dots.h on quantised weights, bit for bit: a tile of depth 64,
// a group's weights twice and both bytes of its activations, gives int32 sums, which vectors scale
// and add.
#pragma once
#include <type_traits>

#include "../tiles.h"
#include "dots.h"

namespace {

constexpr int64_t TILES_AT_ONCE = 16;  // a unit has up to 256 outputs
constexpr int64_t DEPTH = 48;          // groups of weights expanded at once: 768 kB
constexpr int64_t STEP = 12;           // groups multiplied at once: 32 rows of them take 24 kB
constexpr int64_t BYTE_DEPTH = 4;      // groups of int8 weights expanded at once: what 16 rows need
constexpr int64_t BYTE_TILES = 4;      // of them then stays in the first-level cache

inline int64_t whole_rows(int64_t rows) { return (rows + 31) / 32 * 32; }

inline int64_t product_scratch_bytes(int64_t rows) {
  return TILES_AT_ONCE * (DEPTH * TILE * 2 + whole_rows(rows) * 64);
}

// Two inputs' weights of 16 outputs, side by side.
inline void store_pairs(bf16* to, Floats even, Floats odd) {
  static constexpr Lanes SIDE_BY_SIDE(0, 16, 1);
  _mm512_store_si512(to, _mm512_permutexvar_epi16(SIDE_BY_SIDE.get(), narrow(even.v, odd.v)));
}

template <class Kind>
inline void expand_to_tile(const char* block, bf16* to) {
  if constexpr (std::is_same<Kind, Plain<BF16>>::value) {
    for (int i = 0; i < 16; ++i) store_bytes(to + 32 * i, load_bytes(block + 64 * i));
  } else if constexpr (Kind::IS_PLAIN) {
    alignas(64) float wide[32 * 16];
    Kind::expand(block, wide);
    for (int i = 0; i < 16; ++i)
      store_pairs(to + 32 * i, load(wide + 32 * i), load(wide + 32 * i + 16));
  } else {
    for (int half = 0; half < Kind::HALVES; ++half) {
      constexpr int LINES_EACH = 8 / Kind::HALVES;
      const Floats factor = Kind::scale(block, half);
      const Floats lowest = Kind::HAS_MINIMUM ? Kind::minimum(block, half)
                                              : factor * all(static_cast<float>(-Kind::OFFSET));
      for (int line = half * LINES_EACH; line < (half + 1) * LINES_EACH; ++line, to += 64) {
        const Bytes codes = Kind::codes(block, line);
        store_pairs(to, fma(byte_of(codes, 0), factor, lowest),
                    fma(byte_of(codes, 1), factor, lowest));
        store_pairs(to + 32, fma(byte_of(codes, 2), factor, lowest),
                    fma(byte_of(codes, 3), factor, lowest));
      }
    }
  }
}

inline void put_all(const float* sums, int64_t rows, int64_t tiles, Result result) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < tiles; ++i)
      result.put(row, 16 * i, load(sums + (row * tiles + i) * 16));
}

// As multiply_few; `tiles` is even and at most TILES_AT_ONCE. Where nothing is added the result is
// written to whole blocks of 32 rows.
inline void multiply_tiles(const Matrix& m, const Activations& a, int64_t rows, int64_t tile,
                           int64_t tiles, Result result, char* scratch) {
  bf16* weights = reinterpret_cast<bf16*>(scratch);
  float* sums = reinterpret_cast<float*>(scratch + TILES_AT_ONCE * DEPTH * TILE * 2);
  int64_t stride = tiles * 16;
  if (!result.add) sums = result.out, stride = result.stride;
  const int64_t parts = (a.groups + DEPTH - 1) / DEPTH, most = (a.groups + parts - 1) / parts;
  for (int64_t start = 0; start < a.groups; start += most) {
    const int64_t depth = a.groups - start < most ? a.groups - start : most;
    with_format(m.format, [&](auto kind) {
      using Kind = decltype(kind);
      for (int64_t i = 0; i < tiles; ++i) {
        const char* block = m.data + ((tile + i) * a.groups + start) * Kind::BLOCK;
        for (int64_t group = 0; group < depth; ++group, block += Kind::BLOCK) {
          prefetch(block + 4 * Kind::BLOCK, Kind::BLOCK);
          expand_to_tile<Kind>(block, weights + (i * DEPTH + group) * TILE);
        }
      }
    });
    const int64_t steps = (depth + STEP - 1) / STEP, step = (depth + steps - 1) / steps;
    for (int64_t row = 0; row < rows; row += 32)
      for (int64_t part = 0; part < depth; part += step) {
        const bf16* at = a.tiles + (row / 16 * a.groups + start + part) * TILE;
        const int64_t some = depth - part < step ? depth - part : step;
        for (int64_t i = 0; i < tiles; i += 2)
          product({at, a.groups * TILE, TILE},
                  {weights + (i * DEPTH + part) * TILE, DEPTH * TILE, TILE}, some,
                  sums + row * stride + i * 16, stride, start + part > 0);
      }
  }
  finish_stores();
  if (result.add) put_all(sums, rows, tiles, result);
}

// A few groups of a few tiles of weights, as int8 and float32.
struct alignas(64) ExpandedBytes {
  int8_t codes[BYTE_TILES][BYTE_DEPTH][2 * 512];
  float scales[BYTE_TILES][BYTE_DEPTH][16];
  float minima[BYTE_TILES][BYTE_DEPTH][16];
};

template <class Kind>
inline void expand_bytes(const char* block, int8_t* codes, float* scales, float* minima) {
  for (int line = 0; line < 8; ++line) {
    const Bytes four = less(Kind::codes(block, line), static_cast<int8_t>(Kind::OFFSET));
    store_bytes(codes + 64 * line, four);
    store_bytes(codes + 512 + 64 * line, four);
  }
  store(scales, Kind::scale(block, 0));
  if (Kind::HAS_MINIMUM) store(minima, Kind::minimum(block, 0));
}

// A few groups of sixteen rows of activations times those of a tile of weights.
template <class Kind>
struct ByteProduct {
  const ExpandedBytes& w;
  int64_t tile;
  const int8_t* rows;
  const float *scales, *totals;

  ByteProduct(const ExpandedBytes& weights, int64_t tile_of_them, const Activations& a, int64_t row,
              int64_t group)
      : w(weights),
        tile(tile_of_them),
        rows(a.bytes + a.at(row, group) * 64),
        scales(a.scales + a.at(row, group)),
        totals(a.scaled_sums + a.at(row, group) * 3) {}

  // Up to BYTE_DEPTH groups' dots of sixteen rows with sixteen outputs.
  void multiply(int64_t depth, int32_t (*dots)[256]) const {
    const auto& codes = w.codes[tile];
    finish_stores();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, rows, 64);
    _tile_loadd(6, codes[0], 64);
    _tile_dpbssd(0, 4, 6);
    if (depth > 1) {
      _tile_loadd(5, rows + 1024, 64);
      _tile_loadd(7, codes[1], 64);
      _tile_dpbssd(1, 5, 7);
    }
    if (depth > 2) {
      _tile_loadd(4, rows + 2048, 64);
      _tile_loadd(6, codes[2], 64);
      _tile_dpbssd(2, 4, 6);
    }
    if (depth > 3) {
      _tile_loadd(5, rows + 3072, 64);
      _tile_loadd(7, codes[3], 64);
      _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, dots[0], 64);
    _tile_stored(1, dots[1], 64);
    _tile_stored(2, dots[2], 64);
    _tile_stored(3, dots[3], 64);
    finish_stores();
  }

  // Adds the scaled dots to the sums; meanwhile asks for the blocks from `next` on.
  void add(int64_t depth, const char* next, float* sums, int64_t stride) const {
    alignas(64) int32_t dots[BYTE_DEPTH][256];
    multiply(depth, dots);
    Floats mine[16];
    for (int row = 0; row < 16; ++row) mine[row] = load(sums + row * stride);
    for (int64_t group = 0; group < depth; ++group) {
      prefetch(next + group * Kind::BLOCK, Kind::BLOCK);
      const Floats scale = load(w.scales[tile][group]);
      for (int row = 0; row < 16; ++row) {
        const Floats dot = {_mm512_cvtepi32_ps(_mm512_load_si512(dots[group] + 16 * row))};
        mine[row] = fma(dot, scale * all(scales[group * 16 + row]), mine[row]);
        if (Kind::HAS_MINIMUM)
          mine[row] = fma(load(w.minima[tile][group]), all(totals[group * 48 + row]), mine[row]);
      }
    }
    for (int row = 0; row < 16; ++row) store(sums + row * stride, mine[row]);
  }
};

template <class Kind>
inline void multiply_bytes(const Matrix& m, const Activations& a, int64_t rows, int64_t tile,
                           int64_t tiles, float* sums, ExpandedBytes& w) {
  for (int64_t i = 0; i < whole_rows(rows) * tiles; ++i) store(sums + 16 * i, all(0.f));
  for (int64_t start = 0; start < a.groups; start += BYTE_DEPTH) {
    const int64_t depth = a.groups - start < BYTE_DEPTH ? a.groups - start : BYTE_DEPTH;
    const char* blocks = m.data + (tile * a.groups + start) * Kind::BLOCK;
    for (int64_t i = 0; i < tiles; ++i)
      for (int64_t group = 0; group < depth; ++group)
        expand_bytes<Kind>(blocks + (i * a.groups + group) * Kind::BLOCK, w.codes[i][group],
                           w.scales[i][group], w.minima[i][group]);
    const char* next = blocks + depth * Kind::BLOCK;
    if (start + depth == a.groups) next += (tiles - 1) * a.groups * Kind::BLOCK;
    for (int64_t row = 0; row < rows; row += 16)
      for (int64_t i = 0; i < tiles; ++i)
        ByteProduct<Kind>(w, i, a, row, start)
            .add(depth, next + i * a.groups * Kind::BLOCK, sums + (row * tiles + i) * 16,
                 tiles * 16);
  }
}

// As multiply_tiles, for quantised weights with one scale a group.
inline void multiply_bytes(const Matrix& m, const Activations& a, int64_t rows, int64_t tile,
                           int64_t tiles, Result result, char* scratch) {
  ExpandedBytes& expanded = *reinterpret_cast<ExpandedBytes*>(scratch);
  float* sums = reinterpret_cast<float*>(scratch + sizeof(ExpandedBytes));
  static_assert(sizeof(ExpandedBytes) <= TILES_AT_ONCE * DEPTH * TILE * 2, "the scratch is shared");
  with_format(m.format, [&](auto kind) {
    using Kind = decltype(kind);
    if constexpr (!Kind::IS_PLAIN) {
      for (int64_t i = 0; i < tiles; i += BYTE_TILES) {
        const int64_t some = tiles - i < BYTE_TILES ? tiles - i : BYTE_TILES;
        multiply_bytes<Kind>(m, a, rows, tile + i, some, sums, expanded);
        put_all(sums, rows, some, {result.out + 16 * i, result.stride, result.add});
      }
    }
  });
}

}  // namespace
