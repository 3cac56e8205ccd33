// The rows that weights are multiplied by, in the forms that the kernels read.
#pragma once
#include "formats.h"

namespace {

// Rows stand in blocks of `block` (1, 2, 4 or 16): all of a block's values of a group of 32
// lie side by side. A form that is not needed is null.
//
// Nine bits of a value are two bytes that are added: what 8 bits lose would be four times as far
// from float32 (docs/log.md), and tiles of depth 64 take both bytes of a group at once.
struct Activations {
  int64_t groups, block;
  int8_t* bytes;      // [rows / block][groups][block][2][32], value = (byte + byte) · scale
  float* scales;      // [rows / block][groups][block]
  int32_t* sums;      // [rows / block][groups][3][block], of all bytes and of each half's
  float* scaled_sums; // as sums, times the scale
  float* floats;      // [rows / block][groups][block][32]
  uint16_t* tiles;    // [rows / 16][groups][16][32] bfloat16
  bool is_rounded;    // the floats are bfloat16's

  int64_t at(int64_t row, int64_t group) const {
    return (row / block * groups + group) * block + row % block;
  }

  // The 32 values of a row's group.
  void put(int64_t row, int64_t group, Floats low, Floats high) const {
    const int64_t place = at(row, group);
    if (bytes) quantise(place, row, group, low, high);
    if (floats) {
      store(floats + place * 32, is_rounded ? rounded_bf16(low) : low);
      store(floats + place * 32 + 16, is_rounded ? rounded_bf16(high) : high);
    }
    if (tiles) {
      uint16_t* to = tiles + ((row / 16 * groups + group) * 16 + row % 16) * 32;
      store_bf16(to, low);
      store_bf16(to + 16, high);
    }
  }

 private:
  // scale = greatest magnitude / 254.
  void quantise(int64_t place, int64_t row, int64_t group, Floats low, Floats high) const {
    const float most = greatest(larger(magnitude(low), magnitude(high)));
    const float inverse = most > 0 ? 254.f / most : 0.f;
    const int32_t one = put_bytes(bytes + place * 64, low * all(inverse));
    const int32_t other = put_bytes(bytes + place * 64 + 16, high * all(inverse));
    const int32_t totals[] = {one + other, one, other};
    scales[place] = most / 254.f;
    for (int64_t i = 0; i < 3; ++i) {
      const int64_t at = (row / block * groups + group) * 3 * block + i * block + row % block;
      sums[at] = totals[i];
      scaled_sums[at] = scales[place] * static_cast<float>(totals[i]);
    }
  }
  // Sixteen values of at most 254; returns the sum of what they are rounded to.
  static int32_t put_bytes(int8_t* to, Floats values) {
    const Floats whole = rounded(values), half = rounded(whole * all(0.5f));
    store_rounded_bytes(to, half);
    store_rounded_bytes(to + 32, whole - half);
    return byte_sum(to) + byte_sum(to + 32);
  }
};

// What a row of `width` values needs in each form, in bytes.
inline int64_t activation_bytes(int64_t rows, int64_t width) {
  const int64_t groups = padded(width) / GROUP, whole = (rows + 15) / 16 * 16;
  return whole * groups * (64 + 4 + 12 + 12 + 128 + 64) + 6 * 64;
}

struct Forms {
  bool bytes, floats, tiles, is_rounded;
};

// Lays the wanted forms out in `memory` (activation_bytes of it, 64-byte aligned).
inline Activations lay_out(char* memory, int64_t rows, int64_t width, Forms forms) {
  Activations a{};
  a.groups = padded(width) / GROUP;
  a.block = rows > 4 ? 16 : rows > 2 ? 4 : rows;  // tiles take 16
  a.is_rounded = forms.is_rounded;
  const int64_t count = (rows + 15) / 16 * 16 * a.groups;
  const auto take = [&](int64_t bytes) {
    char* at = memory;
    memory += (bytes + 63) / 64 * 64;
    return at;
  };
  if (forms.bytes) {
    a.bytes = reinterpret_cast<int8_t*>(take(count * 64));
    a.scales = reinterpret_cast<float*>(take(count * 4));
    a.sums = reinterpret_cast<int32_t*>(take(count * 12));
    a.scaled_sums = reinterpret_cast<float*>(take(count * 12));
  }
  if (forms.floats) a.floats = reinterpret_cast<float*>(take(count * 128));
  if (forms.tiles) a.tiles = reinterpret_cast<uint16_t*>(take(count * 64));
  return a;
}

}  // namespace
