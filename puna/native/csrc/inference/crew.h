// Threads that go through a step together: they share out the units of each piece of work and wait
// for each other between pieces.
//
// Each member has a range of the units, in order, so that it reads its weights as one stream, and
// takes from the others' ranges when its own is done, so that a member that was held up does not
// hold up the rest. A wait spins for a while, then sleeps: on a busy machine spinning would take
// the time that the others need, and an idle crew takes none. Where members have to sleep for much
// of a run, other processes take their cores: then the caller works alone for a while.
#pragma once
#include <stdint.h>

#include <memory>
#include <thread>
#include <vector>

#include "model.h"

constexpr int MOST_MEMBERS = 256;

struct alignas(64) Share {
  int64_t taken = 0;
};

struct Crew {
  explicit Crew(int members);
  ~Crew();
  Crew(const Crew&) = delete;

  // Calls work(data, member) on each of the members, the caller as number 0.
  void run(void (*work)(void* data, const Member& member), void* data);

  int count() const { return count_; }

  static void wait(Crew* crew);
  static int64_t take(Crew* crew, int32_t number, int64_t units);

 private:
  void stand_by(int number);
  void start_members();
  void notice(int64_t begin, int64_t end);  // of a run, in nanoseconds

  const int count_;
  int active_ = 1;         // members of this run
  int64_t alone_until_ = 0, patience_ = 0;  // nanoseconds
  int process_ = 0;
  std::vector<std::thread> members_;
  void (*work_)(void*, const Member&) = nullptr;
  void* data_ = nullptr;

  alignas(64) int32_t calls_ = 0;     // how often there was work; -1 when there will be no more
  alignas(64) int32_t sleepers_ = 0;
  alignas(64) int32_t arrived_ = 0;
  alignas(64) int32_t rounds_ = 0;    // how many waits are over
  alignas(64) int64_t slept_ = 0;     // nanoseconds of this run, of all members
  // By turns: while the units of one piece are taken, nobody may still be at the other's.
  std::unique_ptr<Share[]> shares_[2];
};
