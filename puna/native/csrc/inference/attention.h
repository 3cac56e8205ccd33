// A member's part in a layer's attention: turns, pages, and who attends to what.
#pragma once
#include "attend.h"
#include "rows.h"
#ifdef __AMX_TILE__
#include "attend_tiles.h"
#endif

namespace {

inline int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }

struct Widths {
  int64_t dim, queries, keys, joined, head;
  explicit Widths(const Model& m)
      : dim(padded(m.dim)),
        queries(padded(m.heads * m.head_dim)),
        keys(padded(m.kv_heads * m.head_dim)),
        joined(queries + 2 * keys),
        head(padded(m.head_dim)) {}
};

// A member's own memory.
struct Own {
  char *product, *block;
  float *gate, *up;
  char* inputs;
  int32_t* keys;  // [padded vocabulary], to draw with
};

template <class Value>
class Attention {
 public:
  // Results become inputs of the product back, `out`.
  Attention(const Model& model, const Step& step, const Workspace& work, const Own& own,
            const Activations& out, int64_t layer)
      : model_(model), step_(step), work_(work), own_(own), out_(out), width_(model),
        layer_(layer) {}

  // Writes a head's keys and values of rows first .. last - 1 into pages.
  void remember(int64_t first, int64_t last, int64_t kv_head) const {
    for (int64_t row = first, some; row < last; row += some) {
      const Span& span = step_.spans[step_.span_of_row[row]];
      const int64_t place = position(row) % PAGE;
      some = smaller_of(PAGE - place, smaller_of(last, span.first_row + span.rows) - row);
      NewRows<Value> keys, values;
      for (int64_t i = 0; i < some; ++i) {
        put_new(row + i, kv_head, i, keys, values);
      }
      const Page<Value> page(model_, layer_, span.pages[position(row) / PAGE], kv_head);
      page.put(place, place + some, keys, values);
    }
  }

  void attend_unit(const AttentionWork& work) const {
    const Span& span = step_.spans[work.span];
    if (work.is_block)
      attend_rows(span, work.head, work.part);
    else
      attend_segment(span, work.head, work.part);
  }

  // Whether all rows are inputs of the product back once all units are done.
  bool is_complete() const { return are_groups() && !step_.partials; }

  // Makes a row, its heads' padding left out, inputs of the product back.
  void complete(int64_t row) const {
    if (are_groups() && step_.partial_of_row[row] < 0) return;
    const int64_t size = model_.head_dim;
    alignas(64) float both[2 * WIDEST_HEAD + 64];  // whole groups, however long a head is
    int64_t filled = 0, done = 0;
    for (int64_t head = 0; head < model_.heads; ++head) {
      const float* from = mixed(row, head);
      for (int64_t i = 0; i < width_.head; i += LANES) store(both + filled + i, load(from + i));
      filled += size;
      const bool is_last = head + 1 == model_.heads;
      for (; is_last && filled % GROUP; ++filled) both[filled] = 0;
      int64_t used = 0;
      for (; used + GROUP <= filled; used += GROUP)
        out_.put(row, done++, load(both + used), load(both + used + LANES));
      for (int64_t i = used; i < filled; ++i) both[i - used] = both[i];
      filled -= used;
    }
  }

 private:
  bool are_groups() const { return model_.head_dim % GROUP == 0; }  // heads are, of inputs
  int64_t group() const { return model_.heads / model_.kv_heads; }
  int64_t position(int64_t row) const {
    const Span& span = step_.spans[step_.span_of_row[row]];
    return span.start + row - span.first_row;
  }

  // A head of a row's joined products, turned by the position's angles, padded with zeros.
  void turn_head(int64_t row, int64_t start, float scale, float* to) const {
    const int64_t size = model_.head_dim, angles = row * size / 2;
    for (int64_t i = size; i < width_.head; ++i) to[i] = 0;
    turn(work_.joined + row * width_.joined + start, step_.cosines + angles, step_.sines + angles,
         size, scale, to);
  }

  // A query, so that weights are powers of two of its products with keys.
  void turn_query(int64_t row, int64_t head, float* to) const {
    const int64_t size = model_.head_dim;
    turn_head(row, head * size, LOG2_E / sqrtf(static_cast<float>(size)), to);
  }

  void put_new(int64_t row, int64_t kv_head, int64_t place, NewRows<Value>& keys,
               NewRows<Value>& values) const {
    const int64_t size = model_.head_dim;
    alignas(64) float padded_row[WIDEST_HEAD];
    turn_head(row, width_.queries + kv_head * size, 1.f, padded_row);
    keys.put(place, width_.head, padded_row);
    const float* value = work_.joined + row * width_.joined + width_.queries + width_.keys +
                         kv_head * size;
    for (int64_t i = 0; i < width_.head; i += LANES)
      store(padded_row + i, first(size - i, load(value + i), all(0.f)));
    values.put(place, width_.head, padded_row);
  }

  int64_t partial_floats() const { return width_.head + LANES; }
  // Of a row's head in a segment: most and total, from place 16 on the mixed values.
  float* partial(int64_t row, int64_t head, int64_t segment) const {
    const int64_t segments = position(row) / (PAGE * SEGMENT_PAGES) + 1;
    return work_.partials + (step_.partial_of_row[row] + head * segments + segment) *
                                partial_floats();
  }

  Context context(const Span& span, int64_t kv_head) const {
    return {model_, layer_, kv_head, span.pages};
  }

  void attend_segment(const Span& span, int64_t kv_head, int64_t segment) const {
#ifdef __AMX_TILE__
    if constexpr (sizeof(Value) < 4) return attend_shared(span, kv_head, segment);
#endif
    const int64_t first = segment * SEGMENT_PAGES;
    for (int64_t row = span.first_row; row < span.first_row + span.rows; ++row) {
      const int64_t last = smaller_of(first + SEGMENT_PAGES, position(row) / PAGE + 1);
      if (first >= last) continue;
      const int64_t end = (kv_head + 1) * group();
      for (int64_t head = end - group(); head < end; head += 4) {
        if (end - head >= 4) attend_heads<4>(span, row, head, segment, last);
        if (end - head == 3) attend_heads<3>(span, row, head, segment, last);
        if (end - head == 2) attend_heads<2>(span, row, head, segment, last);
        if (end - head == 1) attend_heads<1>(span, row, head, segment, last);
      }
    }
  }

  template <int COUNT>
  void attend_heads(const Span& span, int64_t row, int64_t head, int64_t segment,
                    int64_t last) const {
    alignas(64) float turned[COUNT][WIDEST_HEAD];
    Query queries[COUNT];
    Partial states[COUNT];
    for (int i = 0; i < COUNT; ++i) {
      turn_query(row, head + i, turned[i]);
      for (int64_t j = 0; j < width_.head; j += LANES)
        store(turned[i] + j, Stored<Value>::round(load(turned[i] + j)));
      queries[i] = {turned[i], position(row)};
      states[i].mixed = partial(row, head + i, segment) + LANES;
    }
    attend<Value, COUNT>(context(span, head / group()), segment * SEGMENT_PAGES, last, queries,
                         states);
    for (int i = 0; i < COUNT; ++i) {
      float* at = partial(row, head + i, segment);
      at[0] = states[i].most, at[1] = states[i].total;
    }
  }

#ifdef __AMX_TILE__
  void attend_rows(const Span& span, int64_t head, int64_t part) const {
    if constexpr (sizeof(Value) < 4) {
      const int64_t first = span.first_row + part * BLOCK_ROWS;
      const int64_t rows = smaller_of(BLOCK_ROWS, span.first_row + span.rows - first);
      BlockScratch& scratch = *reinterpret_cast<BlockScratch*>(own_.block);
      const Block block{rows, width_.head, scratch};
      for (int64_t i = 0; i < rows; ++i) put_query(block, i, first + i, head);
      ask_for_next(span, first + rows, head);
      attend_block<Value>(block, context(span, head / group()),
                          position(first + rows - 1) / PAGE + 1);
      for (int64_t i = 0; i < rows; ++i)
        put_mixed(scratch.sums.of(i, width_.head), first + i, head);
    }
  }

  void put_query(const Block& block, int64_t place, int64_t row, int64_t head) const {
    alignas(64) float query[WIDEST_HEAD];
    turn_query(row, head, query);
    block.put(place, query);
    block.scratch.positions[place] = position(row);
  }

  // A segment for all heads of all rows that share its keys.
  void attend_shared(const Span& span, int64_t kv_head, int64_t segment) const {
    BlockScratch& scratch = *reinterpret_cast<BlockScratch*>(own_.block);
    const int64_t queries = span.rows * group(), first = segment * SEGMENT_PAGES;
    const auto row_of = [&](int64_t query) { return span.first_row + query / group(); };
    const auto head_of = [&](int64_t query) { return kv_head * group() + query % group(); };
    for (int64_t start = 0; start < queries; start += BLOCK_ROWS) {
      const Block block{smaller_of(BLOCK_ROWS, queries - start), width_.head, scratch};
      const int64_t last_row = row_of(start + block.rows - 1);
      const int64_t last = smaller_of(first + SEGMENT_PAGES, position(last_row) / PAGE + 1);
      if (first >= last) continue;
      for (int64_t i = 0; i < block.rows; ++i)
        put_query(block, i, row_of(start + i), head_of(start + i));
      attend_pages<Value>(block, context(span, kv_head), first, last, true, scratch.sums);
      for (int64_t i = 0; i < block.rows; ++i) {
        if (scratch.positions[i] < first * PAGE) continue;
        float* at = partial(row_of(start + i), head_of(start + i), segment);
        const Partial sums = scratch.sums.of(i, width_.head);
        at[0] = sums.most, at[1] = sums.total;
        for (int64_t j = 0; j < width_.head; j += LANES)
          store(at + LANES + j, load(sums.mixed + j));
      }
    }
  }

  // Asks for the queries and the page that the next block reads first.
  void ask_for_next(const Span& span, int64_t first, int64_t head) const {
    const int64_t size = model_.head_dim;
    const int64_t last = smaller_of(first + BLOCK_ROWS, span.first_row + span.rows);
    if (first >= last) return;
    for (int64_t row = first; row < last; ++row) {
      const float* query = work_.joined + row * width_.joined + head * size;
      prefetch(reinterpret_cast<const char*>(query), size * 4);
    }
    const Page<Value> page(model_, layer_, span.pages[position(last - 1) / PAGE], head / group());
    prefetch(reinterpret_cast<const char*>(page.keys), head_page_bytes(model_));
  }

  void put_mixed(const Partial& state, int64_t row, int64_t head) const {
    if (!are_groups()) {
      finish(state, work_.mixed + (row * model_.heads + head) * width_.head);
      return;
    }
    const Floats inverse = all(1.f / state.total);
    for (int64_t i = 0; i < width_.head; i += GROUP)
      out_.put(row, (head * width_.head + i) / GROUP, load(state.mixed + i) * inverse,
               load(state.mixed + i + LANES) * inverse);
  }
#else
  void attend_rows(const Span&, int64_t, int64_t) const {}
#endif

  void finish(const Partial& state, float* to) const {
    const Floats inverse = all(1.f / state.total);
    for (int64_t i = 0; i < width_.head; i += LANES) store(to + i, load(state.mixed + i) * inverse);
  }

  // Joined over the segments, divided by the sum of the weights; in the member's own memory where
  // the row was not in a block.
  const float* mixed(int64_t row, int64_t head) const {
    if (step_.partial_of_row[row] < 0)
      return work_.mixed + (row * model_.heads + head) * width_.head;
    const int64_t segments = position(row) / (PAGE * SEGMENT_PAGES) + 1;
    float* to = own_.gate;
    const float* from = partial(row, head, 0);
    Partial state{from[0], from[1], to};
    for (int64_t i = 0; i < width_.head; i += LANES) store(to + i, load(from + LANES + i));
    for (int64_t segment = 1; segment < segments; ++segment) {
      float* later = partial(row, head, segment);
      state.join({later[0], later[1], later + LANES}, width_.head);
    }
    finish(state, to);
    return to;
  }

  const Model& model_;
  const Step& step_;
  const Workspace& work_;
  const Own& own_;
  const Activations& out_;
  const Widths width_;
  const int64_t layer_;
};

}  // namespace
