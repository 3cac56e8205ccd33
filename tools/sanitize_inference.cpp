// The inference engine over small models of every weight type, for `make test-sanitize`,
// `test-valgrind` and `test-arm`: weights that end where a forbidden page begins, spans of a row,
// of several and of whole blocks of tiles in one step, contexts of several segments, pages in
// disorder. Each case runs on one thread and on three, and in other spans; in the exact mode all
// give the same bits. A line a case holds a checksum of the logits' bits: builds with fma agree.
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "inference/engine.h"
#include "inference/packing.h"

namespace {

constexpr int64_t SYSTEM_PAGE = 4096, POSITIONS = 560;
int failures = 0;

// Memory that ends where a page begins that nobody may touch, but for what fills a last line.
class Guarded {
 public:
  explicit Guarded(int64_t bytes) : whole_((bytes + SYSTEM_PAGE - 1) / SYSTEM_PAGE * SYSTEM_PAGE) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    start_ = static_cast<char*>(
        mmap(nullptr, whole_ + SYSTEM_PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
    mprotect(start_ + whole_, SYSTEM_PAGE, PROT_NONE);
    at_ = start_ + whole_ - bytes;
  }
  Guarded(const Guarded&) = delete;
  ~Guarded() { munmap(start_, whole_ + SYSTEM_PAGE); }
  char* get() const { return at_; }

 private:
  const int64_t whole_;
  char *start_, *at_;
};

uint32_t random_state = 1;
uint32_t random_bits() { return (random_state = random_state * 1664525 + 1013904223) >> 8; }

// Where a block of each type has its float16 scale and minimum (-1: none).
struct Source {
  const char* name;
  int64_t values, scale, minimum;
  uint16_t scale_bits, minimum_bits;
};
constexpr Source SOURCES[] = {
    {"F32", 1, -1, -1, 0, 0},
    {"F16", 1, -1, -1, 0, 0},
    {"BF16", 1, -1, -1, 0, 0},
    {"Q8_0", 32, 0, -1, 0x1000, 0},
    {"Q4_0", 32, 0, -1, 0x2400, 0},
    {"Q4_1", 32, 0, 2, 0x2400, 0xAF80},
    {"Q5_0", 32, 0, -1, 0x2000, 0},
    {"Q5_1", 32, 0, 2, 0x2000, 0xAFC0},
    {"Q2_K", 256, 80, 82, 0x2000, 0x2200},
    {"Q3_K", 256, 108, -1, 0x1400, 0},
    {"Q4_K", 256, 0, 2, 0x0C00, 0x1780},
    {"Q5_K", 256, 0, 2, 0x0800, 0x17C0},
    {"Q6_K", 256, 208, -1, 0x0400, 0},
};

std::vector<uint8_t> random_rows(const Source& source, int64_t outputs, int64_t inputs) {
  const int64_t row_bytes = bytes_of_row(source.name, inputs);
  std::vector<uint8_t> rows(outputs * row_bytes);
  for (uint8_t& byte : rows) byte = static_cast<uint8_t>(random_bits());
  const int64_t block = row_bytes / (inputs / source.values);
  for (size_t at = 0; at < rows.size(); at += block) {
    if (source.scale >= 0) memcpy(&rows[at + source.scale], &source.scale_bits, 2);
    if (source.minimum >= 0) memcpy(&rows[at + source.minimum], &source.minimum_bits, 2);
    if (source.values > 1) continue;
    // Plain numbers between 1/64 and 1/4 of both signs: by sign, exponent and the first bits.
    const uint32_t sign = random_bits() & 1, power = 121 + random_bits() % 4, rest = random_bits();
    const uint32_t wide = sign << 31 | power << 23 | (rest & 0x7F) << 16;
    const auto half = static_cast<uint16_t>(sign << 15 | (power - 112) << 10 | (rest & 0x3FF));
    const auto upper = static_cast<uint16_t>(wide >> 16);
    if (block == 4) memcpy(&rows[at], &wide, 4);
    else memcpy(&rows[at], source.name[0] == 'F' ? &half : &upper, 2);
  }
  return rows;
}

struct Shape {
  int64_t dim, hidden, heads, kv_heads, vocabulary;
  int first_source;  // matrices take this type and the ones after it, where their widths allow
};

class Weights {
 public:
  explicit Weights(const Shape& shape) : next_(shape.first_source) {
    const int64_t head_dim = shape.dim / shape.heads, keys = shape.kv_heads * head_dim;
    const int64_t dim = shape.dim;
    norm_.assign(padded(dim), 0.f);
    for (int64_t i = 0; i < dim; ++i) norm_[i] = 1.f + static_cast<float>(i % 3) / 4;
    model = {dim, shape.hidden, shape.heads, shape.kv_heads, head_dim, shape.vocabulary, 0, 1e-5f,
             EXACT, 2, matrix(shape.vocabulary, dim), matrix(shape.vocabulary, dim), norm_.data(),
             nullptr, nullptr, 0};
    for (int i = 0; i < 2; ++i)
      layers.push_back({norm_.data(), norm_.data(), matrix(dim, dim), matrix(keys, dim),
                        matrix(keys, dim), matrix(dim, dim), matrix(shape.hidden, dim),
                        matrix(dim, shape.hidden), matrix(shape.hidden, dim)});
  }
  Model model;
  std::vector<Layer> layers;

 private:
  const Source& source_for(int64_t inputs) {
    constexpr int COUNT = sizeof SOURCES / sizeof SOURCES[0];
    for (;;) {
      const Source& source = SOURCES[next_++ % COUNT];
      if (inputs % source.values == 0) return source;
    }
  }
  Matrix matrix(int64_t outputs, int64_t inputs) {
    const Source& source = source_for(inputs);
    const std::vector<uint8_t> rows = random_rows(source, outputs, inputs);
    Matrix m{nullptr, outputs, inputs, format_of(source.name)};
    packed_.push_back(std::make_unique<Guarded>(packed_bytes(m.format, outputs, inputs)));
    char* at = packed_.back()->get();
    const int64_t tiles = tiles_of(m), middle = tiles / 2;
    pack_tiles(source.name, rows.data(), m, 0, middle, at);
    pack_tiles(source.name, rows.data(), m, middle, tiles, at);
    m.data = at;
    return m;
  }
  int next_;
  std::vector<float> norm_;
  std::vector<std::unique_ptr<Guarded>> packed_;
};

// Two sequences, the first of POSITIONS, the second of 40, in spans of these rows each.
class Texts {
 public:
  Texts(Engine& engine, const InferenceKernels& kernels, int64_t first_rows, int64_t second_rows)
      : engine_(engine), kernels_(kernels) {
    const int64_t vocabulary = engine.model().vocabulary;
    engine.reserve(POSITIONS / PAGE + 1 + 2);
    for (int32_t page = POSITIONS / PAGE; page >= 0; --page) pages_[0].push_back(page + 2);
    pages_[1] = {1, 0};
    logits[0].resize(POSITIONS * vocabulary), logits[1].resize(40 * vocabulary);
    int64_t done[2] = {0, 0};
    const int64_t lengths[2] = {POSITIONS, 40}, most[2] = {first_rows, second_rows};
    while (done[0] < lengths[0] || done[1] < lengths[1]) {
      int64_t rows[2];
      for (int i = 0; i < 2; ++i)
        rows[i] = lengths[i] - done[i] < most[i] ? lengths[i] - done[i] : most[i];
      step(rows, done);
      for (int i = 0; i < 2; ++i) done[i] += rows[i];
    }
  }
  std::vector<float> logits[2];

 private:
  void step(const int64_t* rows, const int64_t* done) {
    const int64_t all = rows[0] + rows[1], half = engine_.model().head_dim / 2;
    const int64_t vocabulary = engine_.model().vocabulary;
    std::vector<int32_t> ids, wanted;
    std::vector<float> cosines, sines, found(all * vocabulary);
    std::vector<int64_t> drawn(all), targets(all);
    std::vector<Draw> draws;
    std::vector<double> scores(all);
    Request request{};
    for (int i = 0; i < 2; ++i) {
      if (!rows[i]) continue;
      request.spans.push_back(
          {static_cast<int64_t>(ids.size()), rows[i], done[i], pages_[i].data()});
      for (int64_t at = done[i]; at < done[i] + rows[i]; ++at) {
        wanted.push_back(static_cast<int32_t>(ids.size()));
        ids.push_back(static_cast<int32_t>((at * 7 + at / 5 + i) % vocabulary));
        for (int64_t j = 0; j < half; ++j) {  // turns by angles whose sines are exact: no libm
          const int quarter = static_cast<int>((at + j) % 4);
          cosines.push_back(quarter % 2 ? 0.f : 1.f - static_cast<float>(quarter));
          sines.push_back(quarter % 2 ? 2.f - static_cast<float>(quarter) : 0.f);
        }
      }
    }
    request.ids = ids.data(), request.rows = all;
    request.cosines = cosines.data(), request.sines = sines.data();
    request.wanted = wanted.data(), request.wanted_count = all;
    for (int64_t row = 0; row < all; ++row)
      draws.push_back({static_cast<double>(vocabulary - row % 3), 0.5 * static_cast<double>(row % 4),
                       static_cast<double>(row % 5), row % 2 ? 1 : 0.75, row % 7 ? 0 : 0.125,
                       static_cast<double>(row % 16) / 16});
    request.logits = found.data(), request.logits_count = all;
    request.draws = draws.data(), request.drawn = drawn.data(), request.drawn_count = all;
    request.targets = targets.data(), request.log_probabilities = scores.data();
    if (!engine_.step(request)) ++failures, printf("logits are not finite\n");
    float* from = found.data();
    for (int i = 0; i < 2; ++i) {
      if (rows[i])
        memcpy(&logits[i][done[i] * vocabulary], from, rows[i] * vocabulary * sizeof(float));
      from += rows[i] * vocabulary;
    }
    for (int64_t row = 0; row < all; ++row) {
      if (!(scores[row] <= 0)) ++failures, printf("a log-probability is above 0\n");
      const float* const at = found.data() + row * vocabulary;
      if (!(0 <= drawn[row] && drawn[row] < draws[row].ids)) ++failures, printf("no such id\n");
      else if (draws[row].temperature == 0 && at[drawn[row]] < at[0])
        ++failures, printf("not the likeliest id\n");
      else draw_alone(draws[row], at, drawn[row]);
    }
  }

  // The same from a row by itself, in memory that ends where a forbidden page begins.
  void draw_alone(const Draw& draw, const float* logits, int64_t wanted) const {
    const auto ids = static_cast<int64_t>(draw.ids), whole = (ids + 15) / 16 * 16;
    const Guarded given(ids * 4), row(whole * 4), keys(whole * 4);
    memcpy(given.get(), logits, ids * sizeof(float));
    const int64_t id = kernels_.draw_from(
        reinterpret_cast<const float*>(given.get()), draw, reinterpret_cast<float*>(row.get()),
        reinterpret_cast<int32_t*>(keys.get()));
    if (id != wanted) ++failures, printf("alone another id is drawn\n");
  }

  Engine& engine_;
  const InferenceKernels& kernels_;
  std::vector<int32_t> pages_[2];
};

double largest_difference(const Texts& one, const Texts& other) {
  double most = 0;
  for (int i = 0; i < 2; ++i)
    for (size_t j = 0; j < one.logits[i].size(); ++j)
      most = std::fmax(most, std::fabs(one.logits[i][j] - other.logits[i][j]));
  return most;
}

uint64_t checksum(const Texts& texts) {
  uint64_t found = 14695981039346656037u;
  for (const auto& logits : texts.logits)
    for (const float logit : logits) {
      uint32_t bits;
      memcpy(&bits, &logit, 4);
      found = (found ^ bits) * 1099511628211u;
    }
  return found;
}

void check(const InferenceKernels& kernels, Weights& weights, Mode mode, int64_t kept_bytes) {
  static const char* const NAMES[] = {"exact", "fast", "float"};
  weights.model.mode = mode;
  weights.model.kept_bytes = kept_bytes;
  Engine alone(kernels, weights.model, weights.layers, 1);
  Engine three(kernels, weights.model, weights.layers, 3);
  const Texts texts(alone, kernels, 7, 1);
  const double threads = largest_difference(texts, Texts(three, kernels, 7, 1));
  const double spans = largest_difference(texts, Texts(three, kernels, 100, 33));
  printf("%s, kept in %d, dim %d: %016llx, first logits %.3f %.3f %.3f\n", NAMES[mode],
         static_cast<int>(kept_bytes), static_cast<int>(weights.model.dim),
         static_cast<unsigned long long>(checksum(texts)),
         texts.logits[0][0], texts.logits[0][1], texts.logits[0][2]);
  if (threads != 0) ++failures, printf("  threads change logits by %g\n", threads);
  if (mode == EXACT && spans != 0) ++failures, printf("  spans change logits by %g\n", spans);
}

constexpr Shape SHAPES[] = {{8, 12, 1, 1, 33, 0}, {96, 64, 6, 2, 40, 3}, {256, 256, 4, 1, 50, 8},
                            {144, 80, 3, 3, 64, 1}};

}  // namespace

// An argument names the one build to run.
int main(int count, char** arguments) {
  const std::string wish = count > 1 ? arguments[1] : "";
  for (const InferenceKernels* kernels : usable_inference()) {
    if (!wish.empty() && wish != kernels->isa) continue;
    if (wish.empty()) printf("%s\n", kernels->isa);
    random_state = 1;
    for (const Shape& shape : SHAPES) {
      Weights weights(shape);
      for (const Mode mode : {EXACT, FAST})
        for (const int64_t kept_bytes : {1, 2}) check(*kernels, weights, mode, kept_bytes);
      check(*kernels, weights, WHOLE, 4);
    }
    BandwidthProbe probe(*kernels, 3, 1 << 20);
    if (!(probe.measure() > 0)) ++failures, printf("no bandwidth\n");
    fflush(stdout);
  }
  printf("%d failures\n", failures);
  return failures != 0;
}
