// The gradient of a linear layer's weight, leftᵀ right, in float32, on AMX tiles.
//
// Both operands lie tokens by width, and the contraction runs over the tokens: the left one has to
// be laid across, the right one paired up. A unit is one block of the result; it stays in the
// second-level cache while chunks of tokens are packed beside it and multiplied. What bounds it is
// reading the operands once a block, so blocks are as large as the cache allows.
#pragma once
#include "kernels.h"
#include "tiles.h"

namespace {

constexpr int64_t CHUNK = 256;      // tokens packed at a time
constexpr int64_t LARGEST = 384;    // side of a block: 590 kB of sums, 2 x 197 kB of operands

// Lane i: 16 bytes of row 4 i.
inline __m512i every_fourth_row(const bf16* at, int64_t line) {
  const auto row = [&](int64_t i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 4 * i * line));
  };
  __m512i lanes = _mm512_castsi128_si512(row(0));
  lanes = _mm512_inserti32x4(lanes, row(1), 1);
  lanes = _mm512_inserti32x4(lanes, row(2), 2);
  return _mm512_inserti32x4(lanes, row(3), 3);
}

// Eight values of 16 rows, `line` values apart, as four lines of 16 pairs.
inline void take_pairs(const bf16* at, int64_t line, __m512i* pairs) {
  const __m512i first = every_fourth_row(at, line), second = every_fourth_row(at + line, line);
  const __m512i third = every_fourth_row(at + 2 * line, line);
  const __m512i fourth = every_fourth_row(at + 3 * line, line);
  const __m512i a = _mm512_unpacklo_epi32(first, second), c = _mm512_unpackhi_epi32(first, second);
  const __m512i b = _mm512_unpacklo_epi32(third, fourth), d = _mm512_unpackhi_epi32(third, fourth);
  pairs[0] = _mm512_unpacklo_epi64(a, b), pairs[1] = _mm512_unpackhi_epi64(a, b);
  pairs[2] = _mm512_unpacklo_epi64(c, d), pairs[3] = _mm512_unpackhi_epi64(c, d);
}

// 32 rows from memory -> form across. `width` is a multiple of 16.
inline void across_from(const bf16* from, int64_t line, int64_t width, bf16* to) {
  alignas(64) uint16_t evens[32], odds[32];
  for (int i = 0; i < 32; ++i) evens[i] = 2 * i, odds[i] = 2 * i + 1;
  const __m512i even = _mm512_load_si512(evens), odd = _mm512_load_si512(odds);
  for (int64_t column = 0; column < width; column += 8, from += 8) {
    __m512i upper[4], lower[4];
    take_pairs(from, line, upper);
    take_pairs(from + 16 * line, line, lower);
    bf16* at = to + column / 16 * TILE + column % 16 * 32;
    for (int i = 0; i < 4; ++i, at += 64) {
      _mm512_store_si512(at, _mm512_permutex2var_epi16(upper[i], even, lower[i]));
      _mm512_store_si512(at + 32, _mm512_permutex2var_epi16(upper[i], odd, lower[i]));
    }
  }
}

// 32 rows from memory -> form pairs.
inline void pairs_from(const bf16* from, int64_t line, int64_t width, bf16* to) {
  alignas(64) uint16_t first[32], second[32];
  for (int i = 0; i < 32; ++i) first[i] = i % 2 * 32 + i / 2, second[i] = first[i] + 16;
  const __m512i low = _mm512_load_si512(first), high = _mm512_load_si512(second);
  for (int64_t row = 0; row < 32; row += 2, from += 2 * line) {
    bf16* at = to + row / 2 * 32;
    for (int64_t column = 0; column < width; column += 32, at += 2 * TILE) {
      const __m512i a = _mm512_loadu_si512(from + column);
      const __m512i b = _mm512_loadu_si512(from + line + column);
      _mm512_store_si512(at, _mm512_permutex2var_epi16(a, low, b));
      _mm512_store_si512(at + TILE, _mm512_permutex2var_epi16(a, high, b));
    }
  }
}

class Block {
 public:
  Block(const WeightGradient& task, int64_t unit, char* scratch) : task_(task) {
    const int64_t across = (task.right_width + task.side - 1) / task.side;
    row_ = unit / across * task.side, column_ = unit % across * task.side;
    height_ = at_most(task.side, task.left_width - row_);
    width_ = at_most(task.side, task.right_width - column_);
    left_ = reinterpret_cast<bf16*>(scratch);
    right_ = left_ + CHUNK * LARGEST;
    tail_ = right_ + CHUNK * LARGEST;
    sums_ = reinterpret_cast<float*>(tail_ + 32 * LARGEST);
  }

  void run() {
    for (int64_t token = 0; token < task_.rows; token += CHUNK) {
      const int64_t tokens = at_most(CHUNK, task_.rows - token);
      for (int64_t i = 0; i < tokens; i += 32) pack(token + i, i / 32, at_most(32, tokens - i));
      multiply((tokens + 31) / 32, token > 0);
    }
    write();
  }

 private:
  static int64_t at_most(int64_t limit, int64_t value) { return value < limit ? value : limit; }

  // Up to 32 tokens of both operands, as step `step` of the contraction.
  void pack(int64_t token, int64_t step, int64_t tokens) {
    const bf16* left = task_.left + token * task_.left_width + row_;
    const bf16* right = task_.right + token * task_.right_width + column_;
    bf16 *to_left = left_ + step * height_ * 32, *to_right = right_ + step * width_ * 32;
    if (tokens == 32) {
      across_from(left, task_.left_width, height_, to_left);
      pairs_from(right, task_.right_width, width_, to_right);
    } else {
      pad(left, task_.left_width, tokens, height_);
      across_from(tail_, LARGEST, height_, to_left);
      pad(right, task_.right_width, tokens, width_);
      pairs_from(tail_, LARGEST, width_, to_right);
    }
  }

  // The last rows of an operand with zeros below them, in tail_.
  void pad(const bf16* from, int64_t line, int64_t tokens, int64_t width) {
    for (int64_t row = 0; row < 32; ++row)
      for (int64_t column = 0; column < width; column += 32) {
        const __m512i values = row < tokens ? _mm512_loadu_si512(from + row * line + column)
                                            : _mm512_setzero_si512();
        _mm512_store_si512(tail_ + row * LARGEST + column, values);
      }
  }

  void multiply(int64_t steps, bool add) {
    for (int64_t column = 0; column < width_; column += 32)
      for (int64_t row = 0; row < height_; row += 32) {
        const Operand left{left_ + row * 32, TILE, height_ * 32};
        const Operand right{right_ + column * 32, TILE, width_ * 32};
        product(left, right, steps, sums_ + column * height_ + row * 32, 32, add);
      }
  }

  // The sums lie in blocks of 32 x 32.
  void write() const {
    for (int64_t row = 0; row < height_; ++row) {
      float* to = task_.out + (row_ + row) * task_.right_width + column_;
      const float* from = sums_ + row * 32;
      for (int64_t column = 0; column < width_; column += 32, from += 32 * height_)
        for (int64_t half = 0; half < 32; half += 16) {
          __m512 values = _mm512_load_ps(from + half);
          if (task_.add) values = _mm512_add_ps(values, _mm512_loadu_ps(to + column + half));
          _mm512_storeu_ps(to + column + half, values);
        }
    }
  }

  const WeightGradient& task_;
  int64_t row_, column_, height_, width_;
  bf16 *left_, *right_, *tail_;
  float* sums_;
};

int64_t weight_gradient_scratch_bytes(const WeightGradient&) {
  return (2 * CHUNK + 32) * LARGEST * 2 + LARGEST * LARGEST * 4;
}

void weight_gradient(const WeightGradient& task, int64_t unit, char* scratch) {
  const Tiles tiles;
  Block(task, unit, scratch).run();
}

}  // namespace
