#include "pool/directory_pool.h"

#include <pthread.h>
#include <sys/resource.h>
#include <signal.h>

#include <algorithm>
#include <cassert>
#include <system_error>

namespace hicache {
namespace {

constexpr int niceness = 5;

}  // namespace

DirectoryPool::~DirectoryPool() {
  {
    std::lock_guard lock(mutex_);
    assert(queue_.empty());
    stopping_ = true;
  }
  more_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DirectoryPool::submit(Task* const* tasks, size_t count) {
  if (count == 0) return;
  size_t wake;
  {
    std::lock_guard lock(mutex_);
    // A thread beyond the first one for every waiting task that nobody is free for, as long as there may be more.
    while (threads_.size() < threads_max_ && idle_ < queue_.size() + count) {
      // Signals are the business of Node's own threads.
      sigset_t all, before;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
      try {
        threads_.emplace_back([this] { work(); });
        idle_++;
      } catch (const std::system_error&) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        if (threads_.empty()) throw;
        break;
      }
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
    queue_.insert(queue_.end(), tasks, tasks + count);
    wake = std::min<size_t>(count, idle_);
  }
  for (size_t i = 0; i < wake; i++) more_.notify_one();
}

bool DirectoryPool::has_waiting() {
  std::lock_guard lock(mutex_);
  return !queue_.empty();
}

std::vector<DirectoryPool::Task*> DirectoryPool::withdraw(const std::function<bool(Task*)>& fits) {
  std::lock_guard lock(mutex_);
  std::vector<Task*> withdrawn;
  std::erase_if(queue_, [&](Task* task) {
    if (!fits(task)) return false;
    withdrawn.push_back(task);
    return true;
  });
  return withdrawn;
}

// A thread counts as idle from its creation until it takes a task, so that submit() makes no second one for the same task.
void DirectoryPool::work() {
  pthread_setname_np(pthread_self(), "hicache-pool");
  // Below the threads that run JavaScript and collect its garbage: on few cores a batch would otherwise hold up the event loops that feed it. (Linux keeps
  // this number by thread.) Longest turn of the main thread while 64 KiB pages are written, 2 cores, three runs: 49-70 ms without, 20-58 ms with.
  ::setpriority(PRIO_PROCESS, 0, niceness);
  std::unique_lock lock(mutex_);
  while (true) {
    more_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Task* task = queue_.front();
    queue_.pop_front();
    idle_--;
    lock.unlock();
    task->run();
    lock.lock();
    idle_++;
  }
}

}  // namespace hicache
