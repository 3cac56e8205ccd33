// A packed LLaMA as the kernels see it, and one step of it. Plain C types only: an inline function
// of the C++ library would be shared between builds for different instruction sets.
//
// Widths are padded to multiples of 32 (`padded`), with zeros. A matrix [outputs, inputs] lies in
// tiles of 16 outputs; a tile is a run of blocks, each of 32 inputs (formats.h).
#pragma once
#include <stdint.h>

struct Matrix {
  const char* data;
  int64_t outputs, inputs;
  int32_t format;
};

constexpr int64_t GROUP = 32;
inline int64_t padded(int64_t width) { return (width + GROUP - 1) / GROUP * GROUP; }
inline int64_t groups_of(const Matrix& m) { return padded(m.inputs) / GROUP; }
inline int64_t tiles_of(const Matrix& m) { return padded(m.outputs) / 16; }

struct Layer {
  const float *attention_norm, *ffn_norm;  // [padded dim]
  Matrix wq, wk, wv, wo, w1, w2, w3;
};

// How numbers are kept on their way: `exact` multiplies quantised weights by activations of nine
// bits at every number of rows; `fast` multiplies many rows by bfloat16 tiles where there are
// tiles; `whole` keeps activations, keys and values in float32.
enum Mode : int32_t { EXACT = 0, FAST = 1, WHOLE = 2 };

struct Model {
  int64_t dim, hidden, heads, kv_heads, head_dim, vocabulary, layer_count;
  float norm_epsilon;
  Mode mode;
  int64_t kept_bytes;  // of each key and value: 4 float32, 2 bfloat16, 1 int8 with scales
  Matrix embedding, output;
  const float* norm;
  const Layer* layers;
  char* cache;  // [layer][page][kv_head] blocks of head_page_bytes (pages.h)
  int64_t pages;
};

constexpr int64_t PAGE = 32;             // positions
constexpr int64_t SEGMENT_PAGES = 16;    // a head's work on a context is cut at every 512 positions

// Keys and values of a head in a page, and their scales.
inline int64_t head_page_bytes(const Model& model) {
  const int64_t values = 2 * padded(model.head_dim) * PAGE;
  return values * model.kept_bytes + (model.kept_bytes == 1 ? 2 * PAGE * 4 : 0);
}

// The new rows of one sequence: its positions start .. start + rows - 1.
struct Span {
  int64_t first_row, rows, start;
  const int32_t* pages;
};

// A unit of attention's work: a block of rows of one head (`is_block`), or all rows of one
// key-value head over one segment of the context.
struct AttentionWork {
  int32_t span, head, part;
  bool is_block;
};

// How a row's next id is chosen, as base.py's Draw says; all numbers, so that rows of them are an
// array. Temperature 0 takes the likeliest, else it is at least 1e-30.
struct Draw {
  double ids, temperature, top_k, top_p, min_p, point;
};

struct Step {
  const int32_t* ids;
  int64_t rows;
  const float *cosines, *sines;  // [rows, head_dim / 2]
  const Span* spans;
  const int32_t* span_of_row;
  const int64_t* partial_of_row;  // where its partial results begin; of rows in blocks -1
  int64_t partials;               // how many there are
  const AttentionWork* work;
  int64_t work_count;
  const int32_t* wanted;  // rows
  int64_t wanted_count;
  // Of the first wanted rows all logits [logits_count, vocabulary], of the last ones what is drawn.
  float* logits;
  int64_t logits_count;
  const Draw* draws;
  int64_t* drawn;
  int64_t drawn_count;
  // Each may be null: the log-probability of each row's target; or, alone, the rows' final
  // normalised states [wanted, dim].
  const int64_t* targets;
  double* log_probabilities;
  float* hidden;
};

// Memory that steps of up to `rows` rows work in; `forward_sizes` says how much of each.
struct Workspace {
  int64_t rows;
  float *states;                      // [rows, padded dim]: the residual stream
  float *joined;                      // [rows, queries + keys + values], each padded
  float *mixed;                       // [rows, heads, padded head_dim]
  char *inputs, *attended, *gated;    // activations of dim, heads · head_dim and hidden
  float *partials;                    // [of rows not in blocks][heads][segments][head_dim + 16]
  float *logits;                      // [LOGIT_ROWS, padded vocabulary]
  char **own;                         // one for each member
  int32_t not_finite;                 // set where logits are not
};

constexpr int64_t LOGIT_ROWS = 128;

struct Sizes {
  int64_t states, joined, mixed, inputs, attended, gated, logits, own;  // bytes
};

// The crew's side (crew.h), as plain functions.
struct Crew;
struct Member {
  Crew* crew;
  int32_t number, count;
  void (*wait)(Crew*);                                       // for all the others
  int64_t (*take)(Crew*, int32_t number, int64_t units);     // the next unit of work, or -1
};
