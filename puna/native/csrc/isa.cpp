#include "isa.h"

#include <initializer_list>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers found;
  __get_cpuid_count(leaf, subleaf, &found.a, &found.b, &found.c, &found.d);
  return found;
}

bool has(unsigned bits, unsigned bit) { return bits >> bit & 1; }

// The state that the operating system saves on a switch of threads (XCR0).
unsigned saved_state() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool all_of(unsigned bits, std::initializer_list<unsigned> wanted) {
  for (const unsigned bit : wanted)
    if (!has(bits, bit)) return false;
  return true;
}

bool saves(unsigned state) {
  return has(cpuid(1, 0).c, 27) && (saved_state() & state) == state;  // bit 27: xgetbv itself
}

constexpr unsigned YMM = 0x6, ZMM = 0xE6, TILES = 3u << 17;

bool has_avx2() {  // with FMA and F16C
  return saves(YMM) && all_of(cpuid(1, 0).c, {12, 28, 29}) && has(cpuid(7, 0).b, 5);
}

bool has_avx512() {  // F, DQ, BW, VL and VNNI
  return has_avx2() && saves(ZMM) && all_of(cpuid(7, 0).b, {16, 17, 30, 31}) &&
         has(cpuid(7, 0).c, 11);
}

// Beside those, AVX-512 BF16 and tiles of bfloat16 and int8. The kernel grants tiles on request.
bool has_amx() {
  if (!has_avx512() || !saves(ZMM | TILES)) return false;
  if (!all_of(cpuid(7, 0).d, {22, 24, 25}) || !has(cpuid(7, 1).a, 5)) return false;
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

}  // namespace
#endif

Builds built_kernels() {
  return {
#ifdef HAS_AMX_BUILD
      &kernels_amx,
#endif
  };
}

const Builds& usable_kernels() {
  static const Builds usable = [] {
    Builds found;
#ifdef HAS_AMX_BUILD
    if (has_amx()) found.push_back(&kernels_amx);
#endif
    return found;
  }();
  return usable;
}

InferenceBuilds built_inference() {
  return {
#ifdef HAS_AMX_BUILD
      &inference_amx,
#endif
#ifdef HAS_AVX512_BUILD
      &inference_avx512,
#endif
#ifdef HAS_AVX2_BUILD
      &inference_avx2,
#endif
      &inference_portable,
  };
}

const InferenceBuilds& usable_inference() {
  static const InferenceBuilds usable = [] {
    InferenceBuilds found;
#ifdef HAS_AMX_BUILD
    if (has_amx()) found.push_back(&inference_amx);
#endif
#ifdef HAS_AVX512_BUILD
    if (has_avx512()) found.push_back(&inference_avx512);
#endif
#ifdef HAS_AVX2_BUILD
    if (has_avx2()) found.push_back(&inference_avx2);
#endif
    found.push_back(&inference_portable);
    return found;
  }();
  return usable;
}
