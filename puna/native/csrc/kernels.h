// What one build of the kernels offers. One source is built once for each instruction set; each
// build exports one table of these and nothing else, so that no linker mixes two builds' code.
// Only plain C types: an inline function of the C++ library would be shared between builds.
#pragma once
#include <stdint.h>

struct AttentionShape {
  int64_t batch, time, heads, kv_heads, head_dim;
};

// All contiguous. `joined` and its gradient [batch, time, (heads + 2 kv_heads) head_dim] hold
// queries, keys and values side by side, before rotary; `mixed` and its gradient
// [batch, time, heads head_dim]; `log_sum` [batch, heads, time] is log2 of each row's softmax
// denominator; cosines and sines [time, head_dim / 2]. 16-bit values are bfloat16.
struct AttentionArrays {
  const uint16_t* joined;
  const float* cosines;
  const float* sines;
  uint16_t* mixed;
  float* log_sum;
  const uint16_t* mixed_gradient;
  uint16_t* joined_gradient;
};

// The work falls into batch · kv_heads independent units; a unit is done by one thread, in one
// order, so that results do not depend on the number of threads. `scratch` is 64-byte aligned.
using AttentionUnit = void (*)(const AttentionShape&, const AttentionArrays&, int64_t unit,
                               char* scratch);

// out [left_width, right_width] = leftᵀ right, or += with `add`: the gradient of a linear layer's
// weight from its output's gradient (left) and its input (right), both [rows, width] in bf16.
// Widths are multiples of 32. The result does not depend on `side`, the size of a unit's block.
struct WeightGradient {
  const uint16_t* left;
  const uint16_t* right;
  float* out;
  int64_t rows, left_width, right_width, side;
  bool add;
};

struct Kernels {
  const char* isa;
  int64_t (*attention_scratch_bytes)(const AttentionShape&);
  AttentionUnit attention_forward;
  AttentionUnit attention_backward;
  int64_t (*weight_gradient_scratch_bytes)(const WeightGradient&);
  void (*weight_gradient)(const WeightGradient&, int64_t unit, char* scratch);
};

#ifdef HAS_AMX_BUILD
extern "C" const Kernels kernels_amx;
#endif
