// Planned failures, so that the specs can walk every rare branch. Nothing is planned in production: one relaxed load
// a call.
//
// A point is a place in the code that asks, before it does its work, whether it shall fail. Points:
//   open pwritev preadv link rename unlink mkdir stat flock utimens fsync list    (the system calls of the pool)
//   truncate fallocate rmdir statfs    (those of the segments' folders)
//   ring.enter ring.complete aio.submit aio.complete paio.submit paio.complete    (the engines; their last resort is
//   preadv and pwritev)
//   usrbio.complete cufile.complete nixl.complete    (those beside the kernel; at the last one no short count)
//   ring.register    (io_uring, when it is set up with a descriptor to hold)
//   preadv.nowait    (the look at a slot record on the agent's own thread; any errno but EAGAIN counts as that)
// At ring.enter, aio.submit and paio.submit an errno is what the system call answers when this request is the first
// of its batch, and a short count is what the kernel is really given. At *.complete they replace what the kernel
// or the library answered. A hang withholds the completion.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace hicache::fault {

struct Plan {
  std::string point;
  std::string match{};  // part of the file's name; empty = every file
  int64_t after = 0;   // let this many pass
  int64_t times = 1;   // strike this many times; 0 = until cleared
  int error = 0;       // errno to fail with, 0 = none
  int64_t short_bytes = -1;  // transfer only this many bytes, -1 = no
  bool hang = false;   // block (pool) or withhold the completion (engines) until released
  int64_t struck = 0;
};

struct Strike {
  bool hit = false;
  int error = 0;
  int64_t short_bytes = -1;
  bool hang = false;
  uint64_t epoch = 0;  // of the plan set, for released()
};

extern std::atomic<bool> planned;

Strike ask_planned(const char* point, const char* name);
inline Strike ask(const char* point, const char* name) {
  if (!planned.load(std::memory_order_relaxed)) [[likely]] return {};
  return ask_planned(point, name);
}
// Blocks the calling (pool) thread while the plan set that struck is in force.
void wait_released(const Strike&);
// For engines that withhold a completion: has the plan set gone?
bool released(const Strike&);
// Writes to the eventfd once the plan set of the strike has gone; at once if it has already.
void wake_when_released(const Strike&, int event_fd);
// The eventfd is about to be closed: nothing is written to it any more.
void forget(int event_fd);

// Replaces the plan set; what hung because of the former one goes on.
void set(std::vector<Plan>);
// How often each plan has struck so far.
std::vector<int64_t> struck();
// Forgets all plans, lets everything that hangs go on, and answers how often each plan struck.
std::vector<int64_t> clear();

}  // namespace hicache::fault
