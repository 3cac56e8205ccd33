// One id drawn from a row of logits: temperature, top-k, top-p, min-p, as puna/infer/sampler.py,
// the twin, defines them. Both take the same id for the same number in every build: weights come
// from multiplications and additions, each rounded by itself, and are whole numbers up to 2^32, so
// that sums of 2^21 of them in double are exact in any order.
#pragma once
#include "model.h"
#include "vectors.h"

namespace {

constexpr double LOG2_OF_E = 1.4426950408889634;
constexpr float LIKELIEST = 4294967296.f;  // the greatest weight
constexpr int64_t SUM_BLOCK = 512;

// A float's bits as an integer of the same order; -0 equals 0.
inline int32_t key_of(float value) {
  const float positive_zero = value + 0.f;
  int32_t bits;
  memcpy(&bits, &positive_zero, 4);
  return bits ^ (bits >> 31 & 0x7FFFFFFF);
}
inline float from_key(int32_t key) {
  const int32_t bits = key ^ (key >> 31 & 0x7FFFFFFF);
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// 2^32 · e^((logit - best) / temperature), `scale` being log2(e) / temperature, without fma.
inline Floats weight_of(Floats logit, Floats best, Floats scale) {
  constexpr float FACTORS[] = {9.6715127e-3f, 5.5507337e-2f, 2.4022242e-1f, 6.9314698e-1f, 1.f};
  const Floats power = larger((logit - best) * scale, all(-40.f));
  const Floats whole = rounded(power);
  const Floats rest = power - whole;
  Floats value = all(1.3264727e-3f);
  for (const float factor : FACTORS) value = value * rest + all(factor);
  value = scaled(value, whole + all(32.f));
  // To the nearest whole number, ties to even; from 2^23 on every float is one.
  const Floats fine = all(8388608.f);
  return ((smaller(value, fine) + fine) - fine) + larger(value - fine, all(0.f));
}

// What a filter keeps: all above `least`, and of those that equal it all but the last `surplus`.
struct Kept {
  float least;
  int64_t surplus;
};

inline double sum_of(const float* weights, int64_t count) {
  double sums[16] = {}, sum = 0;
  for (int64_t i = 0; i < count; i += 16)
    for (int j = 0; j < 16; ++j) sums[j] += static_cast<double>(weights[i + j]);
  for (const double one : sums) sum += one;
  return sum;
}

struct Measure {
  double sum;      // of those from the middle on
  int64_t upper;   // how many they are
  int64_t inside;  // how many there are from `low` on
};

// Of the keys below `high`; `count` is a multiple of 16. With `weighs` a key is a weight's bits
// and measures the weight, else each measures 1.
template <bool weighs>
inline Measure measure(const int32_t* keys, int64_t count, int64_t low, int64_t middle,
                       int64_t high) {
  const auto first = static_cast<int32_t>(low), half = static_cast<int32_t>(middle);
  const auto last = static_cast<int32_t>(high - 1);
  Measure found{0, 0, 0};
  for (int64_t begin = 0; begin < count; begin += SUM_BLOCK) {
    const int64_t some = count - begin < SUM_BLOCK ? count - begin : SUM_BLOCK;
    int32_t bits[SUM_BLOCK], upper = 0, inside = 0;
    for (int64_t i = 0; i < some; ++i) {
      const int32_t key = keys[begin + i], is_upper = (key >= half) & (key <= last);
      upper += is_upper, inside += (key >= first) & (key <= last);
      bits[i] = key & -is_upper;
    }
    found.upper += upper, found.inside += inside;
    if (!weighs) continue;
    float weights[SUM_BLOCK];
    memcpy(weights, bits, static_cast<size_t>(some) * sizeof(float));
    found.sum += sum_of(weights, some);
  }
  if (!weighs) found.sum = static_cast<double>(found.upper);
  return found;
}

// Leaves the keys low .. high - 1, padded to a multiple of 16; how many places they take.
inline int64_t leave(int32_t* keys, int64_t count, int64_t low, int64_t high) {
  const auto first = static_cast<int32_t>(low), last = static_cast<int32_t>(high - 1);
  int64_t left = 0;
  for (int64_t begin = 0; begin < count; begin += 64) {
    const int64_t end = count - begin < 64 ? count : begin + 64;
    int32_t any = 0;
    for (int64_t i = begin; i < end; ++i) any |= (keys[i] >= first) & (keys[i] <= last);
    if (!any) continue;
    for (int64_t i = begin; i < end; ++i) {
      const int32_t key = keys[i];
      keys[left] = key;
      left += (key >= first) & (key <= last);
    }
  }
  while (left % 16) keys[left++] = INT32_MIN;
  return left;
}

// In order, the greatest first: those before which the others measure at most `target`, which all
// together pass. Each round halves the range of keys, at first of two or more, that has the last.
template <bool weighs>
inline Kept keep_until(int32_t* keys, int64_t count, int64_t low, int64_t high, double target) {
  double above = 0;  // the measure of keys from `high` on
  int64_t equals = 0;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const Measure found = measure<weighs>(keys, count, low, middle, high);
    if (above + found.sum > target) {
      low = middle, equals = found.upper;
    } else {
      high = middle, above += found.sum, equals = found.inside - found.upper;
    }
    if (equals * 4 <= count) count = leave(keys, count, low, high);
  }
  const auto key = static_cast<int32_t>(low);
  const float least = from_key(key);
  const double each = weighs ? static_cast<double>(least) : 1;
  auto kept = static_cast<int64_t>((target - above) / each) + 1;
  while (kept > 1 && above + static_cast<double>(kept - 1) * each > target) --kept;
  while (kept < equals && above + static_cast<double>(kept) * each <= target) ++kept;
  return {least, kept < equals ? equals - kept : 0};
}

inline void leave_out(float* values, int64_t count, Kept kept, float nothing) {
  for (int64_t i = 0; i < count; ++i) values[i] = values[i] >= kept.least ? values[i] : nothing;
  for (int64_t i = count - 1; i >= 0 && kept.surplus > 0; --i)
    if (values[i] == kept.least) values[i] = nothing, --kept.surplus;
}

// The place at which the running sum passes `point` of all; never one of weight 0.
inline int64_t place_at(const float* weights, int64_t count, double point) {
  const double target = point * sum_of(weights, count);
  double before = 0;
  int64_t begin = 0;
  for (; begin + SUM_BLOCK < count; begin += SUM_BLOCK) {
    const double sum = sum_of(weights + begin, SUM_BLOCK);
    if (before + sum > target) break;
    before += sum;
  }
  for (int64_t i = begin; i < count; ++i)
    if ((before += static_cast<double>(weights[i])) > target) return i;
  int64_t last = count - 1;  // rounding: the target was all of it
  while (last > 0 && !(weights[last] > 0)) --last;
  return last;
}

inline float greatest_of(const float* values, int64_t count) {
  Floats most = all(-INFINITY);
  for (int64_t i = 0; i < count; i += LANES) most = larger(most, load(values + i));
  return greatest(most);
}

// A value that `top_k` of the values reach: the one of that rank among maxima of disjoint parts.
inline float reached(const float* values, int64_t count, int64_t top_k, int32_t* keys) {
  const int64_t rows = top_k / 4 + 1, each = count / (rows * LANES);
  if (each < 4) return -INFINITY;
  for (int64_t row = 0; row < rows; ++row) {
    const float* const part = values + row * each * LANES;
    Floats most = all(-INFINITY);
    for (int64_t i = 0; i < each; ++i) most = larger(most, load(part + i * LANES));
    float maxima[LANES];
    store(maxima, most);
    for (int j = 0; j < LANES; ++j) keys[row * LANES + j] = key_of(maxima[j]);
  }
  const int64_t low = key_of(-INFINITY), high = int64_t{key_of(INFINITY)};
  const auto before = static_cast<double>(top_k - 1);
  return keep_until<false>(keys, rows * LANES, low, high, before).least;
}

// Sets all logits but the top_k greatest to -inf; of equals the first stay.
inline void keep_top_k(float* logits, int64_t count, int64_t top_k, int32_t* keys) {
  const int64_t low = key_of(reached(logits, count, top_k, keys));
  const int64_t high = int64_t{key_of(INFINITY)} + 1;
  for (int64_t i = 0; i < count; ++i) keys[i] = key_of(logits[i]);
  const int64_t left = leave(keys, count, low, high);
  const auto before = static_cast<double>(top_k - 1);
  leave_out(logits, count, keep_until<false>(keys, left, low, high, before), -INFINITY);
}

inline int64_t keys_for(int64_t ids) { return (ids + LANES - 1) / LANES * LANES; }

// The id that draw.point takes. Of the logits those of draw.ids count, the best of them is finite
// and none is NaN; they have room for a multiple of 16 and are not kept. `keys` [keys_for(ids)].
inline int64_t drawn_id(float* logits, const Draw& draw, int32_t* keys) {
  const auto ids = static_cast<int64_t>(draw.ids);
  const int64_t count = keys_for(ids);
  for (int64_t i = ids; i < count; ++i) logits[i] = -INFINITY;
  const float best = greatest_of(logits, count);
  if (draw.temperature == 0) {
    int64_t id = 0;
    while (id < ids - 1 && logits[id] != best) ++id;
    return id;
  }
  if (0 < draw.top_k && draw.top_k < draw.ids)
    keep_top_k(logits, count, static_cast<int64_t>(draw.top_k), keys);
  const Floats scale = all(static_cast<float>(LOG2_OF_E / draw.temperature));
  for (int64_t i = 0; i < count; i += LANES)
    store(logits + i, weight_of(load(logits + i), all(best), scale));
  float* const weights = logits;
  const double total = draw.top_p < 1 ? sum_of(weights, count) : 0, target = draw.top_p * total;
  if (target < total) {
    memcpy(keys, weights, count * sizeof(float));
    const int64_t low = key_of(1.f), high = int64_t{key_of(LIKELIEST)} + 1;
    leave_out(weights, count, keep_until<true>(keys, count, low, high, target), 0.f);
  }
  if (draw.min_p > 0)
    leave_out(weights, count, {static_cast<float>(draw.min_p * double{LIKELIEST}), 0}, 0.f);
  return place_at(weights, count, draw.point);
}

// As `drawn_id`, of logits that stay as they are; -1 where they are not finite, but for -inf of
// some. `row` and `keys` [keys_for(ids)] are to work in.
inline int64_t draw_from(const float* logits, const Draw& draw, float* row, int32_t* keys) {
  const auto ids = static_cast<int64_t>(draw.ids);
  int32_t strange = 0, usable = 0;
  for (int64_t i = 0; i < ids; ++i) {
    row[i] = logits[i];
    strange |= !(logits[i] < INFINITY);
    usable |= logits[i] > -INFINITY;
  }
  return strange || !usable ? -1 : drawn_id(row, draw, keys);
}

}  // namespace
