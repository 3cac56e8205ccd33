// The build for AMX tiles of bf16 and AVX-512.
#include "attention.h"
#include "kernels.h"
#include "weight_gradient.h"

extern "C" const Kernels kernels_amx = {
    "amx",           attention_scratch_bytes,       attention_forward,
    attention_backward, weight_gradient_scratch_bytes, weight_gradient,
};
