// Attention for blocks of up to 32 queries that read the same keys, on AMX tiles; the same bits as
// attend.h. The queries are rows of one head, or all heads that share keys, of one or a few rows.
#pragma once
#include "../tiles.h"
#include "attend.h"

namespace {

constexpr int64_t BLOCK_ROWS = 32;

// The rows' results so far (Partial in attend.h), side by side.
struct alignas(64) RowSums {
  float most[BLOCK_ROWS], total[BLOCK_ROWS];
  float totals[BLOCK_ROWS][LANES];
  float mixed[BLOCK_ROWS * WIDEST_HEAD];  // [32][width]

  void clear() {
    for (int64_t row = 0; row < BLOCK_ROWS; ++row) {
      most[row] = NOTHING;
      store(totals[row], all(0.f));
    }
  }
  void add_up() {
    for (int64_t row = 0; row < BLOCK_ROWS; ++row) total[row] = sum(load(totals[row]));
  }
  Partial of(int64_t row, int64_t width) { return {most[row], total[row], mixed + row * width}; }
};

struct alignas(64) BlockScratch {
  bf16 queries[BLOCK_ROWS * WIDEST_HEAD];  // tiles [2][width / 32][16][32]
  int64_t positions[BLOCK_ROWS];           // of the queries, ascending
  bf16 keys[STRETCH_PAGES][PAGE * WIDEST_HEAD], values[STRETCH_PAGES][PAGE * WIDEST_HEAD];
  float scores[BLOCK_ROWS][STRETCH];  // in a row's first half, its weights in bfloat16 afterwards
  float before[BLOCK_ROWS];
  RowSums sums, segment;

  bf16* weights(int64_t row) { return reinterpret_cast<bf16*>(scores[row]); }
};

// 32 values, one after the other; denormals become 0, as tiles take them.
inline void store_halves(bf16* to, Floats low, Floats high) {
  _mm512_store_si512(to, narrow(low.v, high.v));
}

// `count` kept values as bfloat16: where they lie, or in `to`.
inline const bf16* as_halves(const bf16* at, int64_t, bf16*) { return at; }
inline const bf16* as_halves(const int8_t* at, int64_t count, bf16* to) {
  for (int64_t i = 0; i < count; i += 32)
    store_halves(to + i, from_bytes(at + i), from_bytes(at + i + 16));
  return to;
}

// The tiles' unit falls asleep after about 0.5 us without a product, and to wake it takes 0.25 us
// and more. A product of whatever the tiles hold keeps it awake; tile 0 is lost.
inline void keep_awake() { _tile_dpbf16ps(0, 4, 5); }

struct Block {
  int64_t rows, width;
  BlockScratch& scratch;

  // A row's query, scaled. Rows beyond `rows` may hold anything: no other row sees it.
  void put(int64_t row, const float* query) const {
    for (int64_t i = 0; i < width; i += 32)
      store_halves(scratch.queries + ((row / 16 * width + i) / 32 * 16 + row % 16) * 32,
                   load(query + i), load(query + i + 16));
  }
};

// Lane i: the greatest lane of row i, of 16.
inline Floats greatest_of_each(const Floats* rows) {
  __m512 four[4];
  for (int i = 0; i < 4; ++i) {
    const auto halved = [](__m512 a, __m512 b) {
      return _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    };
    const __m512 a = halved(rows[i].v, rows[i + 4].v), b = halved(rows[i + 8].v, rows[i + 12].v);
    four[i] = _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
  const auto paired = [](__m512 a, __m512 b) {
    return _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  };
  const __m512 a = paired(four[0], four[1]), b = paired(four[2], four[3]);
  return {_mm512_max_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee))};
}

// Scores are scaled, and those of positions that are not seen become HIDDEN.
template <class Value>
inline void finish_scores(const Block& block, const Stretch<Value>& stretch) {
  const int64_t* positions = block.scratch.positions;
  const bool is_whole = positions[0] >= stretch.first + stretch.count * PAGE - 1;
  if (is_whole && !Stored<Value>::HAS_SCALES) return;
  for (int64_t row = 0; row < block.rows; ++row) {
    const int64_t visible = positions[row] + 1 - stretch.first;
    for (int64_t i = 0; i < 2 * stretch.count; ++i) {
      float* at = block.scratch.scores[row] + LANES * i;
      Floats scores = load(at);
      if (Stored<Value>::HAS_SCALES)
        scores = scores * load(stretch.pages[i / 2].key_scales() + i % 2 * LANES);
      store(at, first(visible - LANES * i, scores, all(HIDDEN)));
    }
  }
}

// Each row's greatest score so far, and what its results so far are multiplied by.
inline void find_greatest(const Block& block, int64_t pages, RowSums& sums) {
  BlockScratch& s = block.scratch;
  for (int64_t start = 0; start < block.rows; start += LANES) {
    Floats rows[16];
    for (int64_t row = 0; row < 16; ++row) {
      const float* at = s.scores[start + row];
      rows[row] = larger(load(at), load(at + LANES));
      for (int64_t i = 1; i < pages; ++i)
        rows[row] = larger(rows[row], larger(load(at + PAGE * i), load(at + PAGE * i + LANES)));
    }
    const Floats old = load(sums.most + start), most = larger(old, greatest_of_each(rows));
    store(s.before + start, exp2_of(old - most));
    store(sums.most + start, most);
  }
}

// As weigh in attend.h, for all rows of the block.
template <class Value>
inline void weigh_rows(const Block& block, const Stretch<Value>& stretch, RowSums& sums) {
  BlockScratch& s = block.scratch;
  for (int64_t row = 0; row < block.rows; ++row) {
    const Floats most = all(sums.most[row]);
    Floats totals = load(sums.totals[row]) * all(s.before[row]);
    bf16* to = s.weights(row);
    for (int64_t i = 0; i < stretch.count; ++i) {
      const float* at = s.scores[row] + PAGE * i;
      Floats low = Stored<Value>::exp2(load(at) - most);
      Floats high = Stored<Value>::exp2(load(at + LANES) - most);
      totals = totals + low + high;
      if (Stored<Value>::HAS_SCALES) {
        low = low * load(stretch.pages[i].value_scales());
        high = high * load(stretch.pages[i].value_scales() + LANES);
      }
      store_halves(to + PAGE * i, low, high);
    }
    store(sums.totals[row], totals);
  }
}

// scores[16, 32] of a page's keys, for 16 queries.
inline void score_sixteen(const bf16* queries, const bf16* keys, int64_t steps, float* scores) {
  finish_stores();
  _tile_zero(0);
  _tile_zero(1);
  for (int64_t i = 0; i < steps; ++i) {
    _tile_loadd(4, queries + i * TILE, 64);
    _tile_loadd(6, keys + i * TILE, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, keys + (steps + i) * TILE, 64);
    _tile_dpbf16ps(1, 4, 7);
  }
  _tile_stored(0, scores, STRETCH * 4);
  _tile_stored(1, scores + 16, STRETCH * 4);
}

// The stretch's values, weighed, are added to 64 (or 32) places of 16 rows' mixed ones.
inline void mix_tiles(const bf16* weights, const bf16* const* values, int64_t pages, bool is_half,
                      float* mixed, int64_t width) {
  const int64_t bytes = width * 4;
  finish_stores();
  _tile_loadd(0, mixed, bytes);
  _tile_loadd(1, mixed + 16, bytes);
  if (!is_half) {
    _tile_loadd(2, mixed + 32, bytes);
    _tile_loadd(3, mixed + 48, bytes);
  }
  for (int64_t i = 0; i < pages; ++i) {
    _tile_loadd(4, weights + i * PAGE, STRETCH * 4);
    _tile_loadd(5, values[i], 64);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, values[i] + TILE, 64);
    _tile_dpbf16ps(1, 4, 6);
    if (is_half) continue;
    _tile_loadd(7, values[i] + 2 * TILE, 64);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, values[i] + 3 * TILE, 64);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_stored(0, mixed, bytes);
  _tile_stored(1, mixed + 16, bytes);
  if (!is_half) {
    _tile_stored(2, mixed + 32, bytes);
    _tile_stored(3, mixed + 48, bytes);
  }
}

// The pages of `next` are asked for.
template <class Value>
inline void attend_stretch(const Block& block, const Stretch<Value>& stretch,
                           const Stretch<Value>& next, bool is_first, RowSums& sums) {
  const int64_t width = block.width, steps = width / 32;
  BlockScratch& s = block.scratch;
  const bf16* values[STRETCH_PAGES];
  for (int64_t i = 0; i < stretch.count; ++i) {
    const Page<Value>& page = stretch.pages[i];
    const bf16* keys = as_halves(page.keys, width * PAGE, s.keys[i]);
    float* scores = s.scores[0] + i * PAGE;
    if (block.rows > 16)
      product({s.queries, steps * TILE, TILE}, {keys, steps * TILE, TILE}, steps, scores, STRETCH,
              false);
    else
      score_sixteen(s.queries, keys, steps, scores);
    values[i] = as_halves(page.values, width * PAGE, s.values[i]);
    if (i < next.count) next.pages[i].ask();
  }
  finish_stores();
  finish_scores(block, stretch);
  find_greatest(block, stretch.count, sums);
  keep_awake();
  for (int64_t row = 0; row < block.rows; ++row) {  // long before tiles read it
    const Floats before = all(s.before[row]);
    for (int64_t i = 0; i < width; i += LANES) {
      float* at = sums.mixed + row * width + i;
      store(at, is_first ? all(0.f) : load(at) * before);
    }
  }
  weigh_rows(block, stretch, sums);
  for (int64_t row = 0; row < block.rows; row += 16)
    for (int64_t place = 0; place < width; place += 64) {
      const bf16* at[STRETCH_PAGES];
      for (int64_t i = 0; i < stretch.count; ++i) at[i] = values[i] + place / 16 * TILE;
      mix_tiles(s.weights(row), at, stretch.count, place + 32 == width,
                sums.mixed + row * width + place, width);
    }
  finish_stores();
}

// The block's queries over pages first .. last - 1; with `is_far` the next stretch is asked for.
template <class Value>
inline void attend_pages(const Block& block, const Context& context, int64_t first, int64_t last,
                         bool is_far, RowSums& into) {
  into.clear();
  for (int64_t page = first; page < last; page += STRETCH_PAGES) {
    const Stretch<Value> stretch(context, page, last);
    const Stretch<Value> next(context, page + STRETCH_PAGES, is_far ? last : 0);
    attend_stretch<Value>(block, stretch, next, page == first, into);
  }
  into.add_up();
}

// The block's queries over all pages before `last_page`; results in the scratch's sums.
template <class Value>
inline void attend_block(const Block& block, const Context& context, int64_t last_page) {
  BlockScratch& s = block.scratch;
  for (int64_t start = 0; start < last_page; start += SEGMENT_PAGES) {
    const int64_t end = start + SEGMENT_PAGES < last_page ? start + SEGMENT_PAGES : last_page;
    attend_pages<Value>(block, context, start, end, false, start ? s.segment : s.sums);
    for (int64_t row = 0; start && row < block.rows; ++row) {
      if (s.positions[row] < start * PAGE) continue;
      Partial sum = s.sums.of(row, block.width);
      sum.join(s.segment.of(row, block.width), block.width);
      s.sums.most[row] = sum.most, s.sums.total[row] = sum.total;
    }
  }
}

}  // namespace
