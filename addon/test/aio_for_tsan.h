// A stand-in for glibc's <aio.h> under the thread sanitizer, which does not see how glibc starts its AIO threads and
// dies in their first allocation. It behaves alike (one request at a time per descriptor, the waiting ones can be
// cancelled) and is instrumented itself. The other builds run with the real one.
#pragma once

#include <aio.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

namespace aio_for_tsan {

struct State {
  int error = EINPROGRESS;
  ssize_t result = -1;
};

// Never destroyed: the threads are detached.
inline auto& mutex = *new std::mutex;
inline auto& changed = *new std::condition_variable;
inline auto& states = *new std::map<const aiocb*, State>;
inline auto& queues = *new std::map<int, std::deque<aiocb*>>;  // the first of each is at work
inline auto& served = *new std::map<int, bool>;                // by a thread

inline void serve(int fd) {
  std::unique_lock lock(mutex);
  std::deque<aiocb*>& queue = queues[fd];
  while (!queue.empty()) {
    aiocb* block = queue.front();
    const bool reading = block->aio_lio_opcode == LIO_READ;
    lock.unlock();
    void* memory = const_cast<void*>(block->aio_buf);
    const size_t bytes = block->aio_nbytes;
    const off_t offset = block->aio_offset;
    ssize_t moved = reading ? pread(fd, memory, bytes, offset) : pwrite(fd, memory, bytes, offset);
    if (moved < 0 && errno == ESPIPE) moved = reading ? read(fd, memory, bytes) : write(fd, memory, bytes);
    const int error = moved < 0 ? errno : 0;
    lock.lock();
    states[block] = {error, moved};
    queue.pop_front();
    changed.notify_all();
  }
  served[fd] = false;
}

inline int enqueue(aiocb* block, int operation) {
  std::lock_guard lock(mutex);
  block->aio_lio_opcode = operation;
  states[block] = {};
  queues[block->aio_fildes].push_back(block);
  if (!served[block->aio_fildes]) {
    served[block->aio_fildes] = true;
    std::thread(serve, block->aio_fildes).detach();
  }
  return 0;
}

}  // namespace aio_for_tsan

extern "C" {

int aio_read(aiocb* block) noexcept { return aio_for_tsan::enqueue(block, LIO_READ); }
int aio_write(aiocb* block) noexcept { return aio_for_tsan::enqueue(block, LIO_WRITE); }

int aio_error(const aiocb* block) noexcept {
  std::lock_guard lock(aio_for_tsan::mutex);
  return aio_for_tsan::states[block].error;
}

ssize_t aio_return(aiocb* block) noexcept {
  std::lock_guard lock(aio_for_tsan::mutex);
  const ssize_t result = aio_for_tsan::states[block].result;
  aio_for_tsan::states.erase(block);
  return result;
}

int aio_suspend(const aiocb* const list[], int count, const timespec*) {
  std::unique_lock lock(aio_for_tsan::mutex);
  aio_for_tsan::changed.wait(lock, [&] {
    for (int i = 0; i < count; i++) {
      if (aio_for_tsan::states[list[i]].error != EINPROGRESS) return true;
    }
    return false;
  });
  return 0;
}

int aio_cancel(int fd, aiocb* block) noexcept {
  std::lock_guard lock(aio_for_tsan::mutex);
  std::deque<aiocb*>& queue = aio_for_tsan::queues[fd];
  for (size_t i = 1; i < queue.size(); i++) {
    if (queue[i] != block) continue;
    queue.erase(queue.begin() + static_cast<std::ptrdiff_t>(i));
    aio_for_tsan::states[block] = {ECANCELED, -1};
    aio_for_tsan::changed.notify_all();
    return AIO_CANCELED;
  }
  return queue.empty() || queue.front() != block ? AIO_ALLDONE : AIO_NOTCANCELED;
}

}  // extern "C"
