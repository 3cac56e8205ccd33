// Weights times a few rows: each block of weights is read once and serves up to ROWS_AT_ONCE rows.
//
// Quantised weights meet activations of two int8: a group's products are summed in int32, then
//   y += dot · (weight scale · activation scale)   (and  y += minimum · (scale · sum of bytes))
// as one fma each, group after group. Plain weights meet floats: in each group the products at
// even and at odd places are summed by two chains of fma, then y += even + odd. Both orders are
// those of the tile kernels (products.h): results do not depend on how many rows there are.
#pragma once
#include "activations.h"

namespace {

constexpr int64_t AHEAD = 4096;  // bytes; 256 to 1,024 read fastest, 28 to 35 GB/s on two threads

// Where results go: out[row · stride + output].
struct Result {
  float* out;
  int64_t stride;
  bool add;

  void put(int64_t row, int64_t output, Floats values) const {
    float* at = out + row * stride + output;
    store(at, add ? load(at) + values : values);
  }
};

// Rows side by side in a block of rows, at one group of inputs.
struct RowsAt {
  const int8_t* bytes;
  const float *scales, *scaled_sums, *floats;
  const int32_t* sums;
  int64_t apart;

  RowsAt(const Activations& a, int64_t row)
      : bytes(a.bytes + a.at(row, 0) * 64),
        scales(a.scales + a.at(row, 0)),
        scaled_sums(a.scaled_sums + row / a.block * a.groups * 3 * a.block + row % a.block),
        floats(a.floats + a.at(row, 0) * 32),
        sums(a.sums + row / a.block * a.groups * 3 * a.block + row % a.block),
        apart(a.block) {}
  void next_bytes() {
    bytes += apart * 64, scales += apart, sums += 3 * apart, scaled_sums += 3 * apart;
  }
  void next_floats() { floats += apart * 32; }
};

template <class Kind, int ROWS>
inline void add_group(const char* block, const RowsAt& rows, Floats* sums) {
  constexpr int LINES = 8 / Kind::HALVES;
  for (int half = 0; half < Kind::HALVES; ++half) {
    const int64_t part = Kind::HALVES == 1 ? 0 : (1 + half) * rows.apart;
    Ints dots[ROWS];
    for (int row = 0; row < ROWS; ++row)
      dots[row] = all_ints(static_cast<int32_t>(  // without sign: rows of padding hold anything
          0u - static_cast<uint32_t>(Kind::OFFSET) * static_cast<uint32_t>(rows.sums[part + row])));
    for (int line = half * LINES; line < (half + 1) * LINES; ++line) {
      const Bytes codes = Kind::codes(block, line);
      for (int row = 0; row < ROWS; ++row)
        for (int byte = 0; byte < 2; ++byte)
          dots[row] = dot(dots[row], codes, rows.bytes + row * 64 + byte * 32 + line * 4);
    }
    const Floats scale = Kind::scale(block, half);
    for (int row = 0; row < ROWS; ++row) {
      sums[row] = fma(to_floats(dots[row]), scale * all(rows.scales[row]), sums[row]);
      if (Kind::HAS_MINIMUM)
        sums[row] = fma(Kind::minimum(block, half), all(rows.scaled_sums[part + row]), sums[row]);
    }
  }
}

// Rows row .. row + ROWS - 1, which stand in one block of rows, times `TILES` tiles.
template <class Kind, int ROWS, int TILES>
inline void dot_bytes(const char* weights, const Activations& a, int64_t row, Result result,
                      int64_t output) {
  Floats sums[TILES][ROWS];
  for (auto& tile : sums)
    for (Floats& lane : tile) lane = all(0.f);
  const int64_t tile_bytes = a.groups * Kind::BLOCK;
  // Near its end a tile's stream goes on in the tile that it reads next.
  const int64_t turn = a.groups - AHEAD / Kind::BLOCK, onward = (TILES - 1) * tile_bytes;
  RowsAt rows(a, row);
  for (int64_t group = 0; group < a.groups; ++group, rows.next_bytes())
    for (int tile = 0; tile < TILES; ++tile) {
      const char* block = weights + tile * tile_bytes + group * Kind::BLOCK;
      prefetch(block + AHEAD + (group < turn ? 0 : onward), Kind::BLOCK);
      add_group<Kind, ROWS>(block, rows, sums[tile]);
    }
  for (int tile = 0; tile < TILES; ++tile)
    for (int i = 0; i < ROWS; ++i) result.put(row + i, output + 16 * tile, sums[tile][i]);
}

template <class Kind, int ROWS>
inline void dot_floats(const char* weights, const Activations& a, int64_t row, Result result,
                       int64_t output) {
  Floats sums[ROWS];
  for (Floats& lane : sums) lane = all(0.f);
  RowsAt rows(a, row);
  for (int64_t group = 0; group < a.groups; ++group, rows.next_floats()) {
    alignas(64) float wide[32 * 16];
    const char* block = weights + group * Kind::BLOCK;
    prefetch(block + AHEAD, Kind::BLOCK);
    Kind::expand(block, wide);
    const float* values = rows.floats;
    Floats even[ROWS], odd[ROWS];
    for (int i = 0; i < ROWS; ++i) even[i] = odd[i] = all(0.f);
    for (int input = 0; input < 32; input += 2) {
      const Floats one = load(wide + 16 * input), other = load(wide + 16 * input + 16);
      for (int i = 0; i < ROWS; ++i) {
        even[i] = fma(all(values[32 * i + input]), one, even[i]);
        odd[i] = fma(all(values[32 * i + input + 1]), other, odd[i]);
      }
    }
    for (int i = 0; i < ROWS; ++i) sums[i] = sums[i] + (even[i] + odd[i]);
  }
  for (int i = 0; i < ROWS; ++i) result.put(row + i, output, sums[i]);
}

// Two tiles at a time for one row: two streams of weights keep more reads under way.
template <class Kind, int ROWS>
inline void dot_two(const char* weights, const Activations& a, int64_t row, Result result,
                    int64_t output) {
  const char* second = weights + a.groups * Kind::BLOCK;
  if constexpr (Kind::IS_PLAIN) {
    dot_floats<Kind, ROWS>(weights, a, row, result, output);
    dot_floats<Kind, ROWS>(second, a, row, result, output + 16);
  } else {
    if (!a.bytes) {
      dot_floats<Kind, ROWS>(weights, a, row, result, output);
      dot_floats<Kind, ROWS>(second, a, row, result, output + 16);
    } else if constexpr (ROWS <= 2) {
      dot_bytes<Kind, ROWS, 2>(weights, a, row, result, output);
    } else {
      dot_bytes<Kind, ROWS, 1>(weights, a, row, result, output);
      dot_bytes<Kind, ROWS, 1>(second, a, row, result, output + 16);
    }
  }
}

// Five to seven rows go as eight, in one pass: memory for whole blocks of rows is there.
template <class Kind, int ROWS = ROWS_AT_ONCE>
inline int64_t dot_rows(const char* weights, const Activations& a, int64_t rows, Result result,
                        int64_t output, int64_t row = 0) {
  while (row + ROWS <= rows || (ROWS == 8 && row + ROWS / 2 < rows)) {
    dot_two<Kind, ROWS>(weights, a, row, result, output);
    row += ROWS;
  }
  if constexpr (ROWS > 1)
    return dot_rows<Kind, ROWS / 2>(weights, a, rows, result, output, row);
  else
    return row;
}

// Tiles `tile` .. `tile + tiles - 1` (an even number) times all rows; output 16 · tile goes to
// result's place 0.
inline void multiply_few(const Matrix& m, const Activations& a, int64_t rows, int64_t tile,
                         int64_t tiles, Result result) {
  with_format(m.format, [&](auto kind) {
    using Kind = decltype(kind);
    const int64_t tile_bytes = a.groups * Kind::BLOCK;
    for (int64_t i = 0; i < tiles; i += 2)
      dot_rows<Kind>(m.data + (tile + i) * tile_bytes, a, rows, result, 16 * i);
  });
}

}  // namespace
