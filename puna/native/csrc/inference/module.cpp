// The bindings of the inference engine: arrays are checked here, kernels trust them.
#include "module.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <math.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../isa.h"
#include "packing.h"

#include <nanobind/stl/optional.h>

using namespace nb::literals;

namespace {

template <class Value, int dimensions>
using Array = nb::ndarray<Value, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Bytes = Array<const uint8_t, 1>;
using PackedMatrix = std::tuple<Bytes, int64_t, int64_t, int32_t>;  // data, outputs, inputs, format
using Floats = Array<const float, 1>;

void require(bool is_right, const char* what) {
  if (!is_right) throw nb::value_error(what);
}

const InferenceKernels& named(const std::string& isa) {
  for (const InferenceKernels* kernels : usable_inference())
    if (isa == kernels->isa) return *kernels;
  throw nb::value_error(("this machine cannot run kernels built for " + isa).c_str());
}

std::vector<std::string> names(const InferenceBuilds& builds) {
  std::vector<std::string> found;
  for (const InferenceKernels* kernels : builds) found.emplace_back(kernels->isa);
  return found;
}

constexpr int64_t MOST = int64_t{1} << 24;  // outputs or inputs of a matrix

Matrix matrix_of(const PackedMatrix& packed, int64_t outputs, int64_t inputs) {
  const Matrix m{reinterpret_cast<const char*>(std::get<0>(packed).data()), std::get<1>(packed),
                 std::get<2>(packed), std::get<3>(packed)};
  require(m.outputs == outputs && m.inputs == inputs, "a matrix has not the model's shape");
  require(m.format >= 0 && m.format <= 10, "a matrix has an unknown format");
  require(static_cast<int64_t>(std::get<0>(packed).shape(0)) ==
              packed_bytes(m.format, outputs, inputs),
          "a matrix has not as many bytes as its format takes");
  return m;
}

// Rows of six numbers as draws among `vocabulary` ids.
const Draw* draws_of(const Array<const double, 2>& rows, int64_t vocabulary) {
  require(rows.shape(1) == 6, "a draw should have 6 numbers");
  const auto* draws = reinterpret_cast<const Draw*>(rows.data());
  for (size_t i = 0; i < rows.shape(0); ++i) {
    const Draw& draw = draws[i];
    require(1 <= draw.ids && draw.ids <= static_cast<double>(vocabulary) &&
                draw.ids == floor(draw.ids),
            "a draw should be among 1 or more of the vocabulary's ids");
    require((draw.temperature == 0 || 1e-30 <= draw.temperature) && isfinite(draw.temperature),
            "a draw's temperature should be 0, or 1e-30 or more");
    require(0 <= draw.top_k && draw.top_k == floor(draw.top_k) && 0 < draw.top_p &&
                draw.top_p <= 1 && 0 <= draw.min_p && draw.min_p <= 1 && 0 <= draw.point &&
                draw.point < 1,
            "a draw's top_k, top_p, min_p or point is out of range");
  }
  return draws;
}

// The id that a draw takes from a row of logits; -1 where there are none to choose by.
int64_t draw(const std::string& isa, const Array<const float, 1>& logits,
             const Array<const double, 2>& draws) {
  const InferenceKernels& kernels = named(isa);
  const auto count = static_cast<int64_t>(logits.shape(0));
  require(draws.shape(0) == 1, "draws should be [1, 6]");
  const Draw& how = *draws_of(draws, count);
  require(how.ids == static_cast<double>(count), "a draw should be among all the logits");
  const nb::gil_scoped_release released;
  thread_local std::vector<float> row;
  thread_local std::vector<int32_t> keys;
  row.resize(static_cast<size_t>(padded(count)));
  keys.resize(row.size());
  return kernels.draw_from(logits.data(), how, row.data(), keys.data());
}

// The engine, with what keeps the caller's arrays alive.
class BoundEngine {
 public:
  BoundEngine(const std::string& isa, int threads, int mode, const nb::dict& shape,
              std::vector<PackedMatrix> matrices, std::vector<Floats> norms)
      : matrices_(std::move(matrices)), norms_(std::move(norms)) {
    const auto number = [&](const char* name) { return nb::cast<int64_t>(shape[name]); };
    Model model{};
    model.dim = number("dim"), model.hidden = number("hidden");
    model.heads = number("heads"), model.kv_heads = number("kv_heads");
    model.head_dim = number("head_dim"), model.vocabulary = number("vocabulary");
    model.norm_epsilon = nb::cast<float>(shape["norm_epsilon"]);
    require(mode >= EXACT && mode <= WHOLE, "mode should be 0, 1 or 2");
    model.mode = static_cast<Mode>(mode);
    model.kept_bytes = number("kept_bytes");
    require(model.mode == WHOLE ? model.kept_bytes == 4
                                : model.kept_bytes == 1 || model.kept_bytes == 2,
            "kept_bytes should be 1 or 2, in mode 2 it is 4");
    for (const int64_t size : {model.dim, model.hidden, model.heads, model.kv_heads,
                               model.head_dim, model.vocabulary})
      require(0 < size && size <= MOST, "the model's sizes should be between 1 and 2^24");
    require(model.heads % model.kv_heads == 0, "kv_heads should divide heads");
    require(model.head_dim % 2 == 0 && model.head_dim <= 256,
            "head_dim should be even and at most 256");
    const size_t layers = norms_.empty() ? 0 : (norms_.size() - 1) / 2;
    require(layers > 0 && norms_.size() == 2 * layers + 1 && matrices_.size() == 7 * layers + 2,
            "a model has 7 matrices and 2 norms a layer, embedding, output and a norm");
    for (const Floats& norm : norms_)
      require(static_cast<int64_t>(norm.shape(0)) == padded(model.dim),
              "a norm has not the model's width, padded");
    const int64_t queries = model.heads * model.head_dim, keys = model.kv_heads * model.head_dim;
    std::vector<Layer> each;
    for (size_t i = 0; i < layers; ++i) {
      const PackedMatrix* at = &matrices_[7 * i];
      each.push_back({norms_[2 * i].data(), norms_[2 * i + 1].data(),
                      matrix_of(at[0], queries, model.dim), matrix_of(at[1], keys, model.dim),
                      matrix_of(at[2], keys, model.dim), matrix_of(at[3], model.dim, queries),
                      matrix_of(at[4], model.hidden, model.dim),
                      matrix_of(at[5], model.dim, model.hidden),
                      matrix_of(at[6], model.hidden, model.dim)});
    }
    model.embedding = matrix_of(matrices_[7 * layers], model.vocabulary, model.dim);
    model.output = matrix_of(matrices_[7 * layers + 1], model.vocabulary, model.dim);
    model.norm = norms_.back().data();
    engine_.emplace(named(isa), model, std::move(each), threads);
  }

  void reserve(int64_t pages) {
    require(0 <= pages && pages < INT32_MAX, "pages should be 0 or more");
    const nb::gil_scoped_release released;
    engine_->reserve(pages);
  }
  int64_t page_bytes() const { return engine_->page_bytes(); }

  // One step; see cpu_backend.py, which calls it.
  bool step(Array<const int32_t, 1> ids, Array<const int64_t, 2> spans,
            Array<const int32_t, 1> pages, Array<const float, 2> cosines,
            Array<const float, 2> sines, Array<const int32_t, 1> wanted,
            std::optional<Array<float, 2>> logits, std::optional<Array<const double, 2>> draws,
            std::optional<Array<int64_t, 1>> drawn, std::optional<Array<const int64_t, 1>> targets,
            std::optional<Array<double, 1>> log_probabilities,
            std::optional<Array<float, 2>> hidden) {
    Request request{};
    request.ids = ids.data(), request.rows = static_cast<int64_t>(ids.shape(0));
    const size_t half = static_cast<size_t>(engine_->model().head_dim / 2);
    require(cosines.shape(0) == ids.shape(0) && sines.shape(0) == ids.shape(0) &&
                cosines.shape(1) == half && sines.shape(1) == half,
            "cosines and sines should be [rows, head_dim / 2]");
    request.cosines = cosines.data(), request.sines = sines.data();
    for (int64_t row = 0; row < request.rows; ++row)
      require(0 <= ids(row) && ids(row) < engine_->model().vocabulary, "an id is out of range");
    take_spans(spans, pages, request);
    request.wanted = wanted.data(), request.wanted_count = static_cast<int64_t>(wanted.shape(0));
    for (int64_t i = 0; i < request.wanted_count; ++i)
      require(0 <= wanted(i) && wanted(i) < request.rows, "a wanted row is out of range");
    const size_t count = wanted.shape(0);
    if (logits) {
      require(logits->shape(0) <= count && static_cast<int64_t>(logits->shape(1)) ==
                                               engine_->model().vocabulary,
              "logits should be [up to wanted, vocabulary]");
      request.logits = logits->data();
      request.logits_count = static_cast<int64_t>(logits->shape(0));
    }
    require(draws.has_value() == drawn.has_value(), "draws and drawn go together");
    if (draws) {
      require(draws->shape(0) == drawn->shape(0) && drawn->shape(0) <= count,
              "drawn should be [up to wanted], draws of each [6]");
      request.draws = draws_of(*draws, engine_->model().vocabulary);
      request.drawn = drawn->data();
      request.drawn_count = static_cast<int64_t>(drawn->shape(0));
    }
    require(targets.has_value() == log_probabilities.has_value(),
            "targets and log_probabilities go together");
    if (targets) {
      require(targets->shape(0) == count && log_probabilities->shape(0) == count,
              "targets and log_probabilities should be [wanted]");
      for (size_t i = 0; i < count; ++i)
        require(0 <= (*targets)(i) && (*targets)(i) < engine_->model().vocabulary,
                "a target is out of range");
      request.targets = targets->data();
      request.log_probabilities = log_probabilities->data();
    }
    if (hidden) {
      require(!logits && !draws && !targets, "hidden is asked for alone");
      require(hidden->shape(0) == count &&
                  static_cast<int64_t>(hidden->shape(1)) == engine_->model().dim,
              "hidden should be [wanted, dim]");
      request.hidden = hidden->data();
    }
    const nb::gil_scoped_release released;
    return request.rows == 0 || engine_->step(request);
  }

 private:
  // spans [sequences, 3]: rows, start, place of the first page in `pages`.
  void take_spans(const Array<const int64_t, 2>& spans, const Array<const int32_t, 1>& pages,
                  Request& request) const {
    require(spans.shape(1) == 3, "spans should be [sequences, 3]");
    for (size_t i = 0; i < pages.shape(0); ++i)
      require(0 <= pages(i) && pages(i) < engine_->model().pages, "a page is not reserved");
    int64_t row = 0;
    for (size_t i = 0; i < spans.shape(0); ++i) {
      const int64_t rows = spans(i, 0), start = spans(i, 1), first = spans(i, 2);
      require(rows > 0 && start >= 0 && first >= 0 && start < INT32_MAX, "a span is out of range");
      require(row + rows <= request.rows, "spans have more rows than there are ids");
      const int64_t needed = (start + rows + PAGE - 1) / PAGE;
      require(first + needed <= static_cast<int64_t>(pages.shape(0)),
              "a span's pages do not cover its positions");
      request.spans.push_back({row, rows, start, pages.data() + first});
      row += rows;
    }
    require(row == request.rows, "spans have fewer rows than there are ids");
  }

  std::vector<PackedMatrix> matrices_;
  std::vector<Floats> norms_;
  std::optional<Engine> engine_;
};

void pack(const std::string& type, Array<const uint8_t, 2> rows, int64_t inputs,
          Array<uint8_t, 1> packed, int64_t first, int64_t last) {
  const int32_t format = format_of(type);
  require(format >= 0, "this type of weights is not packed");
  const int64_t outputs = static_cast<int64_t>(rows.shape(0));
  require(0 < inputs && inputs <= MOST && 0 < outputs && outputs <= MOST,
          "a matrix should have 1 to 2^24 outputs and inputs");
  require(bytes_of_row(type, inputs) == static_cast<int64_t>(rows.shape(1)),
          "the rows have not as many bytes as their type takes");
  require(packed_bytes(format, outputs, inputs) == static_cast<int64_t>(packed.shape(0)),
          "packed has not as many bytes as the format takes");
  const Matrix shape{nullptr, outputs, inputs, format};
  require(0 <= first && first <= last && last <= tiles_of(shape), "tiles are out of range");
  bool finite = true;
  {
    const nb::gil_scoped_release released;
    finite = pack_tiles(type, rows.data(), shape, first, last,
                        reinterpret_cast<char*>(packed.data()));
  }
  require(finite, "some numbers or scales are NaN or infinite");
}

}  // namespace

void bind_inference(nb::module_& module) {
  module.def("inference_isas", [] { return names(usable_inference()); },
             "Names of the inference builds that run on this machine, best first.");
  module.def("packed_format", &format_of, "type"_a,
             "The format that weights of a GGUF type are packed into; -1 when they are not.");
  module.def("packed_bytes", &packed_bytes, "format"_a, "outputs"_a, "inputs"_a);
  module.def("pack", &pack, "type"_a, "rows"_a.noconvert(), "inputs"_a, "packed"_a.noconvert(),
             "first"_a, "last"_a, "Pack tiles first .. last - 1 of 16 outputs.");
  module.def("draw", &draw, "isa"_a, "logits"_a.noconvert(), "draws"_a.noconvert(),
             "The id that a draw takes from a row of logits; -1 where they are not finite.");
  nb::class_<BandwidthProbe>(module, "BandwidthProbe")
      .def("__init__",
           [](BandwidthProbe* self, const std::string& isa, int threads, int64_t bytes) {
             require(bytes > 0, "bytes should be above 0");
             new (self) BandwidthProbe(named(isa), threads, bytes);
           }, "isa"_a, "threads"_a, "bytes"_a)
      .def("measure", &BandwidthProbe::measure, nb::call_guard<nb::gil_scoped_release>());
  nb::class_<BoundEngine>(module, "InferenceEngine")
      .def(nb::init<const std::string&, int, int, const nb::dict&, std::vector<PackedMatrix>,
                    std::vector<Floats>>(),
           "isa"_a, "threads"_a, "mode"_a, "shape"_a, "matrices"_a, "norms"_a)
      .def("reserve", &BoundEngine::reserve, "pages"_a)
      .def_prop_ro("page_bytes", &BoundEngine::page_bytes)
      .def("step", &BoundEngine::step, "ids"_a.noconvert(), "spans"_a.noconvert(),
           "pages"_a.noconvert(), "cosines"_a.noconvert(), "sines"_a.noconvert(),
           "wanted"_a.noconvert(), "logits"_a.noconvert().none(), "draws"_a.noconvert().none(),
           "drawn"_a.noconvert().none(), "targets"_a.noconvert().none(),
           "log_probabilities"_a.noconvert().none(), "hidden"_a.noconvert().none(),
           "Run a step; False where its logits are not finite.");
}
