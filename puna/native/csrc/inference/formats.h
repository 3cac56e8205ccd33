// How weights lie in memory: blocks of 16 outputs by 32 inputs, each with its own scales, so that
// one 512-bit read feeds one multiplication and a decoded token reads each byte once, in order.
//
//   plain      [32 inputs][16 outputs] float32 or float16, or in bfloat16 [16 pairs][16 outputs][2]
//   quantised  codes, then scales [halves][16], then (with a minimum) minima [halves][16]
//
// A weight is scale · (code - OFFSET) + minimum. Codes of 8 bits lie in 8 lines of 64 bytes, each
// with 4 inputs of 16 outputs; those of 4 bits in 4 lines, each with two such lines in its low and
// high nibbles. A group of 32 inputs may have two halves with scales of their own.
#pragma once
#include "model.h"
#include "vectors.h"

namespace {

enum Format : int32_t {
  F32 = 0,
  F16 = 1,
  BF16 = 2,
  BYTES = 3,            // Q8_0, Q5_0
  BYTES_MIN = 4,        // Q5_1
  BYTES_WIDE_MIN = 5,   // Q5_K
  BYTES_HALVES = 6,     // Q6_K, Q3_K
  BYTES_HALVES_MIN = 7, // Q2_K
  NIBBLES = 8,            // Q4_0
  NIBBLES_MIN = 9,        // Q4_1
  NIBBLES_WIDE_MIN = 10,  // Q4_K
};

template <int BITS, bool IS_WIDE, bool HAS_MIN, int HALF_COUNT>
struct Quantised {
  static constexpr bool IS_PLAIN = false, HAS_MINIMUM = HAS_MIN;
  static constexpr int HALVES = HALF_COUNT, LINES = BITS;
  static constexpr int64_t SCALE = 16 * (IS_WIDE ? 4 : 2), CODES = BITS * 64;
  static constexpr int64_t BLOCK = CODES + SCALE * HALVES * (HAS_MIN ? 2 : 1);
  static constexpr int32_t OFFSET = HAS_MIN ? 0 : BITS == 8 ? 128 : 8;

  static Floats sixteen(const char* at) {
    return IS_WIDE ? load(reinterpret_cast<const float*>(at))
                   : load_half(reinterpret_cast<const uint16_t*>(at));
  }
  static Floats scale(const char* block, int half) { return sixteen(block + CODES + half * SCALE); }
  static Floats minimum(const char* block, int half) {
    return sixteen(block + CODES + (HALVES + half) * SCALE);
  }
  // Line `line` of 8: inputs 4 line .. 4 line + 3.
  static Bytes codes(const char* block, int line) {
    if (BITS == 8) return load_bytes(block + 64 * line);
    const Bytes both = load_bytes(block + 64 * (line / 2));
    return line % 2 ? high_nibbles(both) : low_nibbles(both);
  }
  static void expand(const char* block, float* to) {
    for (int line = 0; line < 8; ++line) {
      const int half = HALVES == 2 ? line / 4 : 0;
      const Floats factor = scale(block, half), offset = all(static_cast<float>(OFFSET));
      const Bytes four = codes(block, line);
      for (int place = 0; place < 4; ++place, to += 16) {
        const Floats code = byte_of(four, place);
        if (HAS_MIN)
          store(to, fma(code, factor, minimum(block, half)));
        else
          store(to, (code - offset) * factor);
      }
    }
  }
};

template <int32_t FORMAT>
struct Plain {
  static constexpr bool IS_PLAIN = true;
  static constexpr int64_t BLOCK = FORMAT == F32 ? 2048 : 1024;
  static void expand(const char* block, float* to) {
    const float* floats = reinterpret_cast<const float*>(block);
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(block);
    for (int i = 0; i < 32; i += 2, to += 32) {
      if (FORMAT == BF16) {
        store(to, even_places(halves + 16 * i));
        store(to + 16, odd_places(halves + 16 * i));
      } else {
        store(to, FORMAT == F32 ? load(floats + 16 * i) : load_half(halves + 16 * i));
        store(to + 16,
              FORMAT == F32 ? load(floats + 16 * i + 16) : load_half(halves + 16 * i + 16));
      }
    }
  }
};

// Calls `act.template operator()<Format>()` for the format with this number.
template <class Act>
inline void with_format(int32_t format, Act act) {
  switch (format) {
    case F32: return act(Plain<F32>());
    case F16: return act(Plain<F16>());
    case BF16: return act(Plain<BF16>());
    case BYTES: return act(Quantised<8, false, false, 1>());
    case BYTES_MIN: return act(Quantised<8, false, true, 1>());
    case BYTES_WIDE_MIN: return act(Quantised<8, true, true, 1>());
    case BYTES_HALVES: return act(Quantised<8, true, false, 2>());
    case BYTES_HALVES_MIN: return act(Quantised<8, true, true, 2>());
    case NIBBLES: return act(Quantised<4, false, false, 1>());
    case NIBBLES_MIN: return act(Quantised<4, false, true, 1>());
    default: return act(Quantised<4, true, true, 1>());
  }
}

inline bool is_plain(int32_t format) { return format <= BF16; }

inline int64_t block_bytes(int32_t format) {
  int64_t bytes = 0;
  with_format(format, [&](auto kind) { bytes = decltype(kind)::BLOCK; });
  return bytes;
}

}  // namespace
