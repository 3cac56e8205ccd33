// Weights times many rows, on AMX tiles: a block of weights is expanded once, into the second-level
// cache, and serves all rows.
//
// `multiply_tiles`: bfloat16 activations and weights rounded to bfloat16, sums of whole
// contractions in float32. For bfloat16 weights that is what dots.h computes, bit for bit.
// `multiply_bytes`: the arithmetic of dots.h on quantised weights, bit for bit: a tile of depth 32
// gives a group's int32 sums, which vectors scale and add.
#pragma once
#include <type_traits>

#include "../tiles.h"
#include "dots.h"

namespace {

constexpr int64_t TILES_AT_ONCE = 16;  // a unit has up to 256 outputs
constexpr int64_t DEPTH = 24;          // groups: 32 rows of activations then take 48 kB
constexpr int64_t BYTE_DEPTH = 8;      // groups of int8 weights expanded at once
constexpr int64_t BYTE_TILES = 4;

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
    for (int64_t row = 0; row < rows; row += 32) {
      const bf16* at = a.tiles + (row / 16 * a.groups + start) * TILE;
      for (int64_t i = 0; i < tiles; i += 2)
        product({at, a.groups * TILE, TILE}, {weights + i * DEPTH * TILE, DEPTH * TILE, TILE},
                depth, sums + row * stride + i * 16, stride, start > 0);
    }
  }
  finish_stores();
  if (result.add) put_all(sums, rows, tiles, result);
}

// Tiles for int8 products of depth 32 while this lives; afterwards what was there before.
class ByteTiles {
 public:
  ByteTiles() {
    _tile_storeconfig(before_);
    TileConfig config;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
    config.row_bytes[4] = config.row_bytes[5] = 32;  // activations: 16 rows of 32 bytes
    config.rows[6] = config.rows[7] = 8;             // weights: 8 lines
    finish_stores();
    _tile_loadconfig(&config);
  }
  ~ByteTiles() {
    finish_stores();
    _tile_loadconfig(before_);
  }

 private:
  alignas(64) uint8_t before_[64];
};

// A few groups of a few tiles of weights, as int8 and float32.
struct alignas(64) ExpandedBytes {
  int8_t codes[BYTE_TILES][BYTE_DEPTH][512];
  float scales[BYTE_TILES][BYTE_DEPTH][16];
  float minima[BYTE_TILES][BYTE_DEPTH][16];
};

template <class Kind>
inline void expand_bytes(const char* block, int8_t* codes, float* scales, float* minima) {
  for (int line = 0; line < 8; ++line)
    store_bytes(codes + 64 * line,
                less(Kind::codes(block, line), static_cast<int8_t>(Kind::OFFSET)));
  store(scales, Kind::scale(block, 0));
  if (Kind::HAS_MINIMUM) store(minima, Kind::minimum(block, 0));
}

// Sixteen rows times a tile of weights, `depth` groups from `group` on, added to `sums`.
template <class Kind>
class ByteProduct {
 public:
  ByteProduct(const Activations& a, int64_t row, int64_t start, const ExpandedBytes& w, int tile)
      : a_(a), w_(w), tile_(tile), place_(a.at(row, start)) {}

  // Meanwhile asks for the blocks from `next` on, as many as these.
  void add(int64_t depth, Floats* sums, const char* next) {
    int64_t group = 0;
    if (depth >= 4) multiply_four(0, dots_[0]);
    for (; group + 4 <= depth; group += 4) {
      const int half = static_cast<int>(group / 4 % 2);
      if (group + 8 <= depth) multiply_four(group + 4, dots_[1 - half]);
      for (int i = 0; i < 4; ++i) {
        prefetch(next + (group + i) * Kind::BLOCK, Kind::BLOCK);
        take(group + i, dots_[half][i], sums);
      }
    }
    for (; group < depth; ++group) {
      multiply_one(group, dots_[0][0]);
      take(group, dots_[0][0], sums);
    }
  }

 private:
  const int8_t* rows(int64_t group) const { return a_.bytes + (place_ + group * 16) * 32; }
  void multiply_one(int64_t group, int32_t* to) {
    finish_stores();
    _tile_zero(0);
    _tile_loadd(4, rows(group), 32);
    _tile_loadd(6, w_.codes[tile_][group], 64);
    _tile_dpbssd(0, 4, 6);
    _tile_stored(0, to, 64);
    finish_stores();
  }
  void multiply_four(int64_t group, int32_t (*to)[256]) {
    finish_stores();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, rows(group), 32);
    _tile_loadd(6, w_.codes[tile_][group], 64);
    _tile_loadd(5, rows(group + 1), 32);
    _tile_loadd(7, w_.codes[tile_][group + 1], 64);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 5, 7);
    _tile_loadd(4, rows(group + 2), 32);
    _tile_loadd(6, w_.codes[tile_][group + 2], 64);
    _tile_loadd(5, rows(group + 3), 32);
    _tile_loadd(7, w_.codes[tile_][group + 3], 64);
    _tile_dpbssd(2, 4, 6);
    _tile_dpbssd(3, 5, 7);
    _tile_stored(0, to[0], 64);
    _tile_stored(1, to[1], 64);
    _tile_stored(2, to[2], 64);
    _tile_stored(3, to[3], 64);
    finish_stores();
  }
  void take(int64_t group, const int32_t* dots, Floats* sums) const {
    const Floats scale = load(w_.scales[tile_][group]);
    const float* mine = a_.scales + place_ + group * 16;
    const int32_t* low = a_.sums + (place_ + group * 16) * 2;
    for (int row = 0; row < 16; ++row) {
      const Floats dot = {_mm512_cvtepi32_ps(_mm512_load_si512(dots + 16 * row))};
      sums[row] = fma(dot, scale * all(mine[row]), sums[row]);
      if (Kind::HAS_MINIMUM) {
        // Added as floats, exactly: rows of padding hold anything.
        const float total =
            mine[row] * (static_cast<float>(low[row]) + static_cast<float>(low[16 + row]));
        sums[row] = fma(load(w_.minima[tile_][group]), all(total), sums[row]);
      }
    }
  }

  const Activations& a_;
  const ExpandedBytes& w_;
  const int tile_;
  const int64_t place_;
  alignas(64) int32_t dots_[2][4][256];
};

template <class Kind>
inline void multiply_bytes(const Matrix& m, const Activations& a, int64_t rows, int64_t tile,
                           int64_t tiles, float* sums, ExpandedBytes& w) {
  for (int64_t start = 0; start < a.groups; start += BYTE_DEPTH) {
    const int64_t depth = a.groups - start < BYTE_DEPTH ? a.groups - start : BYTE_DEPTH;
    for (int64_t i = 0; i < tiles; ++i)
      for (int64_t group = 0; group < depth; ++group)
        expand_bytes<Kind>(m.data + ((tile + i) * a.groups + start + group) * Kind::BLOCK,
                           w.codes[i][group], w.scales[i][group], w.minima[i][group]);
    finish_stores();
    for (int64_t row = 0; row < rows; row += 16)
      for (int64_t i = 0; i < tiles; ++i) {
        float* at = sums + (row * tiles + i) * 16;
        Floats totals[16];
        for (int j = 0; j < 16; ++j) totals[j] = start ? load(at + j * tiles * 16) : all(0.f);
        const char* next = m.data + ((tile + i) * a.groups + start + depth) * Kind::BLOCK;
        if (start + depth == a.groups) next += (tiles - 1) * a.groups * Kind::BLOCK;
        ByteProduct<Kind>(a, row, start, w, static_cast<int>(i)).add(depth, totals, next);
        for (int j = 0; j < 16; ++j) store(at + j * tiles * 16, totals[j]);
      }
  }
}

// As multiply_tiles, for quantised weights with one scale a group.
inline void multiply_bytes(const Matrix& m, const Activations& a, int64_t rows, int64_t tile,
                           int64_t tiles, Result result, char* scratch) {
  ExpandedBytes& expanded = *reinterpret_cast<ExpandedBytes*>(scratch);
  float* sums = reinterpret_cast<float*>(scratch + sizeof(ExpandedBytes));
  static_assert(sizeof(ExpandedBytes) <= TILES_AT_ONCE * DEPTH * TILE * 2, "the scratch is shared");
  const ByteTiles configured;
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
