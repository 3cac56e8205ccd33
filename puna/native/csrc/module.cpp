// The extension module puna.native._kernels: arrays are checked here, kernels trust them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "isa.h"
#include "team.h"

namespace nb = nanobind;
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

AttentionShape shape_of(const Halves<3>& joined, const Floats<2>& cosines, const Floats<2>& sines,
                        const Halves<3>& mixed, const Floats<3>& log_sum) {
  AttentionShape shape;
  shape.batch = joined.shape(0), shape.time = joined.shape(1);
  shape.head_dim = 2 * cosines.shape(1), shape.heads = log_sum.shape(1);
  const int64_t width = joined.shape(2);
  require(shape.head_dim % 32 == 0 && 0 < shape.head_dim && shape.head_dim <= 256,
          "head_dim should be a multiple of 32 and at most 256");
  shape.kv_heads = (width / shape.head_dim - shape.heads) / 2;
  require(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 &&
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

const uint16_t* read(const Halves<3>& array) {
  return reinterpret_cast<const uint16_t*>(array.data());
}
uint16_t* write(const Halves<3>& array) { return reinterpret_cast<uint16_t*>(array.data()); }

void run(AttentionUnit unit, const Kernels& kernels, const AttentionShape& shape,
         const AttentionArrays& arrays, int threads) {
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

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Kernels* kernels : usable_kernels()) names.emplace_back(kernels->isa);
  return names;
}

}  // namespace

NB_MODULE(_kernels, module) {
  // noconvert: without it an array of another dtype or layout would be copied, and what is
  // written into the copy lost.
  module.def("isas", &isas, "Names of the builds that run here, best first.");
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
}
