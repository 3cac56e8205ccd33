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
    int64_t token = 0;
    do {  // once for no tokens at all: sums are 0 then
      const int64_t tokens = at_most(CHUNK, task_.rows - token);
      for (int64_t i = 0; i < tokens; i += 32) pack(token + i, i / 32, at_most(32, tokens - i));
      multiply((tokens + 31) / 32, token > 0);
      token += CHUNK;
    } while (token < task_.rows);
    write();
  }

 private:
  static int64_t at_most(int64_t limit, int64_t value) { return value < limit ? value : limit; }

  // Up to 32 tokens of both operands, as step `step` of the contraction.
  void pack(int64_t token, int64_t step, int64_t tokens) {
    const bf16* left = task_.left + token * task_.left_width + row_;
    const bf16* right = task_.right + token * task_.right_width + column_;
    bf16 *to_left = left_ + step * height_ * 32, *to_right = right_ + step * width_ * 32;
    lay_across(whole(left, task_.left_width, tokens, height_), height_, to_left);
    pair_up(whole(right, task_.right_width, tokens, width_), width_, to_right);
  }

  // 32 rows of an operand: where it has fewer, a copy with zeros below them, in tail_.
  Rows whole(const bf16* from, int64_t line, int64_t tokens, int64_t width) const {
    if (tokens == 32) return {from, line, 16 * line, 32};
    for (int64_t row = 0; row < 32; ++row)
      for (int64_t column = 0; column < width; column += 32) {
        const __m512i values = row < tokens ? _mm512_loadu_si512(from + row * line + column)
                                            : _mm512_setzero_si512();
        _mm512_store_si512(tail_ + row * LARGEST + column, values);
      }
    return {tail_, LARGEST, 16 * LARGEST, 32};
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
