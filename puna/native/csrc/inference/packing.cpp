#include "packing.h"

#include <string.h>

#include "formats.h"

namespace {

// 32 weights of a row as a file's type holds them: scale · (code - offset) + minimum.
struct Group {
  uint8_t codes[32];  // offset by what the packed format is offset by
  float scales[2], minima[2];
};

using Unpack = void (*)(const uint8_t* block, int64_t group, Group& out);

float half_at(const uint8_t* at) {
  uint16_t bits;
  memcpy(&bits, at, 2);
  return (bits & 0x7C00) == 0x7C00 ? NAN : half_to_float(bits);
}

void take_nibbles(const uint8_t* nibbles, Group& out) {
  for (int i = 0; i < 16; ++i) {
    out.codes[i] = nibbles[i] & 15;
    out.codes[i + 16] = nibbles[i] >> 4;
  }
}

void add_fifth_bits(const uint8_t* bits, uint8_t moved, Group& out) {
  for (int i = 0; i < 32; ++i)
    out.codes[i] = static_cast<uint8_t>((out.codes[i] | (bits[i / 8] >> i % 8 & 1) << 4) + moved);
}

void q4_0(const uint8_t* block, int64_t, Group& out) {
  out.scales[0] = half_at(block);
  take_nibbles(block + 2, out);
}
void q4_1(const uint8_t* block, int64_t, Group& out) {
  out.scales[0] = half_at(block), out.minima[0] = half_at(block + 2);
  take_nibbles(block + 4, out);
}
void q5_0(const uint8_t* block, int64_t, Group& out) {
  out.scales[0] = half_at(block);
  take_nibbles(block + 6, out);
  add_fifth_bits(block + 2, 128 - 16, out);
}
void q5_1(const uint8_t* block, int64_t, Group& out) {
  out.scales[0] = half_at(block), out.minima[0] = half_at(block + 2);
  take_nibbles(block + 8, out);
  add_fifth_bits(block + 4, 0, out);
}
void q8_0(const uint8_t* block, int64_t, Group& out) {
  out.scales[0] = half_at(block);
  for (int i = 0; i < 32; ++i) out.codes[i] = static_cast<uint8_t>(block[2 + i] + 128);
}

// K-quants: blocks of 256, the groups of which have factors of 4 or 6 bits.
void q2_k(const uint8_t* block, int64_t group, Group& out) {
  const uint8_t* codes = block + 16 + group / 4 * 32;
  const float factor = half_at(block + 80), lowering = half_at(block + 82);
  for (int half = 0; half < 2; ++half) {
    const uint8_t both = block[2 * group + half];
    out.scales[half] = factor * static_cast<float>(both & 15);
    out.minima[half] = -lowering * static_cast<float>(both >> 4);
  }
  for (int i = 0; i < 32; ++i) out.codes[i] = codes[i] >> (2 * (group % 4)) & 3;
}

void q3_k(const uint8_t* block, int64_t group, Group& out) {
  const uint8_t *upper = block, *codes = block + 32 + group / 4 * 32, *packed = block + 96;
  const float factor = half_at(block + 108);
  for (int half = 0; half < 2; ++half) {
    const int64_t i = 2 * group + half;  // of 16 factors: 4 low bits of each, then 2 high bits
    const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
    const int high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
    out.scales[half] = factor * static_cast<float>((low | high << 4) - 32);
  }
  for (int i = 0; i < 32; ++i) {
    const int code = (codes[i] >> (2 * (group % 4)) & 3) | (upper[i] >> group & 1) << 2;
    out.codes[i] = static_cast<uint8_t>(code - 4 + 128);
  }
}

// Factor and minimum of a group, 6 bits each in 12 bytes (Q4_K, Q5_K).
void take_factors(const uint8_t* block, int64_t group, Group& out) {
  const uint8_t* packed = block + 4;
  int factor, lowering;
  if (group < 4) {
    factor = packed[group] & 63, lowering = packed[group + 4] & 63;
  } else {
    factor = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
    lowering = packed[group + 4] >> 4 | (packed[group] >> 6) << 4;
  }
  out.scales[0] = half_at(block) * static_cast<float>(factor);
  out.minima[0] = -half_at(block + 2) * static_cast<float>(lowering);
}

void take_half_bytes(const uint8_t* codes, int64_t group, Group& out) {
  const uint8_t* pair = codes + group / 2 * 32;
  for (int i = 0; i < 32; ++i) out.codes[i] = group % 2 ? pair[i] >> 4 : pair[i] & 15;
}

void q4_k(const uint8_t* block, int64_t group, Group& out) {
  take_factors(block, group, out);
  take_half_bytes(block + 16, group, out);
}
void q5_k(const uint8_t* block, int64_t group, Group& out) {
  take_factors(block, group, out);
  take_half_bytes(block + 48, group, out);
  for (int i = 0; i < 32; ++i)
    out.codes[i] = static_cast<uint8_t>(out.codes[i] | (block[16 + i] >> group & 1) << 4);
}
void q6_k(const uint8_t* block, int64_t group, Group& out) {
  const int64_t quarter = group % 4;
  const uint8_t* low = block + group / 4 * 64 + quarter % 2 * 32;
  const uint8_t* high = block + 128 + group / 4 * 32;
  const float factor = half_at(block + 208);
  for (int half = 0; half < 2; ++half)
    out.scales[half] =
        factor * static_cast<float>(static_cast<int8_t>(block[192 + 2 * group + half]));
  for (int i = 0; i < 32; ++i) {
    const int code = (low[i] >> (quarter / 2 * 4) & 15) | (high[i] >> (2 * quarter) & 3) << 4;
    out.codes[i] = static_cast<uint8_t>(code - 32 + 128);
  }
}

struct Type {
  const char* name;
  int32_t format;
  int64_t values, bytes;  // of a block
  Unpack unpack;
};

constexpr Type TYPES[] = {
    {"F32", F32, 1, 4, nullptr},          {"F16", F16, 1, 2, nullptr},
    {"BF16", BF16, 1, 2, nullptr},        {"Q4_0", NIBBLES, 32, 18, q4_0},
    {"Q4_1", NIBBLES_MIN, 32, 20, q4_1},     {"Q5_0", BYTES, 32, 22, q5_0},
    {"Q5_1", BYTES_MIN, 32, 24, q5_1},     {"Q8_0", BYTES, 32, 34, q8_0},
    {"Q2_K", BYTES_HALVES_MIN, 256, 84, q2_k}, {"Q3_K", BYTES_HALVES, 256, 110, q3_k},
    {"Q4_K", NIBBLES_WIDE_MIN, 256, 144, q4_k},  {"Q5_K", BYTES_WIDE_MIN, 256, 176, q5_k},
    {"Q6_K", BYTES_HALVES, 256, 210, q6_k},
};

const Type* type_named(const std::string& name) {
  for (const Type& type : TYPES)
    if (name == type.name) return &type;
  return nullptr;
}

void put_scale(char* at, int64_t bytes, int lane, float value) {
  if (bytes == 64) {
    memcpy(at + 4 * lane, &value, 4);
    return;
  }
  // It came from a float16, so it is one: exponent and fraction move back, a denormal is bits.
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000, rest = bits & 0x7FFFFFFF;
  const float magnitude = value < 0 ? -value : value;
  const uint32_t half = rest < 113u << 23 ? static_cast<uint32_t>(magnitude * 16777216.f)
                                          : (rest - (112u << 23)) >> 13;
  const auto whole = static_cast<uint16_t>(sign | half);
  memcpy(at + 2 * lane, &whole, 2);
}

template <class Kind>
void put_group(const Group& group, int lane, char* block) {
  for (int input = 0; input < 32; ++input) {
    const int line = input / 4;
    if (Kind::LINES == 8)
      block[64 * line + 4 * lane + input % 4] = static_cast<char>(group.codes[input]);
    else
      block[64 * (line / 2) + 4 * lane + input % 4] = static_cast<char>(
          block[64 * (line / 2) + 4 * lane + input % 4] | group.codes[input] << 4 * (line % 2));
  }
  char* scales = block + Kind::CODES;
  for (int half = 0; half < Kind::HALVES; ++half) {
    put_scale(scales + half * Kind::SCALE, Kind::SCALE, lane, group.scales[half]);
    if (Kind::HAS_MINIMUM)
      put_scale(scales + (Kind::HALVES + half) * Kind::SCALE, Kind::SCALE, lane,
                group.minima[half]);
  }
}

bool is_finite(const Group& group) {
  const float all = group.scales[0] + group.scales[1] + group.minima[0] + group.minima[1];
  return all - all == 0;
}

template <class Kind>
bool pack_tile(const Type& type, const uint8_t* rows, const Matrix& shape, int64_t tile,
               char* packed) {
  const int64_t row_bytes = shape.inputs / type.values * type.bytes, per_block = type.values / 32;
  bool finite = true;
  for (int64_t number = 0; number < groups_of(shape); ++number, packed += Kind::BLOCK) {
    memset(packed, 0, Kind::BLOCK);
    for (int lane = 0; lane < 16 && tile * 16 + lane < shape.outputs; ++lane) {
      Group group{};
      const uint8_t* row = rows + (tile * 16 + lane) * row_bytes;
      type.unpack(row + number / per_block * type.bytes, number % per_block, group);
      finite = finite && is_finite(group);
      put_group<Kind>(group, lane, packed);
    }
  }
  return finite;
}

// Of float32, float16 or bfloat16: whether the bits of its exponent are not all ones.
bool is_finite(const Type& type, const uint8_t* at) {
  const uint32_t upper = at[type.bytes - 1] << 8 | at[type.bytes - 2];
  const uint32_t exponent = type.format == F16 ? 0x7C00 : 0x7F80;
  return (upper & exponent) != exponent;
}

bool pack_plain_tile(const Type& type, const uint8_t* rows, const Matrix& shape, int64_t tile,
                     char* packed) {
  const int64_t size = type.bytes, block = 512 * size;
  bool finite = true;
  memset(packed, 0, groups_of(shape) * block);
  for (int lane = 0; lane < 16 && tile * 16 + lane < shape.outputs; ++lane) {
    const uint8_t* row = rows + (tile * 16 + lane) * shape.inputs * size;
    for (int64_t i = 0; i < shape.inputs; ++i) {
      const int64_t place = type.format == BF16 ? i % 32 / 2 * 32 + 2 * lane + i % 2
                                                : i % 32 * 16 + lane;
      memcpy(packed + i / 32 * block + place * size, row + i * size, size);
      finite = finite && is_finite(type, row + i * size);
    }
  }
  return finite;
}

}  // namespace

int32_t format_of(const std::string& name) {
  const Type* type = type_named(name);
  return type ? type->format : -1;
}

int64_t bytes_of_row(const std::string& name, int64_t inputs) {
  const Type* type = type_named(name);
  return type && inputs % type->values == 0 ? inputs / type->values * type->bytes : -1;
}

int64_t packed_bytes(int32_t format, int64_t outputs, int64_t inputs) {
  return padded(outputs) / 16 * padded(inputs) / GROUP * block_bytes(format);
}

bool pack_tiles(const std::string& name, const uint8_t* rows, const Matrix& shape, int64_t first,
                int64_t last, char* packed) {
  const Type& type = *type_named(name);
  bool finite = true;
  with_format(type.format, [&](auto kind) {
    using Kind = decltype(kind);
    const int64_t tile_bytes = groups_of(shape) * Kind::BLOCK;
    for (int64_t tile = first; tile < last; ++tile) {
      char* at = packed + tile * tile_bytes;
      if constexpr (Kind::IS_PLAIN)
        finite = pack_plain_tile(type, rows, shape, tile, at) && finite;
      else
        finite = pack_tile<Kind>(type, rows, shape, tile, at) && finite;
    }
  });
  return finite;
}
