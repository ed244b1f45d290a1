#include "agent/completion_queue.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <system_error>

namespace hicache {
namespace {

struct Queues {
  std::mutex mutex;
  std::vector<std::weak_ptr<CompletionQueue>> all;
};
Queues& queues() {
  static Queues* const the_queues = new Queues;  // never destroyed: threads may outlive main()
  return *the_queues;
}

}  // namespace

CompletionQueue::CompletionQueue() : event_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!event_fd_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

void CompletionQueue::wake() { ::eventfd_write(event_fd_.get(), 1); }

void CompletionQueue::push(Event* event) {
  std::lock_guard lock(mutex_);
  events_.push_back(event);
  // Inside the lock: once the agent has drained the last event it may destroy this queue.
  if (events_.size() == 1) wake();
}

void CompletionQueue::request_cancel() {
  cancel_requested_.store(true, std::memory_order_release);
  wake();
}

bool CompletionQueue::drain() {
  eventfd_t count;
  ::eventfd_read(event_fd_.get(), &count);
  for (int round = 0; round < 4; round++) {
    {
      std::lock_guard lock(mutex_);
      if (events_.empty()) return round > 0;
      taken_.swap(events_);
    }
    for (Event* event : taken_) event->arrived();
    taken_.clear();
  }
  std::lock_guard lock(mutex_);
  if (!events_.empty()) wake();
  return true;
}

void register_queue(const std::shared_ptr<CompletionQueue>& queue) {
  Queues& all = queues();
  std::lock_guard lock(all.mutex);
  std::erase_if(all.all, [](const auto& one) { return one.expired(); });
  all.all.push_back(queue);
}

void request_cancel_everywhere() {
  Queues& all = queues();
  std::lock_guard lock(all.mutex);
  for (const auto& one : all.all) {
    if (const auto queue = one.lock()) queue->request_cancel();
  }
}

}  // namespace hicache
