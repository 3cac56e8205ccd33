// Keys and values in pages of 32 positions: whole bfloat16 tiles, or the same places in float32.
//
//   keys    [2 sixteens of positions][head_dim / 2 pairs][16 positions][2]
//   values  [head_dim / 16][16 pairs of positions][16 places of the head][2]
// In float32 the last two axes are swapped. head_dim is padded to a multiple of 32.
#pragma once
#include "activations.h"

namespace {

template <class Value>
struct Stored;

template <>
struct Stored<uint16_t> {
  static void put(uint16_t* line, int64_t place, int64_t odd, float value) {
    line[2 * place + odd] = to_bf16(value);
  }
  static void put_pair(uint16_t* line, int64_t place, const float* values) {
    const uint32_t both = to_bf16(values[0]) | static_cast<uint32_t>(to_bf16(values[1])) << 16;
    memcpy(line + 2 * place, &both, 4);
  }
  static Floats even(const uint16_t* line) { return even_places(line); }
  static Floats odd(const uint16_t* line) { return odd_places(line); }
  static Floats round(Floats values) {
    return rounded_bf16(values);
  }
};

template <>
struct Stored<float> {
  static void put(float* line, int64_t place, int64_t odd, float value) {
    line[16 * odd + place] = value;
  }
  static void put_pair(float* line, int64_t place, const float* values) {
    line[place] = values[0], line[16 + place] = values[1];
  }
  static Floats even(const float* line) { return load(line); }
  static Floats odd(const float* line) { return load(line + 16); }
  static Floats round(Floats values) { return values; }
};

// A head's keys or values in a page, in values.
inline int64_t page_values(const Model& model) { return padded(model.head_dim) * PAGE; }

template <class Value>
struct Page {
  Value *keys, *values;

  Page(const Model& model, int64_t layer, int64_t page, int64_t kv_head) {
    const int64_t place = (layer * model.pages + page) * model.kv_heads + kv_head;
    keys = reinterpret_cast<Value*>(model.cache) + place * 2 * page_values(model);
    values = keys + page_values(model);
  }
  const Value* key_line(int64_t sixteen, int64_t pair, int64_t pairs) const {
    return keys + (sixteen * pairs + pair) * 32;
  }
  const Value* value_line(int64_t sixteen, int64_t pair) const {
    return values + (sixteen * 16 + pair) * 32;
  }
  void put(int64_t position, int64_t width, int64_t head_dim, const float* key,
           const float* value) {
    Value* line = keys + position / 16 * (width / 2) * 32;
    for (int64_t i = 0; i < head_dim; i += 2)
      Stored<Value>::put_pair(line + i / 2 * 32, position % 16, key + i);
    line = values + position / 2 * 32;
    for (int64_t i = 0; i < head_dim; ++i)
      Stored<Value>::put(line + i / 16 * 512, i % 16, position % 2, value[i]);
  }
};

}  // namespace
