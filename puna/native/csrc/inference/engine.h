// A loaded model: its packed weights, its pages, its crew, and the memory of its steps.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "builds.h"
#include "crew.h"

using InferenceBuilds = std::vector<const InferenceKernels*>;  // best first

InferenceBuilds built_inference();
const InferenceBuilds& usable_inference();

struct FreeMemory {
  void operator()(void* at) const;
};
using Memory = std::unique_ptr<char, FreeMemory>;
// Aligned for huge pages where it is large, untouched. Throws std::bad_alloc.
Memory allocate(int64_t bytes);

// What a caller asks of a step, checked; arrays are theirs.
struct Request {
  const int32_t* ids;
  int64_t rows;
  const float *cosines, *sines;
  std::vector<Span> spans;
  const int32_t* wanted;
  int64_t wanted_count;
  float* logits;
  int64_t logits_count;
  const Draw* draws;
  int64_t* drawn;
  int64_t drawn_count;
  const int64_t* targets;
  double* log_probabilities;
  float* hidden;
};

// Reads a large buffer with all of a crew: what the memory gives, whoever asks.
class BandwidthProbe {
 public:
  BandwidthProbe(const InferenceKernels& kernels, int threads, int64_t bytes);
  double measure();  // bytes a second, of one pass

 private:
  const InferenceKernels& kernels_;
  Crew crew_;
  int64_t bytes_;
  Memory buffer_;
};

class Engine {
 public:
  // `layers` is copied; the arrays behind the matrices are the caller's to keep.
  Engine(const InferenceKernels& kernels, const Model& model, std::vector<Layer> layers,
         int threads);

  void reserve(int64_t pages);
  int64_t page_bytes() const;
  // False where logits came out that are not finite.
  bool step(const Request& request);
  const Model& model() const { return model_; }
  int threads() const { return crew_.count(); }

 private:
  void fit(int64_t rows);

  const InferenceKernels& kernels_;
  Model model_;
  std::vector<Layer> layers_;
  Crew crew_;
  Memory cache_, shared_, partials_;
  int64_t partial_bytes_ = 0;
  std::vector<Memory> own_;
  std::vector<char*> own_at_;
  Workspace work_{};
};
