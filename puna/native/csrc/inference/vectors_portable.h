// Plain C++: loops over sixteen lanes, which compilers turn into whatever vectors there are.
// Included by vectors.h.
#pragma once

namespace {

constexpr int ROWS_AT_ONCE = 1;

struct Floats {
  float v[16];
};
struct Ints {
  int32_t v[16];
};
struct Bytes {
  uint8_t v[64];
};

template <class Make>
inline Floats each(Make make) {
  Floats out;
  for (int i = 0; i < 16; ++i) out.v[i] = make(i);
  return out;
}

inline Floats all(float value) {
  return each([&](int) { return value; });
}
inline Floats load(const float* at) {
  return each([&](int i) { return at[i]; });
}
inline void store(float* at, Floats a) { memcpy(at, a.v, sizeof a.v); }
inline Floats operator+(const Floats& a, const Floats& b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats operator-(const Floats& a, const Floats& b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Floats operator*(const Floats& a, const Floats& b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Floats operator/(const Floats& a, const Floats& b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
// Rounded once where the processor has fma; fmaf on one that has not takes a hundred times as long.
inline Floats fma(const Floats& a, const Floats& b, const Floats& c) {
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return each([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
#else
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
#endif
}
inline Floats larger(const Floats& a, const Floats& b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats smaller(const Floats& a, const Floats& b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats magnitude(const Floats& a) {
  return each([&](int i) { return a.v[i] < 0 ? -a.v[i] : a.v[i]; });
}
// To nearest, ties to even, below 2^22: what is added and taken away pushes the fraction out.
inline float rounded(float value) {
  volatile float moved = value + 12582912.f;
  return moved - 12582912.f;
}
inline Floats rounded(const Floats& a) {
  return each([&](int i) { return rounded(a.v[i]); });
}
inline Floats scaled(const Floats& a, const Floats& power) {
  return each([&](int i) {
    const float normal = power.v[i] > -127.f ? power.v[i] : -127.f;
    const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(normal) + 127) << 23;
    float factor;
    memcpy(&factor, &bits, 4);
    return a.v[i] * factor;
  });
}
inline Floats first(int64_t count, const Floats& a, const Floats& b) {
  return each([&](int i) { return i < count ? a.v[i] : b.v[i]; });
}

// Of pairs (a, b): (b, a).
inline Floats swapped(const Floats& a) {
  return each([&](int i) { return a.v[i ^ 1]; });
}
// Eight values, each twice.
inline Floats load_twice(const float* at) {
  return each([&](int i) { return at[i / 2]; });
}

// Lane i + lane i + 8, then 4, 2 and 1 apart: one order in every build.
inline float sum(Floats a) {
  for (int apart = 8; apart > 0; apart /= 2)
    for (int i = 0; i < apart; ++i) a.v[i] += a.v[i + apart];
  return a.v[0];
}
inline float greatest(Floats a) {
  for (int apart = 8; apart > 0; apart /= 2)
    for (int i = 0; i < apart; ++i)
      a.v[i] = a.v[i] > a.v[i + apart] ? a.v[i] : a.v[i + apart];
  return a.v[0];
}

inline Ints all_ints(int32_t value) {
  Ints out;
  for (int32_t& lane : out.v) lane = value;
  return out;
}
inline Floats to_floats(const Ints& a) {
  return each([&](int i) { return static_cast<float>(a.v[i]); });
}
inline void store_rounded_bytes(int8_t* at, const Floats& a) {
  for (int i = 0; i < 16; ++i) at[i] = static_cast<int8_t>(rounded(a.v[i]));
}
inline Floats from_bytes(const int8_t* at) {
  return each([&](int i) { return static_cast<float>(at[i]); });
}
// Of 32 bytes, those at even and at odd places.
inline Floats even_bytes(const int8_t* at) {
  return each([&](int i) { return static_cast<float>(at[2 * i]); });
}
inline Floats odd_bytes(const int8_t* at) {
  return each([&](int i) { return static_cast<float>(at[2 * i + 1]); });
}
inline int32_t byte_sum(const int8_t* at) {
  int32_t total = 0;
  for (int i = 0; i < 16; ++i) total += at[i];
  return total;
}

inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
// float16 -> float32: the exponent moves by 112; a denormal's value is its bits times 2^-24.
inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, rest = half & 0x7FFF;
  const float denormal = static_cast<float>(rest) * 5.9604644775390625e-8f;
  const float normal = bits_to_float((rest << 13) + (112u << 23));
  const float value = rest < 0x400 ? denormal : normal;
  return sign ? -value : value;
}
inline Floats load_half(const uint16_t* at) {
  return each([&](int i) { return half_to_float(at[i]); });
}
inline Floats even_places(const uint16_t* at) {
  return each([&](int i) { return bits_to_float(static_cast<uint32_t>(at[2 * i]) << 16); });
}
inline Floats odd_places(const uint16_t* at) {
  return each([&](int i) { return bits_to_float(static_cast<uint32_t>(at[2 * i + 1]) << 16); });
}
inline Floats load_bf16(const uint16_t* at) {
  return each([&](int i) { return bits_to_float(static_cast<uint32_t>(at[i]) << 16); });
}
inline uint16_t rounded_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline void store_bf16(uint16_t* at, const Floats& a) {
  for (int i = 0; i < 16; ++i) at[i] = rounded_bf16(a.v[i]);
}
inline Floats rounded_bf16(const Floats& a) {
  return each([&](int i) {
    return bits_to_float(static_cast<uint32_t>(rounded_bf16(a.v[i])) << 16);
  });
}
inline void store_bf16_pairs(uint16_t* at, const Floats& even, const Floats& odd) {
  for (int i = 0; i < 16; ++i)
    at[2 * i] = rounded_bf16(even.v[i]), at[2 * i + 1] = rounded_bf16(odd.v[i]);
}

inline Bytes load_bytes(const void* at) {
  Bytes out;
  memcpy(out.v, at, 64);
  return out;
}
inline void store_bytes(void* at, const Bytes& a) { memcpy(at, a.v, 64); }
inline Bytes low_nibbles(const Bytes& a) {
  Bytes out;
  for (int i = 0; i < 64; ++i) out.v[i] = a.v[i] & 15;
  return out;
}
inline Bytes high_nibbles(const Bytes& a) {
  Bytes out;
  for (int i = 0; i < 64; ++i) out.v[i] = a.v[i] >> 4;
  return out;
}
inline Floats byte_of(const Bytes& a, int place) {
  return each([&](int i) { return static_cast<float>(a.v[4 * i + place]); });
}
inline Ints dot(const Ints& sum, const Bytes& weights, const int8_t* four) {
  Ints out;
  for (int i = 0; i < 16; ++i) {
    const uint8_t* w = weights.v + 4 * i;
    out.v[i] = sum.v[i] + w[0] * four[0] + w[1] * four[1] + w[2] * four[2] + w[3] * four[3];
  }
  return out;
}

inline void prefetch(const char*, int64_t) {}
struct NoDenormals {
  NoDenormals() {}
};

}  // namespace
