// The builds of the inference kernels for different instruction sets, and which run here.
#pragma once
#include "model.h"

struct InferenceKernels {
  const char* isa;
  bool has_tiles;
  void (*sizes)(const Model&, int64_t rows, Sizes*);
  void (*forward)(const Model&, const Step&, Workspace&, const Member&);
  float (*read_all)(const char*, int64_t bytes);
  int64_t (*draw_from)(const float* logits, const Draw&, float* row, int32_t* keys);
};

extern "C" const InferenceKernels inference_portable;
#ifdef HAS_AVX2_BUILD
extern "C" const InferenceKernels inference_avx2;
#endif
#ifdef HAS_AVX512_BUILD
extern "C" const InferenceKernels inference_avx512;
#endif
#ifdef HAS_AMX_BUILD
extern "C" const InferenceKernels inference_amx;
#endif
