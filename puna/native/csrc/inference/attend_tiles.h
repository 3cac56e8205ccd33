// Attention for blocks of 32 queries of one head, on AMX tiles; the same bits as attend.h.
#pragma once
#include "../tiles.h"
#include "attend.h"

namespace {

constexpr int64_t BLOCK_ROWS = 32;
constexpr int64_t PAGES_AT_ONCE = 4;  // tiles are read back long after they were written

// The rows' results so far (Partial in attend.h), side by side.
struct alignas(64) RowSums {
  float most[BLOCK_ROWS], total[BLOCK_ROWS];
  float mixed[BLOCK_ROWS][WIDEST_HEAD];

  void clear(int64_t rows, int64_t width) {
    for (int64_t row = 0; row < BLOCK_ROWS; ++row) most[row] = NOTHING, total[row] = 0;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < width; i += LANES) store(mixed[row] + i, all(0.f));
  }
  Partial of(int64_t row) { return {most[row], total[row], mixed[row]}; }
};

struct alignas(64) BlockScratch {
  bf16 queries[BLOCK_ROWS * WIDEST_HEAD];  // tiles [2][width / 32][16][32]
  bf16 weights[PAGES_AT_ONCE][2 * TILE];   // tiles of 16 queries and 32 positions
  float scores[PAGES_AT_ONCE][BLOCK_ROWS * PAGE];
  float fresh[PAGES_AT_ONCE][BLOCK_ROWS * PAGE];  // 32 of the head's places
  float before[PAGES_AT_ONCE][BLOCK_ROWS];
  RowSums sums, segment;
};

// 32 values, one after the other; denormals become 0, as tiles take them.
inline void store_halves(bf16* to, Floats low, Floats high) {
  _mm512_store_si512(to, narrow(low.v, high.v));
}

inline void pack_queries(const Query* queries, int64_t rows, int64_t width, bf16* tiles) {
  for (int64_t row = 0; row < BLOCK_ROWS; ++row)
    for (int64_t i = 0; i < width; i += 32) {
      bf16* to = tiles + ((row / 16 * width + i) / 32 * 16 + row % 16) * 32;
      if (row < rows)
        store_halves(to, load(queries[row].at + i), load(queries[row].at + i + 16));
      else
        store_halves(to, all(0.f), all(0.f));
    }
}

// A block of queries and the pages before it.
struct Block {
  const Model& model;
  int64_t layer, kv_head;
  const int32_t* pages;
  const Query* queries;
  int64_t rows;
  BlockScratch& scratch;

  Page<bf16> page(int64_t number) const { return {model, layer, pages[number], kv_head}; }
};

// As weigh in attend.h, for the page in place `i` of the scratch and all rows of the block.
inline void weigh_rows(const Block& block, int64_t page, int64_t i, RowSums& sums) {
  BlockScratch& s = block.scratch;
  const bool is_whole = block.queries[0].position >= page * PAGE + PAGE - 1;
  alignas(64) float lowered[BLOCK_ROWS] = {}, totals[BLOCK_ROWS] = {};
  for (int64_t row = 0; row < block.rows; ++row) {
    Floats low = load(s.scores[i] + row * PAGE), high = load(s.scores[i] + row * PAGE + LANES);
    if (!is_whole) hide(block.queries[row].position + 1 - page * PAGE, low, high);
    const float here = greatest(larger(low, high));
    const float most = here > sums.most[row] ? here : sums.most[row];
    lowered[row] = sums.most[row] - most;
    sums.most[row] = most;
    low = rounded_bf16(exp2_of(low - all(most)));
    high = rounded_bf16(exp2_of(high - all(most)));
    totals[row] = sum(low + high);
    store_halves(s.weights[i] + row * 32, low, high);
  }
  for (int64_t row = 0; row < BLOCK_ROWS; row += LANES) {
    const Floats before = exp2_of(load(lowered + row));
    store(s.before[i] + row, before);
    store(sums.total + row, fma(load(sums.total + row), before, load(totals + row)));
  }
}

// Pages first .. first + count - 1, at most PAGES_AT_ONCE.
inline void attend_pages(const Block& block, int64_t first_page, int64_t count, RowSums& sums) {
  const int64_t width = padded(block.model.head_dim), steps = width / 32;
  BlockScratch& s = block.scratch;
  for (int64_t i = 0; i < count; ++i)
    product({s.queries, steps * TILE, TILE},
            {block.page(first_page + i).keys, steps * TILE, TILE}, steps, s.scores[i], PAGE, false);
  finish_stores();
  for (int64_t i = 0; i < count; ++i) weigh_rows(block, first_page + i, i, sums);
  for (int64_t place = 0; place < width; place += 32) {
    for (int64_t i = 0; i < count; ++i)
      product({s.weights[i], TILE, TILE},
              {block.page(first_page + i).values + place / 16 * TILE, TILE, TILE}, 1, s.fresh[i],
              32, false);
    finish_stores();
    for (int64_t row = 0; row < block.rows; ++row) {
      float* at = sums.mixed[row] + place;
      Floats low = load(at), high = load(at + 16);
      for (int64_t i = 0; i < count; ++i) {
        const Floats before = all(s.before[i][row]);
        low = fma(low, before, load(s.fresh[i] + row * 32));
        high = fma(high, before, load(s.fresh[i] + row * 32 + 16));
      }
      store(at, low);
      store(at + 16, high);
    }
  }
}

// Up to 32 queries over all pages before `last_page`; results in the scratch's sums.
inline void attend_block(const Block& block, int64_t last_page) {
  const int64_t width = padded(block.model.head_dim), rows = block.rows;
  BlockScratch& s = block.scratch;
  pack_queries(block.queries, rows, width, s.queries);
  for (int64_t start = 0; start < last_page; start += SEGMENT_PAGES) {
    const int64_t end = start + SEGMENT_PAGES < last_page ? start + SEGMENT_PAGES : last_page;
    RowSums& into = start ? s.segment : s.sums;
    into.clear(rows, width);
    for (int64_t page = start; page < end; page += PAGES_AT_ONCE)
      attend_pages(block, page, end - page < PAGES_AT_ONCE ? end - page : PAGES_AT_ONCE, into);
    for (int64_t row = 0; start && row < rows; ++row) {
      if (block.queries[row].position < start * PAGE) continue;
      Partial sum = s.sums.of(row);
      sum.join(s.segment.of(row), width);
      s.sums.most[row] = sum.most, s.sums.total[row] = sum.total;
    }
  }
}

}  // namespace
