// Keys and values in pages of 32 positions: whole bfloat16 tiles, or the same places in float32 or
// int8. Of each key-value head:
//
//   keys    [2 sixteens of positions][head_dim / 2 pairs][16 positions][2]
//   values  [head_dim / 16][16 pairs of positions][16 places of the head][2]
//   scales  float32 [2: of keys, of values][32 positions], for int8 alone: value = byte · scale
// In float32 the last two axes are swapped. head_dim is padded to a multiple of 32.
#pragma once
#include "activations.h"

namespace {

constexpr int64_t WIDEST_HEAD = 256;

template <class Value>
struct Stored;

template <>
struct Stored<uint16_t> {
  static constexpr bool HAS_SCALES = false;
  static int64_t at(int64_t place, int64_t odd) { return 2 * place + odd; }
  static void put(uint16_t* to, Floats values) { store_bf16(to, values); }
  static Floats even(const uint16_t* line) { return even_places(line); }
  static Floats odd(const uint16_t* line) { return odd_places(line); }
  static Floats round(Floats values) { return rounded_bf16(values); }
  static Floats exp2(Floats x) { return exp2_for_bf16(x); }
};

template <>
struct Stored<float> {
  static constexpr bool HAS_SCALES = false;
  static int64_t at(int64_t place, int64_t odd) { return 16 * odd + place; }
  static void put(float* to, Floats values) { store(to, values); }
  static Floats even(const float* line) { return load(line); }
  static Floats odd(const float* line) { return load(line + 16); }
  static Floats round(Floats values) { return values; }
  static Floats exp2(Floats x) { return exp2_of(x); }
};

// Bytes are bfloat16 numbers: their products are summed as those are, and scaled afterwards.
template <>
struct Stored<int8_t> {
  static constexpr bool HAS_SCALES = true;
  static int64_t at(int64_t place, int64_t odd) { return 2 * place + odd; }
  static void put(int8_t* to, Floats values) { store_rounded_bytes(to, values); }
  static Floats even(const int8_t* line) { return even_bytes(line); }
  static Floats odd(const int8_t* line) { return odd_bytes(line); }
  static Floats round(Floats values) { return rounded_bf16(values); }
  static Floats exp2(Floats x) { return exp2_for_bf16(x); }
};

// A head's new keys or values at some positions of a page, row by row.
template <class Value>
struct NewRows {
  Value at[PAGE * WIDEST_HEAD];
  float scales[PAGE];

  void put(int64_t row, int64_t width, const float* values) {
    Floats factor = all(1.f);
    if (Stored<Value>::HAS_SCALES) {
      Floats most = all(0.f);
      for (int64_t i = 0; i < width; i += LANES) most = larger(most, magnitude(load(values + i)));
      const float greatest_value = greatest(most);
      scales[row] = greatest_value / 127.f;
      factor = all(greatest_value > 0 ? 127.f / greatest_value : 0.f);
    }
    for (int64_t i = 0; i < width; i += LANES)
      Stored<Value>::put(at + row * width + i, load(values + i) * factor);
  }
};

// Calls use(value) with a value of the type that keys and values are kept in.
template <class Use>
inline void with_kept(const Model& model, Use use) {
  if (model.kept_bytes == 4) use(float{});
  if (model.kept_bytes == 2) use(uint16_t{});
  if (model.kept_bytes == 1) use(int8_t{});
}

template <class Value>
struct Page {
  Value *keys, *values;
  int64_t width;

  Page() = default;
  Page(const Model& model, int64_t layer, int64_t page, int64_t kv_head)
      : width(padded(model.head_dim)) {
    const int64_t place = (layer * model.pages + page) * model.kv_heads + kv_head;
    keys = reinterpret_cast<Value*>(model.cache + place * head_page_bytes(model));
    values = keys + width * PAGE;
  }
  const Value* key_line(int64_t sixteen, int64_t pair) const {
    return keys + (sixteen * width / 2 + pair) * 32;
  }
  const Value* value_line(int64_t sixteen, int64_t pair) const {
    return values + (sixteen * 16 + pair) * 32;
  }
  // Asks for the page's keys and values.
  void ask() const {
    prefetch(reinterpret_cast<const char*>(keys), 2 * width * PAGE * sizeof(Value));
  }
  float* key_scales() const { return reinterpret_cast<float*>(values + width * PAGE); }
  float* value_scales() const { return key_scales() + PAGE; }

  // Positions first .. last - 1; row 0 of the new ones is position `first`.
  void put(int64_t first, int64_t last, const NewRows<Value>& new_keys,
           const NewRows<Value>& new_values) const {
    put_keys(first, last < 16 ? last : 16, new_keys.at);
    put_keys(first > 16 ? first : 16, last, new_keys.at + (first > 16 ? 0 : (16 - first) * width));
    for (int64_t position = first; position < last; ++position) {
      const Value* from = new_values.at + (position - first) * width;
      if (position % 2 == 0 && position + 1 < last)
        put_two(position++, from);
      else
        put_one(position, from);
    }
    for (int64_t i = 0; Stored<Value>::HAS_SCALES && i < last - first; ++i) {
      key_scales()[first + i] = new_keys.scales[i];
      value_scales()[first + i] = new_values.scales[i];
    }
  }

 private:
  void put_keys(int64_t first, int64_t last, const Value* from) const {
    Value* line = keys + first / 16 * width * 16;
    for (int64_t i = 0; i < width; i += 2, line += 32)
      for (int64_t position = first; position < last; ++position) {
        const Value* pair = from + (position - first) * width + i;
        line[Stored<Value>::at(position % 16, 0)] = pair[0];
        line[Stored<Value>::at(position % 16, 1)] = pair[1];
      }
  }
  void put_two(int64_t position, const Value* from) const {
    Value* line = values + position / 2 * 32;
    for (int64_t i = 0; i < width; i += 16, line += 512)
      for (int64_t place = 0; place < 16; ++place) {
        line[Stored<Value>::at(place, 0)] = from[i + place];
        line[Stored<Value>::at(place, 1)] = from[width + i + place];
      }
  }
  void put_one(int64_t position, const Value* from) const {
    Value* line = values + position / 2 * 32;
    for (int64_t i = 0; i < width; ++i)
      line[i / 16 * 512 + Stored<Value>::at(i % 16, position % 2)] = from[i];
  }
};

}  // namespace
