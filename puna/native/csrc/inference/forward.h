// One step through all layers, as each member of the crew goes through it (paper 2.2).
//
// A layer is six pieces of work with a wait after each: products for queries, keys and values;
// turns and the cache; attention; the product back and the residual; gate and up; down and the
// residual. For a few rows each member norms and quantises the inputs of a product for itself,
// which is quicker than waiting for another; for many, members share the rows and wait twice more.
#pragma once
#include "attention.h"
#include "dots.h"
#include "draw.h"
#ifdef __AMX_TILE__
#include "products.h"
#endif

namespace {

constexpr int64_t OWN_ROWS = 4;     // up to so many rows each member prepares inputs for itself
constexpr int64_t GATE_TILES = 8;   // a unit of gate and up has at most 128 outputs
constexpr int64_t UNITS_EACH = 4;   // units of work for each member, where there is enough
#ifdef __AMX_TILE__
constexpr bool HAS_TILES = true;
#else
constexpr bool HAS_TILES = false;
#endif
constexpr int64_t TILE_ROWS = 9;    // from so many rows on tiles are faster than vectors
constexpr int64_t FAST_ROWS = 64;   // ... and tiles of bfloat16 faster than those of int8

// Both kinds of tiles give what vectors give but for quantised and other plain weights in bfloat16.
inline bool uses_tiles(const Model& model, const Matrix& m, int64_t rows) {
  if (!HAS_TILES || model.mode == WHOLE) return false;
  if (m.format == BF16) return rows >= TILE_ROWS;
  return model.mode == FAST && rows >= FAST_ROWS;
}
inline bool uses_byte_tiles(const Model& model, const Matrix& m, int64_t rows) {
  return HAS_TILES && rows >= TILE_ROWS && model.mode != WHOLE && !uses_tiles(model, m, rows) &&
         m.format >= BYTES && m.format != BYTES_HALVES && m.format != BYTES_HALVES_MIN;
}

inline Forms forms_for(const Model& model, const Matrix& m, int64_t rows) {
  if (uses_tiles(model, m, rows)) return {false, false, true, m.format == BF16};
  const bool is_quantised = !is_plain(m.format) && model.mode != WHOLE;
  return {is_quantised, !is_quantised, false, m.format == BF16 && model.mode != WHOLE};
}

inline Forms both(Forms a, Forms b) {
  // Rounded for all or for none, whichever of them tiles take.
  return {a.bytes || b.bytes, a.floats || b.floats, a.tiles || b.tiles,
          a.is_rounded || b.is_rounded};
}

inline int64_t lay_out_own(const Model& model, int64_t rows, char* memory, Own* own) {
  char* const start = memory;
  const auto take = [&](int64_t bytes) {
    char* at = memory;
    memory += (bytes + 63) / 64 * 64;
    return at;
  };
#ifdef __AMX_TILE__
  own->product = take(product_scratch_bytes(rows));
  own->block = take(sizeof(BlockScratch));
#endif
  own->gate = reinterpret_cast<float*>(take(rows * GATE_TILES * 64));
  own->up = reinterpret_cast<float*>(take(rows * GATE_TILES * 64));
  const int64_t widest =
      larger_of(larger_of(model.dim, model.hidden), model.heads * model.head_dim);
  own->inputs = take(activation_bytes(OWN_ROWS, widest));
  own->keys = reinterpret_cast<int32_t*>(take(padded(model.vocabulary) * 4));
  return memory - start;
}

inline void forward_sizes(const Model& model, int64_t rows, Sizes* sizes) {
  const Widths width(model);
  Own own{};
  const int64_t whole = (rows + 31) / 32 * 32;
  sizes->states = whole * width.dim * 4;
  sizes->joined = whole * width.joined * 4;
  sizes->mixed = whole * model.heads * width.head * 4;
  sizes->inputs = activation_bytes(whole, model.dim);
  sizes->attended = activation_bytes(whole, model.heads * model.head_dim);
  sizes->gated = activation_bytes(whole, model.hidden);
  sizes->logits = smaller_of(LOGIT_ROWS, whole) * padded(model.vocabulary) * 4;
  sizes->own = lay_out_own(model, whole, nullptr, &own);
}

class Forward {
 public:
  Forward(const Model& model, const Step& step, Workspace& work, const Member& member)
      : model_(model), step_(step), work_(work), me_(member), width_(model) {
    lay_out_own(model, (work.rows + 31) / 32 * 32, work.own[member.number], &own_);
  }

  void run() {
    share_rows(step_.rows, 16, [&](int64_t row) {
      unpack_row(model_.embedding, step_.ids[row], states(row));
    });
    wait();
    for (int64_t i = 0; i < model_.layer_count; ++i) {
      const Layer& layer = model_.layers[i];
      attend_to(layer, i);
      feed(layer);
    }
    if (step_.hidden) return hand_out();
    for (int64_t start = 0; start < step_.wanted_count; start += LOGIT_ROWS)
      answer(start, smaller_of(LOGIT_ROWS, step_.wanted_count - start));
  }

 private:
  void wait() const { me_.wait(me_.crew); }
  int64_t take(int64_t units) const { return me_.take(me_.crew, me_.number, units); }
  float* states(int64_t row) const { return work_.states + row * width_.dim; }

  // Calls work(row) for this member's share of all rows, of many rows `each` at a time.
  template <class Work>
  void share_rows(int64_t rows, int64_t each, Work work) const {
    if (rows < each * UNITS_EACH * me_.count) each = 1;
    for (int64_t unit; (unit = take((rows + each - 1) / each)) >= 0;)
      for (int64_t row = unit * each; row < smaller_of((unit + 1) * each, rows); ++row) work(row);
  }

  // Room for the inputs of a product: the member's own for a few rows, else shared.
  Activations room(int64_t rows, int64_t width, Forms forms, char* shared) const {
    return lay_out(rows <= OWN_ROWS ? own_.inputs : shared, rows, width, forms);
  }

  // Calls fill(row) until all rows are there.
  template <class Fill>
  void fill_rows(int64_t rows, Fill fill) const {
    if (rows <= OWN_ROWS) {
      for (int64_t row = 0; row < rows; ++row) fill(row);
    } else {
      share_rows(rows, 16, fill);
      wait();
    }
  }

  // The inputs of a product: `fill(row, activations)` for each row.
  template <class Fill>
  Activations prepare(int64_t rows, int64_t width, Forms forms, char* shared, Fill fill) const {
    const Activations inputs = room(rows, width, forms, shared);
    fill_rows(rows, [&](int64_t row) { fill(row, inputs); });
    return inputs;
  }

  int64_t tiles_each(int64_t tiles, int64_t rows, int64_t most) const {
    if (rows < TILE_ROWS) return 2;
    const int64_t even = tiles / (UNITS_EACH * me_.count) / 2 * 2;
    return larger_of(2, smaller_of(even, most));
  }

  void multiply(const Matrix& m, const Activations& a, int64_t rows, int64_t tile, int64_t tiles,
                Result result) const {
#ifdef __AMX_TILE__
    if (uses_tiles(model_, m, rows))
      return multiply_tiles(m, a, rows, tile, tiles, result, own_.product);
    if (uses_byte_tiles(model_, m, rows))
      return multiply_bytes(m, a, rows, tile, tiles, result, own_.product);
#endif
    multiply_few(m, a, rows, tile, tiles, result);
  }

  // Products of the same inputs, side by side in result's rows.
  void multiply_all(const Matrix* const* matrices, int64_t count, const Activations& a,
                    int64_t rows, Result result) const {
    int64_t total = 0;
    for (int64_t i = 0; i < count; ++i) total += tiles_of(*matrices[i]);
    const int64_t each = tiles_each(total, rows, 16);
    int64_t units = 0;
    for (int64_t i = 0; i < count; ++i) units += (tiles_of(*matrices[i]) + each - 1) / each;
    for (int64_t unit; (unit = take(units)) >= 0;) {
      Result mine = result;
      const Matrix* const* m = matrices;
      for (; unit >= (tiles_of(**m) + each - 1) / each; ++m) {
        unit -= (tiles_of(**m) + each - 1) / each;
        mine.out += tiles_of(**m) * 16;
      }
      const int64_t tile = unit * each;
      mine.out += tile * 16;
      multiply(**m, a, rows, tile, smaller_of(each, tiles_of(**m) - tile), mine);
    }
    wait();
  }

  Forms forms(const Matrix& m, int64_t rows) const { return forms_for(model_, m, rows); }

  void attend_to(const Layer& layer, int64_t number) {
    const int64_t rows = step_.rows;
    const Forms wanted = both(both(forms(layer.wq, rows), forms(layer.wk, rows)),
                              forms(layer.wv, rows));
    const Activations inputs =
        prepare(rows, model_.dim, wanted, work_.inputs, [&](int64_t row, const Activations& a) {
          put_normed(states(row), layer.attention_norm, model_.dim, model_.norm_epsilon, row, a);
        });
    const Matrix* const matrices[] = {&layer.wq, &layer.wk, &layer.wv};
    multiply_all(matrices, 3, inputs, rows, {work_.joined, width_.joined, false});
    with_kept(model_, [&](auto value) { attend_to<decltype(value)>(layer, number); });
  }

  template <class Value>
  void attend_to(const Layer& layer, int64_t number) {
    const int64_t rows = step_.rows;
    const Activations attended =
        room(rows, model_.heads * model_.head_dim, forms(layer.wo, rows), work_.attended);
    const Attention<Value> attention(model_, step_, work_, own_, attended, number);
    const int64_t each = rows < 2 * PAGE ? 1 : PAGE, heads = model_.kv_heads;
    for (int64_t unit; (unit = take((rows + each - 1) / each * heads)) >= 0;) {
      const int64_t row = unit / heads * each;
      attention.remember(row, smaller_of(row + each, rows), unit % heads);
    }
    wait();
    for (int64_t unit; (unit = take(step_.work_count)) >= 0;)
      attention.attend_unit(step_.work[unit]);
    wait();
    if (!attention.is_complete()) fill_rows(rows, [&](int64_t row) { attention.complete(row); });
    const Matrix* const back[] = {&layer.wo};
    multiply_all(back, 1, attended, rows, {work_.states, width_.dim, true});
  }

  void feed(const Layer& layer) const {
    const int64_t rows = step_.rows;
    const Forms wanted = both(forms(layer.w1, rows), forms(layer.w3, rows));
    const Activations inputs =
        prepare(rows, model_.dim, wanted, work_.inputs, [&](int64_t row, const Activations& a) {
          put_normed(states(row), layer.ffn_norm, model_.dim, model_.norm_epsilon, row, a);
        });
    const Activations hidden = lay_out(work_.gated, rows, model_.hidden, forms(layer.w2, rows));
    const int64_t tiles = tiles_of(layer.w1);
    const int64_t each = tiles_each(2 * tiles, rows, GATE_TILES);
    for (int64_t unit; (unit = take((tiles + each - 1) / each)) >= 0;) {
      const int64_t tile = unit * each, some = smaller_of(each, tiles - tile);
      multiply(layer.w1, inputs, rows, tile, some, {own_.gate, some * 16, false});
      multiply(layer.w3, inputs, rows, tile, some, {own_.up, some * 16, false});
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < some * 16; i += 32) {
          const float *gate = own_.gate + row * some * 16 + i, *up = own_.up + row * some * 16 + i;
          hidden.put(row, (tile * 16 + i) / 32, gated(load(gate), load(up)),
                     gated(load(gate + 16), load(up + 16)));
        }
    }
    wait();
    const Matrix* const down[] = {&layer.w2};
    multiply_all(down, 1, hidden, rows, {work_.states, width_.dim, true});
  }

  // The wanted rows' states, normed where they lie: a row is wanted once.
  void hand_out() const {
    for (int64_t i; (i = take(step_.wanted_count)) >= 0;) {
      float* row = states(step_.wanted[i]);
      Activations same{};
      same.groups = padded(model_.dim) / GROUP, same.block = 1, same.floats = row;
      put_normed(row, model_.norm, model_.dim, model_.norm_epsilon, 0, same);
      memcpy(step_.hidden + i * model_.dim, row, model_.dim * sizeof(float));
    }
    wait();
  }

  // Logits of wanted rows start .. start + rows - 1, and what is asked for of them.
  void answer(int64_t start, int64_t rows) const {
    const Activations inputs = prepare(
        rows, model_.dim, forms(model_.output, rows), work_.inputs,
        [&](int64_t row, const Activations& a) {
          put_normed(states(step_.wanted[start + row]), model_.norm, model_.dim,
                     model_.norm_epsilon, row, a);
        });
    const Matrix* const output[] = {&model_.output};
    const int64_t stride = padded(model_.vocabulary);
    multiply_all(output, 1, inputs, rows, {work_.logits, stride, false});
    for (int64_t row; (row = take(rows)) >= 0;) tell(start + row, work_.logits + row * stride);
    wait();
  }

  void tell(int64_t index, float* logits) const {
    const int64_t count = model_.vocabulary;
    for (int64_t i = count; i < padded(count); ++i) logits[i] = -INFINITY;
    Floats most = all(-INFINITY), strange = all(0.f);
    for (int64_t i = 0; i < padded(count); i += LANES) {
      const Floats values = load(logits + i);
      most = larger(most, values);
      const Floats real = first(count - i, values, all(0.f));
      strange = strange + (real - real);  // 0, but NaN where a value is not finite
    }
    const bool is_finite = sum(strange) == 0;
    if (!is_finite) work_.not_finite = 1;
    if (index < step_.logits_count)
      memcpy(step_.logits + index * count, logits, count * sizeof(float));
    if (step_.targets) {
      const float greatest_value = greatest(most);
      double total = 0;
      for (int64_t i = 0; i < padded(count); i += LANES)
        total += sum(exp2_of((load(logits + i) - all(greatest_value)) * all(LOG2_E)));
      step_.log_probabilities[index] =
          logits[step_.targets[index]] - greatest_value - log(total);
    }
    const int64_t draw = index - (step_.wanted_count - step_.drawn_count);
    if (draw >= 0 && is_finite)
      step_.drawn[draw] = drawn_id(logits, step_.draws[draw], own_.keys);
  }

  const Model& model_;
  const Step& step_;
  Workspace& work_;
  const Member& me_;
  const Widths width_;
  Own own_{};
};

inline void forward(const Model& model, const Step& step, Workspace& work, const Member& member) {
  const NoDenormals flushed;
#ifdef __AMX_TILE__
  const Tiles configured;
#endif
  Forward(model, step, work, member).run();
}

// Reads all bytes, for the probe of the memory's bandwidth; the sum keeps the reads alive.
inline float read_all(const char* at, int64_t bytes) {
  Floats sums[4] = {all(0.f), all(0.f), all(0.f), all(0.f)};
  for (int64_t i = 0; i + 256 <= bytes; i += 256) {
    prefetch(at + i + AHEAD, 256);
    for (int j = 0; j < 4; ++j)
      sums[j] = sums[j] + load(reinterpret_cast<const float*>(at + i + 64 * j));
  }
  return sum(sums[0] + sums[1] + (sums[2] + sums[3]));
}

}  // namespace
