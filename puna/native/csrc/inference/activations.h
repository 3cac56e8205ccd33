// The rows that weights are multiplied by, in the forms that the kernels read.
#pragma once
#include "formats.h"

namespace {

// Rows stand in blocks of `block` (1, 2, 4, 8 or 16): all of a block's values of a group of 32
// lie side by side. A form that is not needed is null.
struct Activations {
  int64_t groups, block;
  int8_t* bytes;      // [rows / block][groups][block][32], value = byte · scale
  float* scales;      // [rows / block][groups][block]
  int32_t* sums;      // [rows / block][groups][2][block], of each half's bytes
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
  // scale = greatest magnitude / 127, as Q8_0 does it.
  void quantise(int64_t place, int64_t row, int64_t group, Floats low, Floats high) const {
    const float most = greatest(larger(magnitude(low), magnitude(high)));
    const float inverse = most > 0 ? 127.f / most : 0.f;
    int8_t* to = bytes + place * 32;
    store_rounded_bytes(to, low * all(inverse));
    store_rounded_bytes(to + 16, high * all(inverse));
    scales[place] = most / 127.f;
    int32_t* both = sums + (row / block * groups + group) * 2 * block + row % block;
    both[0] = byte_sum(to);
    both[block] = byte_sum(to + 16);
  }
};

// What a row of `width` values needs in each form, in bytes.
inline int64_t activation_bytes(int64_t rows, int64_t width) {
  const int64_t groups = padded(width) / GROUP, whole = (rows + 15) / 16 * 16;
  return whole * groups * (32 + 4 + 8 + 128 + 64) + 5 * 64;
}

struct Forms {
  bool bytes, floats, tiles, is_rounded;
};

// Lays the wanted forms out in `memory` (activation_bytes of it, 64-byte aligned).
inline Activations lay_out(char* memory, int64_t rows, int64_t width, Forms forms) {
  Activations a{};
  a.groups = padded(width) / GROUP;
  a.block = 1;
  while (a.block < rows && a.block < 16) a.block *= 2;
  a.is_rounded = forms.is_rounded;
  const int64_t count = (rows + 15) / 16 * 16 * a.groups;
  const auto take = [&](int64_t bytes) {
    char* at = memory;
    memory += (bytes + 63) / 64 * 64;
    return at;
  };
  if (forms.bytes) {
    a.bytes = reinterpret_cast<int8_t*>(take(count * 32));
    a.scales = reinterpret_cast<float*>(take(count * 4));
    a.sums = reinterpret_cast<int32_t*>(take(count * 8));
  }
  if (forms.floats) a.floats = reinterpret_cast<float*>(take(count * 128));
  if (forms.tiles) a.tiles = reinterpret_cast<uint16_t*>(take(count * 64));
  return a;
}

}  // namespace
