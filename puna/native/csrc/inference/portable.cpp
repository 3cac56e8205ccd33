// The build for plain C++.
#include "builds.h"
#include "forward.h"

extern "C" const InferenceKernels inference_portable = {"portable", HAS_TILES, forward_sizes,
                                                        forward, read_all, draw_from};
