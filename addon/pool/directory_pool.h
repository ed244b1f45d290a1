// The threads of one storage directory: everything that may block in its file system runs here, so that a mount that hangs holds these threads and
// nothing else.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace hicache {

class DirectoryPool {
 public:
  // Owned by whoever submits it, and kept until run() has returned or withdraw() has handed it back.
  class Task {
   public:
    virtual void run() = 0;

   protected:
    ~Task() = default;
  };

  explicit DirectoryPool(unsigned threads_max) : threads_max_(threads_max) {}
  // Nothing may be queued or running: it waits for its threads, which are then idle.
  ~DirectoryPool();
  DirectoryPool(const DirectoryPool&) = delete;
  DirectoryPool& operator=(const DirectoryPool&) = delete;

  // First come, first served. Threads are made when work comes and none is idle; throws std::system_error only when there is not even one.
  void submit(Task* const* tasks, size_t count);
  // Are there tasks that nobody has begun?
  bool has_waiting();
  // Takes back what waits in the queue and fits; those tasks will not run.
  std::vector<Task*> withdraw(const std::function<bool(Task*)>& fits);

 private:
  void work();

  const unsigned threads_max_;
  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<Task*> queue_;
  std::vector<std::thread> threads_;
  unsigned idle_ = 0;
  bool stopping_ = false;
};

}  // namespace hicache
