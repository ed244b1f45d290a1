#include "util/fault.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <utility>

namespace hicache::fault {

std::atomic<bool> planned{false};

namespace {

struct State {
  std::mutex mutex;
  std::condition_variable gone;
  std::vector<Plan> plans;
  uint64_t epoch = 1;
  std::vector<int> waiting;  // eventfds of engines that withhold completions
};

// Never destroyed: pool threads may still ask while the process runs its static destructors.
State& state() {
  static State* const the_state = new State;
  return *the_state;
}

std::vector<Plan> replace(std::vector<Plan> plans) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  std::vector<Plan> former = std::exchange(s.plans, std::move(plans));
  planned.store(!s.plans.empty(), std::memory_order_relaxed);
  s.epoch++;
  // Under the lock: forget() must not return while a write to its descriptor is still to come.
  for (int event_fd : s.waiting) eventfd_write(event_fd, 1);
  s.waiting.clear();
  s.gone.notify_all();
  return former;
}

}  // namespace

Strike ask_planned(const char* point, const char* name) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  for (Plan& plan : s.plans) {
    if (plan.point != point || std::strstr(name, plan.match.c_str()) == nullptr) continue;
    if (plan.after > 0) {
      plan.after--;
      continue;
    }
    if (plan.times != 0 && plan.struck >= plan.times) continue;
    plan.struck++;
    return {true, plan.error, plan.short_bytes, plan.hang, s.epoch};
  }
  return {};
}

void wait_released(const Strike& strike) {
  State& s = state();
  std::unique_lock lock(s.mutex);
  s.gone.wait(lock, [&] { return s.epoch != strike.epoch; });
}

bool released(const Strike& strike) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  return s.epoch != strike.epoch;
}

void wake_when_released(const Strike& strike, int event_fd) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (s.epoch != strike.epoch) {
    eventfd_write(event_fd, 1);
  } else if (std::find(s.waiting.begin(), s.waiting.end(), event_fd) == s.waiting.end()) {
    s.waiting.push_back(event_fd);
  }
}

void forget(int event_fd) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  std::erase(s.waiting, event_fd);
}

void set(std::vector<Plan> plans) { replace(std::move(plans)); }

std::vector<int64_t> struck() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  std::vector<int64_t> counts;
  for (const Plan& plan : s.plans) counts.push_back(plan.struck);
  return counts;
}

std::vector<int64_t> clear() {
  std::vector<int64_t> struck;
  for (const Plan& plan : replace({})) struck.push_back(plan.struck);
  return struck;
}

}  // namespace hicache::fault
