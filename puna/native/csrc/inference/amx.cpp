// The build for AVX-512 with VNNI and AMX tiles of bfloat16 and int8.
#include "builds.h"
#include "forward.h"

extern "C" const InferenceKernels inference_amx = {"amx", HAS_TILES, forward_sizes, forward,
                                                   read_all, draw_from};
