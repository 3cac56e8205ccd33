// Sharing units of work out among threads.
#pragma once
#include <stdint.h>

#include <functional>

// A team runs `work(data)` once on each of `threads` threads, the caller's among them. This is
// the entry point of OpenMP's run time (GOMP_parallel): in a process with torch its threads do
// our work too, since they spin while they wait and would compete with threads of our own.
using Team = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);

// Uses this team from now on; without one, threads are started for each call.
void use_team(Team team);

// Calls `work(unit, scratch)` for each unit below `units`, on up to `threads` threads; each has
// `scratch_bytes` of aligned memory of its own, kept for its next call. Throws std::bad_alloc.
void share_out(int64_t units, int threads, int64_t scratch_bytes,
               const std::function<void(int64_t unit, char* scratch)>& work);
