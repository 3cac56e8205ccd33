#include "crew.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <system_error>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <unistd.h>
#endif

namespace {

// A wait in a step is over in microseconds; between two steps some Python runs.
constexpr int64_t SPIN_NANOSECONDS = 50'000, SPIN_BETWEEN_STEPS_NANOSECONDS = 300'000;

// Time, not runs: a prompt's run is fifty times as long as a token's.
constexpr int64_t FIRST_ALONE_NANOSECONDS = 20'000'000, LONGEST_ALONE_NANOSECONDS = 1'000'000'000;

inline void pause_a_little() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

inline int32_t now(const int32_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }

void sleep_while(int32_t* at, int32_t value) {
#if defined(__linux__)
  syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
  if (now(at) == value) std::this_thread::sleep_for(std::chrono::microseconds(50));
#endif
}

void wake_all(int32_t* at) {
#if defined(__linux__)
  syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
#else
  (void)at;
#endif
}

int64_t nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Returns once *at is no longer `value`: spins, then sleeps; how long it slept.
int64_t wait_while(int32_t* at, int32_t value, int64_t spin_nanoseconds, int32_t* sleepers) {
  for (int i = 0; i < 64; ++i) {
    if (now(at) != value) return 0;
    pause_a_little();
  }
  const int64_t end = nanoseconds() + spin_nanoseconds;
  while (nanoseconds() < end)
    for (int i = 0; i < 16; ++i) {
      if (now(at) != value) return 0;
      pause_a_little();
    }
  __atomic_add_fetch(sleepers, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(at, __ATOMIC_SEQ_CST) == value) sleep_while(at, value);
  __atomic_sub_fetch(sleepers, 1, __ATOMIC_SEQ_CST);
  return nanoseconds() - end;
}

void change(int32_t* at, int32_t value, int32_t* sleepers) {
  __atomic_store_n(at, value, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(sleepers, __ATOMIC_SEQ_CST) > 0) wake_all(at);
}

}  // namespace

Crew::Crew(int members) : count_(members) {
  if (members < 1 || members > MOST_MEMBERS)
    throw std::invalid_argument("threads should be between 1 and 256");
  for (auto& shares : shares_) shares = std::make_unique<Share[]>(members);
}

Crew::~Crew() {
  if (process_ != getpid()) {  // after a fork there are no members here
    for (std::thread& member : members_) member.detach();
    return;
  }
  change(&calls_, -1, &sleepers_);
  for (std::thread& member : members_) member.join();
}

void Crew::start_members() {
  for (std::thread& member : members_) member.detach();  // of the process before a fork
  members_.clear();
  calls_ = sleepers_ = arrived_ = 0;
  process_ = getpid();
  try {
    for (int number = 1; number < count_; ++number)
      members_.emplace_back([this, number] { stand_by(number); });
  } catch (const std::system_error&) {
    change(&calls_, -1, &sleepers_);
    for (std::thread& member : members_) member.join();
    members_.clear();
    process_ = 0;
    throw std::runtime_error("the system gives no more threads; ask for fewer");
  }
}

void Crew::stand_by(int number) {
  const Member me{this, number, count_, wait, take};
  for (int32_t done = 0;;) {
    wait_while(&calls_, done, SPIN_BETWEEN_STEPS_NANOSECONDS, &sleepers_);
    done = now(&calls_);
    if (done < 0) return;
    work_(data_, me);
    wait(this);
  }
}

void Crew::run(void (*work)(void*, const Member&), void* data) {
  const bool is_first = process_ != getpid();  // waits for its members to start: says nothing
  if (is_first) start_members();
  work_ = work, data_ = data;
  const int64_t begin = nanoseconds();
  const bool is_alone = begin < alone_until_;
  active_ = is_alone ? 1 : count_;
  __atomic_store_n(&slept_, 0, __ATOMIC_RELAXED);
  if (active_ > 1) change(&calls_, now(&calls_) % INT32_MAX + 1, &sleepers_);
  work(data, Member{this, 0, active_, wait, take});
  wait(this);
  if (!is_alone && !is_first) notice(begin, nanoseconds());
}

void Crew::notice(int64_t begin, int64_t end) {
  const bool was_held_up = __atomic_load_n(&slept_, __ATOMIC_RELAXED) > (end - begin) / 4;
  const int64_t longer = std::clamp(2 * patience_, FIRST_ALONE_NANOSECONDS,
                                    LONGEST_ALONE_NANOSECONDS);
  patience_ = was_held_up ? longer : 0;
  alone_until_ = end + patience_;
}

void Crew::wait(Crew* crew) {
  const int32_t round = now(&crew->rounds_);
  const int32_t active = crew->active_;  // of this run: once all are here the next may begin
  if (__atomic_add_fetch(&crew->arrived_, 1, __ATOMIC_ACQ_REL) < active) {
    const int64_t slept =
        wait_while(&crew->rounds_, round, SPIN_NANOSECONDS, &crew->sleepers_);
    if (slept) __atomic_add_fetch(&crew->slept_, slept, __ATOMIC_RELAXED);
    return;
  }
  crew->arrived_ = 0;
  for (int i = 0; i < crew->count_; ++i) crew->shares_[round & 1][i].taken = 0;
  change(&crew->rounds_, (round + 1) & INT32_MAX, &crew->sleepers_);
}

int64_t Crew::take(Crew* crew, int32_t number, int64_t units) {
  Share* shares = crew->shares_[now(&crew->rounds_) & 1].get();
  const int64_t count = crew->active_;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t whose = (number + i) % count;
    const int64_t begin = units * whose / count, end = units * (whose + 1) / count;
    if (__atomic_load_n(&shares[whose].taken, __ATOMIC_RELAXED) >= end - begin) continue;
    const int64_t unit =
        begin + __atomic_fetch_add(&shares[whose].taken, 1, __ATOMIC_RELAXED);
    if (unit < end) return unit;
  }
  return -1;
}
