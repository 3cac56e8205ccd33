// Attention for blocks of 32 queries of one head, on AMX tiles; the same bits as attend.h.
#pragma once
#include "../tiles.h"
#include "attend.h"

namespace {

constexpr int64_t BLOCK_ROWS = 32;

struct alignas(64) BlockScratch {
  bf16 queries[BLOCK_ROWS * WIDEST_HEAD];  // tiles [2][width / 32][16][32]
  bf16 weights[2 * TILE];                  // tiles of 16 queries and 32 positions
  float scores[BLOCK_ROWS * PAGE];
  float fresh[BLOCK_ROWS * PAGE];          // 32 of the head's places
  float mixed[BLOCK_ROWS][WIDEST_HEAD], segment[BLOCK_ROWS][WIDEST_HEAD];
};

inline void pack_queries(const Query* queries, int64_t rows, int64_t width, bf16* tiles) {
  for (int64_t row = 0; row < BLOCK_ROWS; ++row)
    for (int64_t i = 0; i < width; i += 32) {
      bf16* to = tiles + ((row / 16 * width + i) / 32 * 16 + row % 16) * 32;
      store_bf16(to, row < rows ? load(queries[row].at + i) : all(0.f));
      store_bf16(to + 16, row < rows ? load(queries[row].at + i + 16) : all(0.f));
    }
}

inline void attend_page(const Page<uint16_t>& page, int64_t width, const Query* queries,
                        int64_t rows, int64_t start, Partial* states, BlockScratch& s) {
  const int64_t steps = width / 32;
  product({s.queries, steps * TILE, TILE}, {page.keys, steps * TILE, TILE}, steps, s.scores, PAGE,
          false);
  finish_stores();
  float before[BLOCK_ROWS];
  for (int64_t row = 0; row < BLOCK_ROWS; ++row) {
    alignas(64) float weights[PAGE] = {};
    const float* scores = s.scores + row * PAGE;
    before[row] = 1;
    if (row < rows)
      before[row] = weigh<uint16_t>(load(scores), load(scores + 16),
                                    queries[row].position + 1 - start, states[row], weights);
    bf16* to = s.weights + (row / 16 * 16 + row % 16) * 32;
    store_bf16(to, load(weights));
    store_bf16(to + 16, load(weights + 16));
  }
  for (int64_t place = 0; place < width; place += 32) {
    product({s.weights, TILE, TILE}, {page.values + place / 16 * TILE, TILE, TILE}, 1, s.fresh, 32,
            false);
    finish_stores();
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < 32; i += 16) {
        float* at = states[row].mixed + place + i;
        store(at, fma(load(at), all(before[row]), load(s.fresh + row * 32 + i)));
      }
  }
}

// Up to 32 queries over all pages before `last_page`; results in `states`, whose `mixed` is set.
inline void attend_block(const Model& model, int64_t layer, int64_t kv_head, const int32_t* pages,
                         int64_t last_page, const Query* queries, int64_t rows, Partial* states,
                         BlockScratch& s) {
  const int64_t width = padded(model.head_dim);
  pack_queries(queries, rows, width, s.queries);
  Partial segment[BLOCK_ROWS];
  for (int64_t row = 0; row < rows; ++row) {
    states[row].mixed = s.mixed[row];
    segment[row].mixed = s.segment[row];
  }
  for (int64_t start = 0; start < last_page; start += SEGMENT_PAGES) {
    const int64_t end = start + SEGMENT_PAGES < last_page ? start + SEGMENT_PAGES : last_page;
    Partial* into = start ? segment : states;
    for (int64_t row = 0; row < rows; ++row) into[row].clear(width);
    for (int64_t number = start; number < end; ++number)
      attend_page(Page<uint16_t>(model, layer, pages[number], kv_head), width, queries, rows,
                  number * PAGE, into, s);
    for (int64_t row = 0; start && row < rows; ++row)
      if (queries[row].position >= start * PAGE) states[row].join(segment[row], width);
  }
}

}  // namespace
