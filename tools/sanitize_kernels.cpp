// The kernels over odd shapes, for `make test-sanitize`: under GCC's sanitizers, and, since these
// do not see what tiles load and store, on scratch that ends where a forbidden page begins. Each
// shape runs twice with other bytes in scratch and outputs beforehand, so that a value that nobody
// wrote shows, and once on three threads; the results must be the same to the bit.
#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "isa.h"
#include "team.h"

namespace {

using Halves = std::vector<uint16_t>;
using Floats = std::vector<float>;
using Work = std::function<void(int64_t unit, char* scratch)>;
constexpr int64_t PAGE = 4096;
int failures = 0;

class Scratch {
 public:
  Scratch(int64_t bytes, int fill) : whole_((bytes + PAGE - 1) / PAGE * PAGE), bytes_(bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void* at = mmap(nullptr, whole_ + PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    start_ = static_cast<char*>(at);
    memset(start_, fill, whole_);
    mprotect(start_ + whole_, PAGE, PROT_NONE);
  }
  ~Scratch() { munmap(start_, whole_ + PAGE); }
  char* get() const { return start_ + whole_ - bytes_; }

 private:
  const int64_t whole_, bytes_;
  char* start_;
};

void check(bool is_right, const char* what, int64_t rows, int64_t width) {
  if (!is_right) ++failures, printf("%s differs: %ld rows, width %ld\n", what, rows, width);
}

// Small values of both signs.
Halves values(int64_t count) {
  Halves found(count);
  uint32_t state = 1;
  for (uint16_t& value : found) {
    state = state * 1664525 + 1013904223;
    value = 0x3e00 + (state >> 16 & 0x81ff);
  }
  return found;
}

template <class Values>
bool same(const Values& one, const Values& other) {
  const size_t bytes = one.size() * sizeof(one[0]);
  return bytes == 0 || memcmp(one.data(), other.data(), bytes) == 0;
}

// All units, alone on guarded scratch (threads 0) or shared out.
void run(int64_t units, int threads, int64_t scratch_bytes, int fill, const Work& work) {
  if (threads > 0) return share_out(units, threads, scratch_bytes, work);
  const Scratch scratch(scratch_bytes, fill);
  for (int64_t unit = 0; unit < units; ++unit) work(unit, scratch.get());
}

struct Found {
  Halves mixed, gradient;
  Floats log_sum;
};

Found attend(const Kernels& kernels, const AttentionShape& shape, int threads, int fill) {
  const int64_t rows = shape.batch * shape.time, width = shape.heads * shape.head_dim;
  const int64_t joined_width = width + 2 * shape.kv_heads * shape.head_dim;
  const Halves joined = values(rows * joined_width), mixed_gradient = values(rows * width);
  const Floats cosines(shape.time * shape.head_dim / 2, .6f);
  const Floats sines(shape.time * shape.head_dim / 2, .8f);
  Found found{Halves(rows * width, fill), Halves(rows * joined_width, fill),
              Floats(rows * shape.heads, fill)};
  const AttentionArrays arrays{joined.data(),         cosines.data(),       sines.data(),
                               found.mixed.data(),    found.log_sum.data(), mixed_gradient.data(),
                               found.gradient.data()};
  const int64_t units = shape.batch * shape.kv_heads;
  const int64_t bytes = kernels.attention_scratch_bytes(shape);
  for (const AttentionUnit pass : {kernels.attention_forward, kernels.attention_backward})
    run(units, threads, bytes, fill,
        [&](int64_t unit, char* scratch) { pass(shape, arrays, unit, scratch); });
  return found;
}

void attention(const Kernels& kernels, int64_t time, int64_t head_dim) {
  const int64_t heads[][2] = {{1, 1}, {4, 2}, {3, 1}};
  for (const auto& [count, kv_count] : heads) {
    const AttentionShape shape{2, time, count, kv_count, head_dim};
    const Found first = attend(kernels, shape, 0, 0xff);
    for (const int threads : {0, 3}) {
      const Found other = attend(kernels, shape, threads, 0);
      check(same(first.mixed, other.mixed), "mixed", time, head_dim);
      check(same(first.log_sum, other.log_sum), "log_sum", time, head_dim);
      check(same(first.gradient, other.gradient), "joined_gradient", time, head_dim);
    }
  }
}

void weight_gradient(const Kernels& kernels, int64_t rows, int64_t height, int64_t width) {
  const Halves left = values(rows * height), right = values(rows * width);
  Floats first;
  for (const int64_t side : {32, 96, 384})
    for (const int threads : {0, 3}) {
      Floats out(height * width, threads);
      WeightGradient task{left.data(), right.data(), out.data(), rows, height, width, side, false};
      const int64_t units = ((height + side - 1) / side) * ((width + side - 1) / side);
      const int64_t bytes = kernels.weight_gradient_scratch_bytes(task);
      const Work work = [&](int64_t unit, char* at) { kernels.weight_gradient(task, unit, at); };
      run(units, threads, bytes, 0xff, work);
      if (first.empty()) first = out;
      check(same(first, out), "weight gradient", rows, width);
      task.add = true;
      run(units, threads, bytes, 0, work);
      for (size_t i = 0; i < out.size(); ++i) out[i] /= 2;
      check(same(first, out), "weight gradient added to itself", rows, width);
    }
}

}  // namespace

int main() {
  for (const Kernels* kernels : usable_kernels()) {
    for (const int64_t time : {0, 1, 31, 32, 33, 513, 700})
      for (const int64_t head_dim : {32, 64, 96, 128, 256}) attention(*kernels, time, head_dim);
    for (const int64_t rows : {0, 1, 2, 31, 32, 33, 256, 257, 700})
      for (const int64_t height : {32, 416})
        for (const int64_t width : {32, 96, 384, 800})
          weight_gradient(*kernels, rows, height, width);
    printf("%s: %d failures\n", kernels->isa, failures);
  }
  if (usable_kernels().empty()) printf("this processor runs none of the kernels: none tested\n");
  return failures != 0;
}
