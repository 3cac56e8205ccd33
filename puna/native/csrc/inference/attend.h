// Attention over pages, for a few queries at a time, by vectors.
//
// After FlashAttention (Dao et al. 2022): scores exist for one stretch of four pages at a time,
// beside each query's greatest score, its sum of weights and its mixed values so far. A context is
// cut into segments of 512 positions; their results are joined in order. One order for every
// build, every number of rows and every division among threads; products add up as tiles do it
// (even and odd places by two chains of fma), so that attend_tiles.h gives the same bits.
#pragma once
#include "pages.h"

namespace {

constexpr float NOTHING = -1e30f;  // the greatest score of no scores: finite, so that none is NaN
constexpr float HIDDEN = -2e30f;   // the score of a position that is not seen
constexpr int64_t STRETCH_PAGES = 4, STRETCH = STRETCH_PAGES * PAGE;  // SEGMENT_PAGES is a multiple

// A query's result over some positions: values are weighted by exp2(score - most), not yet divided
// by the sum of the weights.
struct Partial {
  float most, total;
  float* mixed;  // [padded head_dim]

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

struct Query {
  const float* at;  // [padded head_dim], scaled, rounded as the pages' values are
  int64_t position;
};

// Where a sequence's keys and values of a head lie.
struct Context {
  const Model& model;
  int64_t layer, kv_head;
  const int32_t* pages;
};

// The pages of a stretch, up to the last that a query sees.
template <class Value>
struct Stretch {
  Page<Value> pages[STRETCH_PAGES];
  int64_t first, count = 0;

  Stretch(const Context& context, int64_t first_page, int64_t last_page)
      : first(first_page * PAGE) {
    for (int64_t i = first_page; i < last_page && count < STRETCH_PAGES; ++i)
      pages[count++] =
          Page<Value>(context.model, context.layer, context.pages[i], context.kv_head);
  }
};

template <class Value, int COUNT>
inline void score_page(const Page<Value>& page, const Query* queries, Floats (*scores)[8],
                       int64_t place) {
  for (int sixteen = 0; sixteen < 2; ++sixteen) {
    Floats sums[COUNT];
    for (Floats& lane : sums) lane = all(0.f);
    for (int64_t start = 0; start < page.width / 2; start += 16) {
      Floats even[COUNT], odd[COUNT];
      for (int i = 0; i < COUNT; ++i) even[i] = odd[i] = all(0.f);
      for (int64_t pair = start; pair < start + 16; ++pair) {
        const Value* line = page.key_line(sixteen, pair);
        const Floats one = Stored<Value>::even(line), other = Stored<Value>::odd(line);
        for (int i = 0; i < COUNT; ++i) {
          even[i] = fma(all(queries[i].at[2 * pair]), one, even[i]);
          odd[i] = fma(all(queries[i].at[2 * pair + 1]), other, odd[i]);
        }
      }
      for (int i = 0; i < COUNT; ++i) sums[i] = sums[i] + (even[i] + odd[i]);
    }
    for (int i = 0; i < COUNT; ++i)
      scores[i][2 * place + sixteen] =
          Stored<Value>::HAS_SCALES ? sums[i] * load(page.key_scales() + 16 * sixteen) : sums[i];
  }
}

// Scores of a stretch -> weights of its values; returns what the results so far are to be
// multiplied by. The query sees the first `visible` positions.
template <class Value>
inline float weigh(const Stretch<Value>& stretch, Floats* scores, int64_t visible, Partial& state,
                   Floats& totals, float* weights) {
  Floats lanes = all(state.most);
  for (int64_t i = 0; i < 2 * stretch.count; ++i) {
    scores[i] = first(visible - LANES * i, scores[i], all(HIDDEN));
    lanes = larger(lanes, scores[i]);
  }
  const float most = greatest(lanes);
  const float before = most == state.most ? 1.f : exp2_of(state.most - most);
  state.most = most;
  totals = totals * all(before);
  for (int64_t i = 0; i < 2 * stretch.count; ++i) {
    Floats weight = Stored<Value>::exp2(scores[i] - all(most));
    totals = totals + weight;
    if (Stored<Value>::HAS_SCALES)
      weight = weight * load(stretch.pages[i / 2].value_scales() + i % 2 * LANES);
    store(weights + LANES * i, Stored<Value>::round(weight));
  }
  return before;
}

template <class Value, int COUNT>
inline void mix(const Stretch<Value>& stretch, int64_t width, const float (*weights)[STRETCH],
                const float* before, Partial* states) {
  for (int64_t sixteen = 0; sixteen < width / 16; ++sixteen) {
    Floats sums[COUNT];
    for (int i = 0; i < COUNT; ++i)
      sums[i] = load(states[i].mixed + 16 * sixteen) * all(before[i]);
    for (int64_t page = 0; page < stretch.count; ++page) {
      Floats even[COUNT], odd[COUNT];
      for (int i = 0; i < COUNT; ++i) even[i] = odd[i] = all(0.f);
      for (int pair = 0; pair < 16; ++pair) {
        const Value* line = stretch.pages[page].value_line(sixteen, pair);
        const Floats one = Stored<Value>::even(line), other = Stored<Value>::odd(line);
        for (int i = 0; i < COUNT; ++i) {
          even[i] = fma(all(weights[i][page * PAGE + 2 * pair]), one, even[i]);
          odd[i] = fma(all(weights[i][page * PAGE + 2 * pair + 1]), other, odd[i]);
        }
      }
      for (int i = 0; i < COUNT; ++i) sums[i] = sums[i] + (even[i] + odd[i]);
    }
    for (int i = 0; i < COUNT; ++i) store(states[i].mixed + 16 * sixteen, sums[i]);
  }
}

// `COUNT` queries of one key-value head over pages first .. last - 1 of their sequence.
template <class Value, int COUNT>
inline void attend(const Context& context, int64_t first_page, int64_t last_page,
                   const Query* queries, Partial* states) {
  const int64_t width = padded(context.model.head_dim);
  Floats totals[COUNT];
  for (int i = 0; i < COUNT; ++i) {
    totals[i] = all(0.f);
    states[i].most = NOTHING;
    for (int64_t j = 0; j < width; j += LANES) store(states[i].mixed + j, all(0.f));
  }
  for (int64_t page = first_page; page < last_page; page += STRETCH_PAGES) {
    const Stretch<Value> stretch(context, page, last_page);
    Floats scores[COUNT][2 * STRETCH_PAGES];
    for (int64_t i = 0; i < stretch.count; ++i)
      score_page<Value, COUNT>(stretch.pages[i], queries, scores, i);
    alignas(64) float weights[COUNT][STRETCH];
    float before[COUNT];
    for (int i = 0; i < COUNT; ++i)
      before[i] = weigh(stretch, scores[i], queries[i].position + 1 - stretch.first, states[i],
                        totals[i], weights[i]);
    mix<Value, COUNT>(stretch, width, weights, before, states);
  }
  for (int i = 0; i < COUNT; ++i) states[i].total = sum(totals[i]);
}

}  // namespace
