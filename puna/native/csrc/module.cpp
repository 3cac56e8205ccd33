// The extension module puna.native._kernels: arrays are checked here, kernels trust them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "inference/module.h"
#include "isa.h"
#include "team.h"

using namespace nb::literals;

namespace {

// bfloat16 travels as int16: NumPy has no name for it.
template <int dimensions>
using Halves = nb::ndarray<int16_t, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
template <int dimensions>
using Floats = nb::ndarray<float, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

const Kernels& named(const std::string& isa) {
  for (const Kernels* kernels : usable_kernels())
    if (isa == kernels->isa) return *kernels;
  throw nb::value_error(("this machine cannot run kernels built for " + isa).c_str());
}

void require(bool is_right, const char* what) {
  if (!is_right) throw nb::value_error(what);
}

void require_threads(int threads) { require(threads > 0, "threads should be at least 1"); }

AttentionShape shape_of(const Halves<3>& joined, const Floats<2>& cosines, const Floats<2>& sines,
                        const Halves<3>& mixed, const Floats<3>& log_sum) {
  AttentionShape shape;
  shape.batch = joined.shape(0), shape.time = joined.shape(1);
  shape.head_dim = 2 * cosines.shape(1), shape.heads = log_sum.shape(1);
  const int64_t width = joined.shape(2);
  require(shape.head_dim % 32 == 0 && 0 < shape.head_dim && shape.head_dim <= 256,
          "head_dim should be a multiple of 32 and at most 256");
  shape.kv_heads = (width / shape.head_dim - shape.heads) / 2;
  require(shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 &&
              width == (shape.heads + 2 * shape.kv_heads) * shape.head_dim,
          "joined should hold queries, keys and values of whole heads, kv_heads dividing heads");
  const size_t time = joined.shape(1);
  require(cosines.shape(0) >= time && sines.shape(0) >= time &&
              sines.shape(1) == cosines.shape(1),
          "cosines and sines should cover every position");
  require(mixed.shape(0) == joined.shape(0) && mixed.shape(1) == time &&
              static_cast<int64_t>(mixed.shape(2)) == shape.heads * shape.head_dim,
          "mixed should be [batch, time, heads * head_dim]");
  require(log_sum.shape(0) == joined.shape(0) && log_sum.shape(2) == time,
          "log_sum should be [batch, heads, time]");
  return shape;
}

template <class Array>
uint16_t* write(const Array& array) {
  return reinterpret_cast<uint16_t*>(array.data());
}
template <class Array>
const uint16_t* read(const Array& array) {
  return write(array);
}

void run(AttentionUnit unit, const Kernels& kernels, const AttentionShape& shape,
         const AttentionArrays& arrays, int threads) {
  require_threads(threads);
  const nb::gil_scoped_release released;
  share_out(shape.batch * shape.kv_heads, threads, kernels.attention_scratch_bytes(shape),
            [&](int64_t index, char* scratch) { unit(shape, arrays, index, scratch); });
}

void attention_forward(const std::string& isa, int threads, Halves<3> joined, Floats<2> cosines,
                       Floats<2> sines, Halves<3> mixed, Floats<3> log_sum) {
  const Kernels& kernels = named(isa);
  const AttentionShape shape = shape_of(joined, cosines, sines, mixed, log_sum);
  const AttentionArrays arrays{read(joined), cosines.data(), sines.data(), write(mixed),
                               log_sum.data(), nullptr, nullptr};
  run(kernels.attention_forward, kernels, shape, arrays, threads);
}

void attention_backward(const std::string& isa, int threads, Halves<3> joined, Floats<2> cosines,
                        Floats<2> sines, Halves<3> mixed, Floats<3> log_sum,
                        Halves<3> mixed_gradient, Halves<3> joined_gradient) {
  const Kernels& kernels = named(isa);
  const AttentionShape shape = shape_of(joined, cosines, sines, mixed, log_sum);
  for (int axis = 0; axis < 3; ++axis)
    require(mixed_gradient.shape(axis) == mixed.shape(axis) &&
                joined_gradient.shape(axis) == joined.shape(axis),
            "each gradient should have the shape of its array");
  const AttentionArrays arrays{read(joined),         cosines.data(),  sines.data(),
                               write(mixed),         log_sum.data(),  read(mixed_gradient),
                               write(joined_gradient)};
  run(kernels.attention_backward, kernels, shape, arrays, threads);
}

// The block size that leaves the least work to the busiest thread: 0.35 cycles a value are packed
// for a block, beside one for each 1,024 multiplications (measured).
int64_t best_side(int64_t height, int64_t width, int threads) {
  int64_t best = 0;
  double least = 0;
  for (const int64_t side : {384, 288, 256, 192, 128, 96, 64, 32}) {
    const int64_t units = ((height + side - 1) / side) * ((width + side - 1) / side);
    const double work = side * side / 512.0 + 2 * side * 0.35;
    const double longest = static_cast<double>((units + threads - 1) / threads) * work;
    if (best == 0 || longest < least) best = side, least = longest;
  }
  return best;
}

void weight_gradient(const std::string& isa, int threads, Halves<2> left, Halves<2> right,
                     Floats<2> out, bool add) {
  const Kernels& kernels = named(isa);
  require_threads(threads);
  const int64_t height = left.shape(1), width = right.shape(1);
  require(left.shape(0) == right.shape(0), "left and right should have as many rows");
  require(static_cast<int64_t>(out.shape(0)) == height &&
              static_cast<int64_t>(out.shape(1)) == width,
          "out should be [left's width, right's width]");
  require(height % 32 == 0 && width % 32 == 0, "widths should be multiples of 32");
  const int64_t side = best_side(height, width, threads);
  const int64_t rows = left.shape(0);
  const WeightGradient task{read(left), read(right), out.data(), rows, height, width, side, add};
  const nb::gil_scoped_release released;
  share_out(((height + side - 1) / side) * ((width + side - 1) / side), threads,
            kernels.weight_gradient_scratch_bytes(task),
            [&](int64_t unit, char* scratch) { kernels.weight_gradient(task, unit, scratch); });
}

std::vector<std::string> names(const Builds& builds) {
  std::vector<std::string> found;
  for (const Kernels* kernels : builds) found.emplace_back(kernels->isa);
  return found;
}

}  // namespace

NB_MODULE(_kernels, module) {
  bind_inference(module);
  // noconvert: without it an array of another dtype or layout would be copied, and what is
  // written into the copy lost.
  module.def("builds", [] { return names(built_kernels()); }, "Names of the builds in here.");
  module.def("isas", [] { return names(usable_kernels()); },
             "Names of the builds that run on this machine, best first.");
  module.def("use_team", [](uintptr_t address) { use_team(reinterpret_cast<Team>(address)); },
             "address"_a, "Work on the threads of the OpenMP run time with this GOMP_parallel.");
  module.def("attention_forward", &attention_forward, "isa"_a, "threads"_a,
             "joined"_a.noconvert(), "cosines"_a.noconvert(), "sines"_a.noconvert(),
             "mixed"_a.noconvert(), "log_sum"_a.noconvert(),
             "Fill mixed and log_sum (log2 of the softmax denominators).");
  module.def("attention_backward", &attention_backward, "isa"_a, "threads"_a,
             "joined"_a.noconvert(), "cosines"_a.noconvert(), "sines"_a.noconvert(),
             "mixed"_a.noconvert(), "log_sum"_a.noconvert(), "mixed_gradient"_a.noconvert(),
             "joined_gradient"_a.noconvert(), "Fill joined_gradient.");
  module.def("weight_gradient", &weight_gradient, "isa"_a, "threads"_a, "left"_a.noconvert(),
             "right"_a.noconvert(), "out"_a.noconvert(), "add"_a,
             "out = (or, with add, +=) the transpose of left times right.");
}
