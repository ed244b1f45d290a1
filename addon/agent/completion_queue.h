// What other threads tell the agent's own thread. An event is a member of whatever it concerns; it must live until arrived() was called.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "util/unique_fd.h"

namespace hicache {

class Event {
 public:
  // On the agent's thread. May destroy the event.
  virtual void arrived() = 0;

 protected:
  ~Event() = default;
};

class CompletionQueue {
 public:
  CompletionQueue();  // throws std::system_error

  int event_fd() const { return event_fd_.get(); }
  // Any thread.
  void push(Event* event);
  // Any thread: makes the agent look for words that were cancelled.
  void request_cancel();
  // Agent's thread: calls every event that is there; those that come meanwhile too, but never without an end. Answers whether there was one.
  bool drain();
  bool take_cancel_request() { return cancel_requested_.exchange(false, std::memory_order_acq_rel); }

 private:
  void wake();

  UniqueFd event_fd_;
  std::mutex mutex_;
  std::vector<Event*> events_;
  std::vector<Event*> taken_;
  std::atomic<bool> cancel_requested_{false};
};

// All queues of living agents, for cancel(), which knows no agent.
void register_queue(const std::shared_ptr<CompletionQueue>&);
void request_cancel_everywhere();

}  // namespace hicache
