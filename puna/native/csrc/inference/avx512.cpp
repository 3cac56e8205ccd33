// The build for AVX-512 with VNNI.
#include "builds.h"
#include "forward.h"

extern "C" const InferenceKernels inference_avx512 = {"avx512", HAS_TILES, forward_sizes, forward,
                                                   read_all, draw_from};
