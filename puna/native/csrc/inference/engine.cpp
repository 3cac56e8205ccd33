#include "engine.h"

#include <string.h>

#include <chrono>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

constexpr int64_t HUGE_PAGE = 2 << 20;
constexpr int64_t BLOCK_FROM_ROWS = 8;  // fewer rows: their segments, all heads that share keys

int64_t rounded_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

int64_t segments_of(int64_t positions) {
  return (positions + PAGE * SEGMENT_PAGES - 1) / (PAGE * SEGMENT_PAGES);
}

// How attention's work is divided, and where rows that are not in blocks put partial results.
struct Division {
  std::vector<AttentionWork> work;
  std::vector<int32_t> span_of_row;
  std::vector<int64_t> partial_of_row;
  int64_t partials = 0;

  Division(const Model& model, const std::vector<Span>& spans, int64_t rows, bool has_tiles)
      : span_of_row(rows), partial_of_row(rows, -1) {
    for (size_t i = 0; i < spans.size(); ++i)
      add(model, spans[i], static_cast<int32_t>(i), has_tiles);
  }

 private:
  void add(const Model& model, const Span& span, int32_t number, bool has_tiles) {
    const bool is_block = has_tiles && model.kept_bytes < 4 && span.rows >= BLOCK_FROM_ROWS;
    const int64_t parts = is_block ? (span.rows + 31) / 32 : segments_of(span.start + span.rows);
    const int64_t heads = is_block ? model.heads : model.kv_heads;
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t part = 0; part < parts; ++part)
        work.push_back({number, static_cast<int32_t>(head), static_cast<int32_t>(part), is_block});
    for (int64_t row = 0; row < span.rows; ++row) {
      span_of_row[span.first_row + row] = number;
      if (is_block) continue;
      partial_of_row[span.first_row + row] = partials;
      partials += model.heads * segments_of(span.start + row + 1);
    }
  }
};

struct Job {
  const InferenceKernels& kernels;
  const Model& model;
  const Step& step;
  Workspace& work;
};

void take_part(void* data, const Member& member) {
  const Job& job = *static_cast<Job*>(data);
  job.kernels.forward(job.model, job.step, job.work, member);
}

struct Probe {
  const InferenceKernels& kernels;
  const char* at;
  int64_t bytes;
  float sums[MOST_MEMBERS];
};

void read_part(void* data, const Member& member) {
  Probe& probe = *static_cast<Probe*>(data);
  const int64_t each = probe.bytes / member.count / 4096 * 4096;
  probe.sums[member.number] = probe.kernels.read_all(probe.at + member.number * each, each);
}

}  // namespace

void FreeMemory::operator()(void* at) const { std::free(at); }

Memory allocate(int64_t bytes) {
  const int64_t alignment = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 64;
  const int64_t whole = rounded_up(bytes > 0 ? bytes : 1, alignment);
  char* at = static_cast<char*>(std::aligned_alloc(alignment, whole));
  if (!at) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == HUGE_PAGE) madvise(at, whole, MADV_HUGEPAGE);
#endif
  return Memory(at);
}

Engine::Engine(const InferenceKernels& kernels, const Model& model, std::vector<Layer> layers,
               int threads)
    : kernels_(kernels), model_(model), layers_(std::move(layers)), crew_(threads), own_(threads),
      own_at_(threads) {
  model_.layers = layers_.data();
  model_.layer_count = static_cast<int64_t>(layers_.size());
  model_.cache = nullptr;
  model_.pages = 0;
}

int64_t Engine::page_bytes() const {
  return model_.layer_count * model_.kv_heads * head_page_bytes(model_);
}

void Engine::reserve(int64_t pages) {
  cache_.reset();
  model_.cache = nullptr, model_.pages = 0;
  // Zeros, since what was never written must be finite; the system gives them when they are used.
  const int64_t bytes = pages * page_bytes();
  cache_.reset(static_cast<char*>(std::calloc(1, bytes + HUGE_PAGE)));
  if (!cache_) throw std::bad_alloc();
  const auto address = reinterpret_cast<uintptr_t>(cache_.get());
  model_.cache = cache_.get() + (rounded_up(address, HUGE_PAGE) - address);
#if defined(__linux__)
  if (bytes >= HUGE_PAGE) madvise(model_.cache, bytes, MADV_HUGEPAGE);
#endif
  model_.pages = pages;
}

void Engine::fit(int64_t rows) {
  if (rows <= work_.rows) return;
  Sizes sizes{};
  kernels_.sizes(model_, rows, &sizes);
  work_.rows = 0;
  shared_.reset();
  const int64_t all = sizes.states + sizes.joined + sizes.mixed + sizes.inputs +
                      sizes.attended + sizes.gated + sizes.logits + 8 * 64;
  shared_ = allocate(all);
  char* at = shared_.get();
  const auto take = [&](int64_t bytes) {
    char* mine = at;
    at += rounded_up(bytes, 64);
    return mine;
  };
  work_.states = reinterpret_cast<float*>(take(sizes.states));
  work_.joined = reinterpret_cast<float*>(take(sizes.joined));
  work_.mixed = reinterpret_cast<float*>(take(sizes.mixed));
  work_.inputs = take(sizes.inputs);
  work_.attended = take(sizes.attended);
  work_.gated = take(sizes.gated);
  work_.logits = reinterpret_cast<float*>(take(sizes.logits));
  for (size_t i = 0; i < own_.size(); ++i) {
    own_[i].reset();
    own_[i] = allocate(sizes.own);
    own_at_[i] = own_[i].get();
  }
  work_.own = own_at_.data();
  work_.rows = rows;
}

bool Engine::step(const Request& request) {
  fit(request.rows);
  const Division division(model_, request.spans, request.rows, kernels_.has_tiles);
  const int64_t partial_bytes = division.partials * (padded(model_.head_dim) + 16) * 4;
  if (partial_bytes > partial_bytes_) {
    partials_.reset();
    partial_bytes_ = 0;
    partials_ = allocate(partial_bytes);
    partial_bytes_ = partial_bytes;
  }
  work_.partials = reinterpret_cast<float*>(partials_.get());
  work_.not_finite = 0;
  const Step step{request.ids,
                  request.rows,
                  request.cosines,
                  request.sines,
                  request.spans.data(),
                  division.span_of_row.data(),
                  division.partial_of_row.data(),
                  division.partials,
                  division.work.data(),
                  static_cast<int64_t>(division.work.size()),
                  request.wanted,
                  request.wanted_count,
                  request.logits,
                  request.logits_count,
                  request.draws,
                  request.drawn,
                  request.drawn_count,
                  request.targets,
                  request.log_probabilities,
                  request.hidden};
  Job job{kernels_, model_, step, work_};
  crew_.run(take_part, &job);
  return work_.not_finite == 0;
}

BandwidthProbe::BandwidthProbe(const InferenceKernels& kernels, int threads, int64_t bytes)
    : kernels_(kernels), crew_(threads), bytes_(bytes), buffer_(allocate(bytes)) {
  memset(buffer_.get(), 0, bytes_);
}

double BandwidthProbe::measure() {
  Probe probe{kernels_, buffer_.get(), bytes_, {}};
  const auto begin = std::chrono::steady_clock::now();
  crew_.run(read_part, &probe);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return static_cast<double>(bytes_) / seconds.count();
}
