// The build for AVX2 with FMA and F16C.
#include "builds.h"
#include "forward.h"

extern "C" const InferenceKernels inference_avx2 = {"avx2", HAS_TILES, forward_sizes, forward,
                                                   read_all, draw_from};
