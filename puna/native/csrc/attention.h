// Causal attention for training, rotary included, both passes, on AMX tiles (paper 2.4).
//
// After FlashAttention (Dao et al. 2022, algorithms 1 and 4): scores exist only for a block of
// queries and keys at a time, the masked half is never computed. With S = scale · q kᵀ, the row's
// log-sum-exp L from the forward pass, and delta = sum(dO · O):
//   P = exp(S - L)   dV = Pᵀ dO   dP = dO Vᵀ   dS = P · (dP - delta)
//   dQ = scale · dS K   dK = scale · dSᵀ Q
// Sums are float32, what enters a product is bfloat16, exponents are of 2.
//
// A unit of work is a key-value head with its query heads. Forward takes 32 queries, meets all keys
// before them, 512 at a time, and keeps each row's largest score and sum meanwhile: `attend`, and
// `weigh` for a row. Backward takes 128 keys, meets all queries after them, 512 at a time, and adds
// to the three gradients: `block`, and `weigh` for 32 x 32 of P and dS. The rest packs operands
// into tiles (tiles.h) and writes results out.
#pragma once
#include <math.h>

#include "kernels.h"
#include "tiles.h"

namespace {

constexpr float LOG2_E = 1.4426950408889634f;
constexpr int64_t SIDE = 32;            // scores are made in blocks of 32 x 32
constexpr int64_t FORWARD_KEYS = 512;   // keys that 32 queries meet at a time: 64 kB of scores
constexpr int64_t BACKWARD_KEYS = 128;  // in the backward pass these keys ...
constexpr int64_t BACKWARD_QUERIES = 512;  // ... meet these queries: 384 kB of P and dS
constexpr int64_t WIDEST_HEAD = 256;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Sixteen values, 8 pairs, turned by their position's angles, or back.
class Turn {
 public:
  Turn(const float* cosines, const float* sines, bool back) {
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512 sine = _mm512_castps256_ps512(_mm256_loadu_ps(sines));
    cosine_ = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(cosines)));
    sine_ = _mm512_permutexvar_ps(twice, sine);
    // (a, b) -> (a cos - b sin, b cos + a sin); back: (a cos + b sin, b cos - a sin)
    sine_ = _mm512_mask_sub_ps(sine_, back ? 0xAAAA : 0x5555, _mm512_setzero_ps(), sine_);
  }
  __m512 operator()(__m512 values) const {
    const __m512 swapped = _mm512_permute_ps(values, 0xB1);
    return _mm512_fmadd_ps(swapped, sine_, _mm512_mul_ps(values, cosine_));
  }

 private:
  __m512 cosine_, sine_;
};

// One unit: a sequence's key-value head with the query heads that share it.
class Unit {
 public:
  Unit(const AttentionShape& shape, const AttentionArrays& arrays, int64_t unit, char* scratch)
      : arrays_(arrays),
        time_(shape.time),
        width_(shape.head_dim),
        padded_((shape.time + SIDE - 1) / SIDE * SIDE),
        steps_(shape.head_dim / 32),
        line_((shape.heads + 2 * shape.kv_heads) * shape.head_dim),
        mixed_line_(shape.heads * shape.head_dim),
        group_(shape.heads / shape.kv_heads),
        scale_(1 / sqrtf(static_cast<float>(shape.head_dim))),
        scratch_(scratch) {
    const int64_t sequence = unit / shape.kv_heads, kv_head = unit % shape.kv_heads;
    query_at_ = sequence * time_ * line_ + kv_head * group_ * width_;
    key_at_ = sequence * time_ * line_ + (shape.heads + kv_head) * width_;
    value_at_ = key_at_ + shape.kv_heads * width_;
    mixed_at_ = sequence * time_ * mixed_line_ + kv_head * group_ * width_;
    log_sum_at_ = (sequence * shape.heads + kv_head * group_) * time_;
  }

 protected:
  // The next `count` values of the scratch memory, all of them multiples of 64 bytes.
  template <class T>
  T* take(int64_t count) {
    T* at = reinterpret_cast<T*>(scratch_);
    scratch_ += count * static_cast<int64_t>(sizeof(T));
    return at;
  }

  // [time, width] at `from`, `line` values from row to row -> form rows, turned where asked.
  void pack(const bf16* from, int64_t line, bool turned, bf16* rows) const {
    for (int64_t row = 0; row < padded_; ++row) {
      bf16* to = rows + row / 16 * steps_ * TILE + row % 16 * 32;
      for (int64_t column = 0; column < width_; column += 32, to += TILE) {
        __m512i values = _mm512_setzero_si512();
        if (row < time_) values = _mm512_loadu_si512(from + row * line + column);
        if (row < time_ && turned) values = turn(values, row, column);
        _mm512_store_si512(to, values);
      }
    }
  }

  __m512i turn(__m512i values, int64_t row, int64_t column) const {
    const float* cosines = arrays_.cosines + (row * width_ + column) / 2;
    const float* sines = arrays_.sines + (row * width_ + column) / 2;
    const Turn low(cosines, sines, false), high(cosines + 8, sines + 8, false);
    return narrow(low(widen(_mm512_castsi512_si256(values))),
                  high(widen(_mm512_extracti64x4_epi64(values, 1))));
  }

  Rows rows_from(const bf16* rows, int64_t row) const {
    return {rows + row * width_, 32, steps_ * TILE, TILE};
  }

  // rows -> pairs
  void pair_all(const bf16* rows, bf16* pairs) const {
    for (int64_t row = 0; row < padded_; row += 32)
      pair_up(rows_from(rows, row), width_, pairs + row * width_);
  }

  // Operands of `product`, from `row` (and `column`) on. A and B forms have the same strides.
  Operand by_rows(const bf16* form, int64_t row) const {  // forms rows and over
    return {form + row / 16 * steps_ * TILE, steps_ * TILE, TILE};
  }
  Operand by_columns(const bf16* form, int64_t row, int64_t column) const {  // pairs and across
    return {form + (row / 32 * 2 * steps_ + column / 16) * TILE, TILE, 2 * steps_ * TILE};
  }

  const AttentionArrays& arrays_;
  const int64_t time_, width_, padded_, steps_, line_, mixed_line_, group_;
  const float scale_;
  int64_t query_at_, key_at_, value_at_, mixed_at_, log_sum_at_;
  char* scratch_;
};

class Forward : Unit {
 public:
  Forward(const AttentionShape& shape, const AttentionArrays& arrays, int64_t unit, char* scratch)
      : Unit(shape, arrays, unit, scratch) {
    const int64_t size = padded_ * width_;
    rows_ = take<bf16>(size), query_ = take<bf16>(size);
    key_ = take<bf16>(size), value_ = take<bf16>(size);
    weights_ = take<bf16>(SIDE * FORWARD_KEYS);
    scores_ = take<float>(SIDE * FORWARD_KEYS);
    mixed_ = take<float>(SIDE * width_);
  }

  void run() {
    pack(arrays_.joined + key_at_, line_, true, rows_);
    turn_over(rows_, padded_ / 16 * steps_, key_);
    pack(arrays_.joined + value_at_, line_, false, rows_);
    pair_all(rows_, value_);
    for (int64_t head = 0; head < group_; ++head) {
      pack(arrays_.joined + query_at_ + head * width_, line_, true, query_);
      for (int64_t query = 0; query < time_; query += SIDE) {
        attend(query);
        write(head, query);
      }
    }
  }

 private:
  // mixed_ = exp(S - top) V, unnormalised, for 32 queries; top_ and sum_ by row.
  void attend(int64_t query) {
    for (int64_t row = 0; row < SIDE; ++row) top_[row] = -INFINITY, sum_[row] = 0;
    const int64_t past = query + SIDE;
    for (int64_t first = 0; first < past; first += FORWARD_KEYS) {
      const int64_t keys = smaller(FORWARD_KEYS, past - first);
      for (int64_t key = 0; key < keys; key += SIDE)
        product(by_rows(query_, query), by_rows(key_, first + key), steps_, scores_ + key,
                FORWARD_KEYS, false);
      for (int64_t row = 0; row < SIDE; ++row)
        weigh(row, keys, smaller(keys, query + row + 1 - first), first > 0);
      const Operand weights{weights_, FORWARD_KEYS / 32 * TILE, TILE};
      for (int64_t column = 0; column < width_; column += 32)
        product(weights, by_columns(value_, first, column), keys / 32, mixed_ + column, width_,
                first > 0);
    }
  }

  // One row's softmax over `keys` more keys, of which it sees `seen`, at least one.
  void weigh(int64_t row, int64_t keys, int64_t seen, bool later) {
    const float* line = scores_ + row * FORWARD_KEYS;
    const int64_t whole = seen / 16 * 16;
    const __mmask16 rest = static_cast<__mmask16>((1u << (seen - whole)) - 1);
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int64_t key = 0; key < whole; key += 16)
      most = _mm512_max_ps(most, _mm512_load_ps(line + key));
    if (rest) most = _mm512_mask_max_ps(most, rest, most, _mm512_load_ps(line + whole));
    const float factor = scale_ * LOG2_E;
    const float top = fmaxf(top_[row], _mm512_reduce_max_ps(most) * factor);
    if (later) shrink(row, exp2f(top_[row] - top));
    top_[row] = top;
    const __m512 factors = _mm512_set1_ps(factor), tops = _mm512_set1_ps(top);
    __m512 total = _mm512_setzero_ps();
    bf16* to = weights_ + row / 16 * (FORWARD_KEYS / 32) * TILE + row % 16 * 32;
    for (int64_t key = 0; key < keys; key += 32, to += TILE) {
      __m512 low = exp2_of(_mm512_fmsub_ps(_mm512_load_ps(line + key), factors, tops));
      __m512 high = exp2_of(_mm512_fmsub_ps(_mm512_load_ps(line + key + 16), factors, tops));
      if (key + 32 > seen) {  // keys still to come weigh nothing
        const uint32_t mask = seen > key ? (1u << (seen - key)) - 1 : 0;
        low = _mm512_maskz_mov_ps(static_cast<__mmask16>(mask), low);
        high = _mm512_maskz_mov_ps(static_cast<__mmask16>(mask >> 16), high);
      }
      total = _mm512_add_ps(total, _mm512_add_ps(low, high));
      _mm512_store_si512(to, narrow(low, high));
    }
    sum_[row] += _mm512_reduce_add_ps(total);
  }

  // A row's sums so far, measured against a new top.
  void shrink(int64_t row, float by) {
    sum_[row] *= by;
    for (float *at = mixed_ + row * width_, *end = at + width_; at < end; at += 16)
      _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), _mm512_set1_ps(by)));
  }

  void write(int64_t head, int64_t query) {
    for (int64_t row = 0; row < smaller(SIDE, time_ - query); ++row) {
      arrays_.log_sum[log_sum_at_ + head * time_ + query + row] = top_[row] + log2f(sum_[row]);
      const __m512 share = _mm512_set1_ps(1 / sum_[row]);
      const float* from = mixed_ + row * width_;
      bf16* to = arrays_.mixed + mixed_at_ + (query + row) * mixed_line_ + head * width_;
      for (int64_t column = 0; column < width_; column += 16)
        narrow_to(to + column, _mm512_mul_ps(share, _mm512_load_ps(from + column)));
    }
  }

  bf16 *rows_, *query_, *key_, *value_, *weights_;
  float *scores_, *mixed_;
  float top_[SIDE], sum_[SIDE];
};

class Backward : Unit {
 public:
  Backward(const AttentionShape& shape, const AttentionArrays& arrays, int64_t unit, char* scratch)
      : Unit(shape, arrays, unit, scratch) {
    const int64_t size = padded_ * width_, block = BACKWARD_KEYS * BACKWARD_QUERIES;
    rows_ = take<bf16>(size), key_ = take<bf16>(size), key_across_ = take<bf16>(size);
    value_ = take<bf16>(size), query_over_ = take<bf16>(size), query_pairs_ = take<bf16>(size);
    out_over_ = take<bf16>(size), out_pairs_ = take<bf16>(size);
    weights_ = take<bf16>(block), slopes_ = take<bf16>(block), slope_pairs_ = take<bf16>(block);
    query_gradient_ = take<float>(size), key_gradient_ = take<float>(size);
    value_gradient_ = take<float>(size);
    log_sum_ = take<float>(padded_), delta_ = take<float>(padded_);
    scores_ = take<float>(SIDE * SIDE), products_ = take<float>(SIDE * SIDE);
    static constexpr Lanes PAIRING(0, 16, 1);
    pairing_ = PAIRING.get();
  }

  void run() {
    pack(arrays_.joined + key_at_, line_, true, key_);
    for (int64_t row = 0; row < padded_; row += 32)
      lay_across(rows_from(key_, row), width_, key_across_ + row * width_);
    pack(arrays_.joined + value_at_, line_, false, value_);
    for (int64_t head = 0; head < group_; ++head) {
      prepare(head);
      for (int64_t key = 0; key < padded_; key += BACKWARD_KEYS) {
        int64_t query = key / BACKWARD_QUERIES * BACKWARD_QUERIES;
        for (; query < padded_; query += BACKWARD_QUERIES) block(key, query, head == 0);
      }
      write_query(head);
    }
    for (int64_t row = 0; row < time_; ++row) {
      bf16* to = arrays_.joined_gradient + row * line_;
      write(key_gradient_ + row * width_, row, true, scale_, to + key_at_);
      write(value_gradient_ + row * width_, row, false, 1, to + value_at_);
    }
  }

 private:
  // One query head's operands and its rows' constants.
  void prepare(int64_t head) {
    const int64_t tiles = padded_ / 16 * steps_;
    pack(arrays_.joined + query_at_ + head * width_, line_, true, rows_);
    turn_over(rows_, tiles, query_over_);
    pair_all(rows_, query_pairs_);
    const bf16* gradient = arrays_.mixed_gradient + mixed_at_ + head * width_;
    const bf16* mixed = arrays_.mixed + mixed_at_ + head * width_;
    pack(gradient, mixed_line_, false, rows_);
    turn_over(rows_, tiles, out_over_);
    pair_all(rows_, out_pairs_);
    for (int64_t row = 0; row < padded_; ++row) {
      __m512 sum = _mm512_setzero_ps();
      const int64_t at = row * mixed_line_;
      for (int64_t column = 0; row < time_ && column < width_; column += 16)
        sum = _mm512_fmadd_ps(widen_at(gradient + at + column), widen_at(mixed + at + column), sum);
      delta_[row] = _mm512_reduce_add_ps(sum);
      const bool is_there = row < time_;  // a padded query weighs nothing: exp(S - infinity)
      log_sum_[row] = is_there ? arrays_.log_sum[log_sum_at_ + head * time_ + row] : INFINITY;
    }
  }

  // All that 128 keys and 512 queries (fewer at the end) add to the three gradients.
  void block(int64_t first_key, int64_t first_query, bool first_head) {
    const int64_t end_key = smaller(first_key + BACKWARD_KEYS, padded_);
    const int64_t end_query = smaller(first_query + BACKWARD_QUERIES, padded_);
    for (int64_t key = first_key; key < end_key; key += SIDE) {
      const int64_t from = larger(first_query, key);  // a key is seen by its own and later queries
      if (from >= end_query) break;
      for (int64_t query = from; query < end_query; query += SIDE)
        weigh(key, query, place(key - first_key, query - first_query));
      const int64_t at = place(key - first_key, from - first_query);
      const int64_t steps = (end_query - from) / 32;
      const bool add = !first_head || from > key;
      for (int64_t column = 0; column < width_; column += 32) {
        product({weights_ + at, NEXT_KEYS, TILE}, by_columns(out_pairs_, from, column), steps,
                value_gradient_ + key * width_ + column, width_, add);
        product({slopes_ + at, NEXT_KEYS, TILE}, by_columns(query_pairs_, from, column), steps,
                key_gradient_ + key * width_ + column, width_, add);
      }
    }
    // dQ, transposed: [width, queries], since dS lies keys by queries.
    int64_t query = larger(first_query, first_key);
    for (; query < end_query; query += SIDE) {
      const int64_t steps = (smaller(end_key, query + SIDE) - first_key) / 32;
      const Operand slopes{slope_pairs_ + (query - first_query) / 16 * TILE, TILE,
                           BACKWARD_QUERIES / 16 * TILE};
      for (int64_t column = 0; column < width_; column += 32)
        product(by_columns(key_across_, first_key, column), slopes, steps,
                query_gradient_ + column * padded_ + query, padded_, first_key > 0);
    }
  }

  // Where 32 keys and 32 queries of a block stand in weights_ and slopes_.
  static constexpr int64_t NEXT_KEYS = BACKWARD_QUERIES / 32 * TILE;  // 16 keys on
  static int64_t place(int64_t key, int64_t query) {
    return key / 16 * NEXT_KEYS + query / 32 * TILE;
  }

  // P and dS of 32 keys (rows) and 32 queries (columns), to `at` in weights_ and slopes_.
  void weigh(int64_t key, int64_t query, int64_t at) {
    product(by_rows(key_, key), by_rows(query_over_, query), steps_, scores_, SIDE, false);
    product(by_rows(value_, key), by_rows(out_over_, query), steps_, products_, SIDE, false);
    const int64_t keys = at / NEXT_KEYS / 2, queries = at % NEXT_KEYS / TILE;
    bf16* pairs = slope_pairs_ + (keys * (BACKWARD_QUERIES / 16) + queries * 2) * TILE;
    for (int64_t row = 0; row < SIDE; row += 2, pairs += 32) {
      __m512 slopes[2][2];  // two keys by two halves of the queries
      for (int64_t i = 0; i < 2; ++i) {
        const uint32_t seen = key == query ? ~0u << (row + i) : ~0u;
        const int64_t to = at + (row + i) / 16 * NEXT_KEYS + (row + i) % 16 * 32;
        const __m512 low = weight(row + i, query, 0, seen, &slopes[i][0]);
        const __m512 high = weight(row + i, query, 16, seen >> 16, &slopes[i][1]);
        _mm512_store_si512(weights_ + to, narrow(low, high));
        _mm512_store_si512(slopes_ + to, narrow(slopes[i][0], slopes[i][1]));
      }
      const __m512i low = narrow(slopes[0][0], slopes[1][0]);
      const __m512i high = narrow(slopes[0][1], slopes[1][1]);
      _mm512_store_si512(pairs, _mm512_permutexvar_epi16(pairing_, low));
      _mm512_store_si512(pairs + TILE, _mm512_permutexvar_epi16(pairing_, high));
    }
  }

  // P of one key and 16 queries from `column` on, and their dS.
  __m512 weight(int64_t row, int64_t query, int64_t column, uint32_t seen, __m512* slope) const {
    const __m512 score = _mm512_load_ps(scores_ + row * SIDE + column);
    const __m512 product = _mm512_load_ps(products_ + row * SIDE + column);
    const __m512 log_sum = _mm512_load_ps(log_sum_ + query + column);
    const __m512 power = exp2_of(_mm512_fmsub_ps(score, _mm512_set1_ps(scale_ * LOG2_E), log_sum));
    const __m512 weight = _mm512_maskz_mov_ps(static_cast<__mmask16>(seen), power);
    *slope = _mm512_mul_ps(weight, _mm512_sub_ps(product, _mm512_load_ps(delta_ + query + column)));
    return weight;
  }

  // dQ of one head, back from its transpose.
  void write_query(int64_t head) {
    alignas(64) float lines[16 * WIDEST_HEAD];
    for (int64_t query = 0; query < time_; query += 16) {
      for (int64_t column = 0; column < width_; column += 16) {
        __m512i block[16];
        for (int i = 0; i < 16; ++i)
          block[i] = _mm512_load_si512(query_gradient_ + (column + i) * padded_ + query);
        transpose(block);
        for (int i = 0; i < 16; ++i) _mm512_store_si512(lines + i * width_ + column, block[i]);
      }
      for (int64_t i = 0; i < smaller(16, time_ - query); ++i) {
        bf16* to = arrays_.joined_gradient + query_at_ + (query + i) * line_ + head * width_;
        write(lines + i * width_, query + i, true, scale_, to);
      }
    }
  }

  // One row of a gradient, scaled and turned back, as bf16.
  void write(const float* from, int64_t row, bool turned, float scale, bf16* to) const {
    const int64_t angles = row * width_ / 2;
    for (int64_t column = 0; column < width_; column += 16) {
      __m512 values = _mm512_mul_ps(_mm512_load_ps(from + column), _mm512_set1_ps(scale));
      const int64_t at = angles + column / 2;
      if (turned) values = Turn(arrays_.cosines + at, arrays_.sines + at, true)(values);
      narrow_to(to + column, values);
    }
  }

  bf16 *rows_, *key_, *key_across_, *value_, *query_over_, *query_pairs_, *out_over_, *out_pairs_;
  bf16 *weights_, *slopes_, *slope_pairs_;
  float *query_gradient_, *key_gradient_, *value_gradient_, *log_sum_, *delta_;
  float *scores_, *products_;
  __m512i pairing_;
};

// Enough for either pass; the backward one needs more.
int64_t attention_scratch_bytes(const AttentionShape& shape) {
  const int64_t padded = (shape.time + SIDE - 1) / SIDE * SIDE;
  const int64_t operands = padded * shape.head_dim * (8 * 2 + 3 * 4) + 2 * padded * 4;
  const int64_t blocks = 3 * BACKWARD_KEYS * BACKWARD_QUERIES * 2 + 2 * SIDE * SIDE * 4;
  return operands + blocks;
}

void attention_forward(const AttentionShape& shape, const AttentionArrays& arrays, int64_t unit,
                       char* scratch) {
  const Tiles tiles;
  Forward(shape, arrays, unit, scratch).run();
}

void attention_backward(const AttentionShape& shape, const AttentionArrays& arrays, int64_t unit,
                        char* scratch) {
  const Tiles tiles;
  Backward(shape, arrays, unit, scratch).run();
}

}  // namespace
