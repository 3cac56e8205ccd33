#include "isa.h"

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

// AVX-512 F, DQ, BW, VL, BF16 and AMX tiles with bf16. The kernel grants tiles on request only.
bool has_amx() {
  if (!has(cpuid(1, 0).c, 27)) return false;  // xgetbv itself
  constexpr unsigned VECTORS = 0xE6, TILES = 3u << 17;
  if ((saved_state() & (VECTORS | TILES)) != (VECTORS | TILES)) return false;
  const Registers features = cpuid(7, 0), more = cpuid(7, 1);
  for (unsigned bit : {16, 17, 30, 31})
    if (!has(features.b, bit)) return false;
  if (!has(features.d, 22) || !has(features.d, 24) || !has(more.a, 5)) return false;
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
