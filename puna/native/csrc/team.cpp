#include "team.h"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace {

constexpr int64_t ALIGNMENT = 4096;

struct Scratch {
  std::unique_ptr<char, decltype(&std::free)> memory{nullptr, &std::free};
  int64_t bytes = 0;

  bool reserve(int64_t wanted) {
    if (wanted <= bytes) return true;
    const int64_t whole = (wanted + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    memory.reset(static_cast<char*>(std::aligned_alloc(ALIGNMENT, whole)));
    bytes = memory ? whole : 0;
    return memory != nullptr;
  }
};

struct Job {
  const std::function<void(int64_t, char*)>& work;
  const int64_t units, scratch_bytes;
  std::atomic<int64_t> next{0};
};

void take_part(void* data) {
  static thread_local Scratch scratch;
  Job& job = *static_cast<Job*>(data);
  if (!scratch.reserve(job.scratch_bytes)) return;
  for (int64_t unit; (unit = job.next++) < job.units;) job.work(unit, scratch.memory.get());
}

void start_threads(void (*work)(void*), void* data, unsigned threads, unsigned) {
  std::vector<std::thread> others;
  others.reserve(threads);
  try {
    for (unsigned i = 1; i < threads; ++i) others.emplace_back(work, data);
  } catch (const std::system_error&) {  // no more threads to be had: fewer do all the work
  }
  work(data);
  for (std::thread& other : others) other.join();
}

std::atomic<Team> chosen{start_threads};

}  // namespace

void use_team(Team team) { chosen = team; }

void share_out(int64_t units, int threads, int64_t scratch_bytes,
               const std::function<void(int64_t, char*)>& work) {
  Job job{work, units, scratch_bytes};
  if (threads > units) threads = static_cast<int>(units);
  if (threads <= 1)
    take_part(&job);
  else
    chosen.load()(take_part, &job, static_cast<unsigned>(threads), 0);
  // Where one thread found no memory the others did its units; where none did, none are done.
  if (job.next < units) throw std::bad_alloc();
}
