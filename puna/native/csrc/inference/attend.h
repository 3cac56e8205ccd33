// Attention over pages, for a few queries at a time, by vectors.
//
// After FlashAttention (Dao et al. 2022): scores exist for one page at a time, beside each query's
// greatest score, its sum of weights and its mixed values so far. A context is cut into segments of
// 512 positions; their results are joined in order. One order for every build, every number of
// rows and every division among threads; products add up as tiles do it (even and odd places by two
// chains of fma), so that attend_tiles.h gives the same bits.
#pragma once
#include "pages.h"

namespace {

constexpr float NOTHING = -1e30f;  // the greatest score of no scores: finite, so that none is NaN
constexpr int64_t WIDEST_HEAD = 256;

// A query's result over some positions: values are weighted by exp2(score - most), not yet divided
// by the sum of the weights.
struct Partial {
  float most, total;
  float* mixed;  // [padded head_dim]

  void clear(int64_t width) {
    most = NOTHING, total = 0;
    for (int64_t i = 0; i < width; i += LANES) store(mixed + i, all(0.f));
  }

  // This, over positions before those of `later`, with it.
  void join(const Partial& later, int64_t width) {
    const float both = most > later.most ? most : later.most;
    const float before = exp2_of(most - both), after = exp2_of(later.most - both);
    for (int64_t i = 0; i < width; i += LANES)
      store(mixed + i, fma(load(later.mixed + i), all(after), load(mixed + i) * all(before)));
    total = fma(later.total, after, total * before);
    most = both;
  }
};

// Scores of a page's positions from `visible` on count for nothing.
inline void hide(int64_t visible, Floats& low, Floats& high) {
  low = first(visible, low, all(-INFINITY));
  high = first(visible - LANES, high, all(-INFINITY));
}

// Scores of a page's 32 positions -> weights in `weights` [32]; returns what the results so far are
// to be multiplied by. The query sees the first `visible` positions.
template <class Value>
inline float weigh(Floats low, Floats high, int64_t visible, Partial& state, Floats* weights) {
  hide(visible, low, high);
  const float here = greatest(larger(low, high));
  const float most = here > state.most ? here : state.most;
  const float before = most == state.most ? 1.f : exp2_of(state.most - most);
  low = Stored<Value>::round(exp2_of(low - all(most)));
  high = Stored<Value>::round(exp2_of(high - all(most)));
  weights[0] = low, weights[1] = high;
  state.total = fma(state.total, before, sum(low + high));
  state.most = most;
  return before;
}

struct Query {
  const float* at;  // [padded head_dim], scaled, rounded as the pages' values are
  int64_t position;
};

template <class Value, int COUNT>
inline void score_page(const Page<Value>& page, int64_t width, const Query* queries,
                       Floats (*scores)[2]) {
  for (int sixteen = 0; sixteen < 2; ++sixteen) {
    Floats sums[COUNT];
    for (Floats& lane : sums) lane = all(0.f);
    for (int64_t start = 0; start < width / 2; start += 16) {
      Floats even[COUNT], odd[COUNT];
      for (int i = 0; i < COUNT; ++i) even[i] = odd[i] = all(0.f);
      for (int64_t pair = start; pair < start + 16; ++pair) {
        const Value* line = page.key_line(sixteen, pair, width / 2);
        const Floats one = Stored<Value>::even(line), other = Stored<Value>::odd(line);
        for (int i = 0; i < COUNT; ++i) {
          even[i] = fma(all(queries[i].at[2 * pair]), one, even[i]);
          odd[i] = fma(all(queries[i].at[2 * pair + 1]), other, odd[i]);
        }
      }
      for (int i = 0; i < COUNT; ++i) sums[i] = sums[i] + (even[i] + odd[i]);
    }
    for (int i = 0; i < COUNT; ++i) scores[i][sixteen] = sums[i];
  }
}

template <class Value, int COUNT>
inline void mix_page(const Page<Value>& page, int64_t width, const float (*weights)[PAGE],
                     const float* before, Partial* states) {
  for (int64_t sixteen = 0; sixteen < width / 16; ++sixteen) {
    Floats even[COUNT], odd[COUNT];
    for (int i = 0; i < COUNT; ++i) even[i] = odd[i] = all(0.f);
    for (int pair = 0; pair < 16; ++pair) {
      const Value* line = page.value_line(sixteen, pair);
      const Floats one = Stored<Value>::even(line), other = Stored<Value>::odd(line);
      for (int i = 0; i < COUNT; ++i) {
        even[i] = fma(all(weights[i][2 * pair]), one, even[i]);
        odd[i] = fma(all(weights[i][2 * pair + 1]), other, odd[i]);
      }
    }
    for (int i = 0; i < COUNT; ++i) {
      float* at = states[i].mixed + 16 * sixteen;
      store(at, fma(load(at), all(before[i]), even[i] + odd[i]));
    }
  }
}

// `COUNT` queries of one key-value head over pages first .. last - 1 of their sequence.
template <class Value, int COUNT>
inline void attend(const Model& model, int64_t layer, int64_t kv_head, const int32_t* pages,
                   int64_t first_page, int64_t last_page, const Query* queries, Partial* states) {
  const int64_t width = padded(model.head_dim);
  for (int i = 0; i < COUNT; ++i) states[i].clear(width);
  for (int64_t number = first_page; number < last_page; ++number) {
    const Page<Value> page(model, layer, pages[number], kv_head);
    Floats scores[COUNT][2];
    score_page<Value, COUNT>(page, width, queries, scores);
    alignas(64) float weights[COUNT][PAGE];
    float before[COUNT];
    for (int i = 0; i < COUNT; ++i) {
      Floats both[2];
      before[i] = weigh<Value>(scores[i][0], scores[i][1], queries[i].position + 1 - number * PAGE,
                               states[i], both);
      store(weights[i], both[0]);
      store(weights[i] + LANES, both[1]);
    }
    mix_page<Value, COUNT>(page, width, weights, before, states);
  }
}

}  // namespace
