// What happens to a row between products: embedding, norm, turns, gate.
#pragma once
#include "activations.h"

namespace {

constexpr float LOG2_E = 1.4426950408889634f;

// Row `row` of a packed matrix in float32, padded.
inline void unpack_row(const Matrix& m, int64_t row, float* to) {
  with_format(m.format, [&](auto kind) {
    using Kind = decltype(kind);
    const char* block = m.data + row / 16 * groups_of(m) * Kind::BLOCK;
    for (int64_t group = 0; group < groups_of(m); ++group, block += Kind::BLOCK) {
      alignas(64) float wide[32 * 16];
      Kind::expand(block, wide);
      for (int i = 0; i < 32; ++i) to[group * 32 + i] = wide[i * 16 + row % 16];
    }
  });
}

// x / sqrt(mean(x²) + epsilon) · weight of a row of `dim` values (RMSNorm, paper 2.2).
inline void put_normed(const float* x, const float* weight, int64_t dim, float epsilon,
                       int64_t row, const Activations& out) {
  Floats low = all(0.f), high = all(0.f);
  for (int64_t i = 0; i < padded(dim); i += 2 * LANES) {
    const Floats one = load(x + i), other = load(x + i + LANES);
    low = fma(one, one, low);
    high = fma(other, other, high);
  }
  const Floats scale = all(1.f / sqrtf(sum(low + high) / static_cast<float>(dim) + epsilon));
  for (int64_t group = 0; group < out.groups; ++group) {
    const float *at = x + group * 32, *factor = weight + group * 32;
    out.put(row, group, load(at) * scale * load(factor),
            load(at + 16) * scale * load(factor + 16));
  }
}

// gate · sigmoid(gate) · up (SwiGLU, paper 2.2).
inline Floats gated(Floats gate, Floats up) {
  const Floats power = exp2_of(gate * all(-LOG2_E));
  return gate / (all(1.f) + power) * up;
}

// A head's pairs (2i, 2i + 1) turned by their position's angles, times `scale`.
inline void turn(const float* from, const float* cosines, const float* sines, int64_t head_dim,
                 float scale, float* to) {
  int64_t i = 0;
  for (; i + LANES <= head_dim; i += LANES)
    store(to + i, turned(load(from + i), load_twice(cosines + i / 2), load_twice(sines + i / 2)) *
                      all(scale));
  for (; i < head_dim; i += 2) {
    const float a = from[i], b = from[i + 1], cosine = cosines[i / 2], sine = sines[i / 2];
    to[i] = fma(b, -sine, a * cosine) * scale;
    to[i + 1] = fma(a, sine, b * cosine) * scale;
  }
}

}  // namespace
