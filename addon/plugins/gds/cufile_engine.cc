#include "plugins/gds/cufile_engine.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <new>
#include <system_error>
#include <utility>

#include "agent/memory_registry.h"
#include "pool/file_io.h"
#include "util/fault.h"

namespace hicache::cufile {
namespace {

constexpr size_t block = 4096;
constexpr unsigned tries_max = 16;
constexpr size_t call_bytes_max = size_t{1} << 30;

bool is_direct(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_DIRECT) != 0;
}

// Whose context is this thread's. Engines' threads are their own, so nobody else changes it.
thread_local int current_device = -1;

}  // namespace

CufileEngine::CufileEngine(size_t max_request_size, bool separate) : max_request_size_(std::max(max_request_size / block * block, block)), separate_(separate) {}

CufileEngine::~CufileEngine() { assert(in_flight_ == 0 && threads_.empty()); }

bool CufileEngine::open(unsigned threads, std::string& reason, std::string& remedy) {
  Failure failure;
  CufileDriver& driver = CufileDriver::instance();
  if (!driver.open(failure) || (devices_ = cuda::Devices::get(failure)) == nullptr) {
    reason = failure.what;
    remedy = failure.remedy;
    return false;
  }
  api_ = driver.api();
  event_fd_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_fd_) {
    reason = std::string("eventfd: ").append(engines::describe_errno(errno));
    remedy = "Raise the limit of open files (ulimit -n).";
    return false;
  }
  // The host's signal handlers have no business on these threads.
  sigset_t all, former;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &former);
  int error = 0;
  try {
    threads_.reserve(threads);
    for (unsigned i = 0; i < threads; i++) threads_.emplace_back([this] { run(); });
  } catch (const std::system_error& failed) {
    error = failed.code().value();
  } catch (const std::bad_alloc&) {
    error = ENOMEM;
  }
  pthread_sigmask(SIG_SETMASK, &former, nullptr);
  if (error == 0) return true;
  stop_threads();
  reason = std::string("starting ").append(std::to_string(threads)).append(" threads: ").append(engines::describe_errno(error));
  remedy = "Raise the limit of threads (ulimit -u, the cgroup's pids.max) or the memory of the cgroup, or lower thread_count.";
  return false;
}

void CufileEngine::stop_threads() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  to_do_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

// ---- on the owner's thread ----

void CufileEngine::submit(IoRequest* request) {
  request->result = 0;
  request->engine_slot = nullptr;
  in_flight_++;
  submitted_.push_back(request);
}

// Throws bad_alloc.
std::unique_ptr<Job> CufileEngine::cut(IoRequest* request) const {
  auto job = std::make_unique<Job>();
  job->request = request;
  uint64_t offset = request->offset;
  for (int i = 0; i < request->iov_count; i++) {
    const bool device = i == 0 && request->region != nullptr && request->region->kind == MemoryKind::device;
    auto* const start = static_cast<uint8_t*>(request->iov[i].iov_base);
    const size_t length = request->iov[i].iov_len;
    const size_t most = device ? max_request_size_ : std::max<size_t>(length, 1);
    for (size_t at = 0; at < length; at += most) {
      Piece piece;
      piece.job = job.get();
      piece.address = start + at;
      piece.length = std::min(most, length - at);
      piece.offset = offset + at;
      piece.device = device ? request->region->device : -1;
      job->pieces.push_back(piece);
    }
    offset += length;
  }
  job->unfinished = job->pieces.size();
  return job;
}

// Under the mutex. Throws bad_alloc, and then nothing is queued.
void CufileEngine::enqueue(Job& job) {
  bool device = false;
  size_t queued = 0;
  try {
    for (; queued < job.pieces.size(); queued++) {
      Piece& piece = job.pieces[queued];
      const bool separate = separate_ && piece.device >= 0;
      (separate ? device_queue_ : queue_).push_back(&piece);
      device = device || separate;
    }
  } catch (const std::bad_alloc&) {
    for (size_t i = 0; i < queued; i++) {
      if (!queue_.remove(&job.pieces[i])) device_queue_.remove(&job.pieces[i]);
    }
    throw;
  }
  job.request->engine_slot = &job;
}

void CufileEngine::flush(Sink& sink) {
  send();
  deliver(sink);
}

void CufileEngine::send() {
  Job* made = nullptr;
  Job** last = &made;
  while (IoRequest* request = submitted_.pop_front()) {
    if (request->bytes() == 0) {
      finish(request, 0);
      continue;
    }
    try {
      *last = cut(request).release();
      last = &(*last)->next;
    } catch (const std::bad_alloc&) {
      finish(request, -ENOMEM);
    }
  }
  if (made != nullptr) {
    // All at once, so that what comes together can share a batch.
    std::lock_guard lock(mutex_);
    while (made != nullptr) {
      std::unique_ptr<Job> job(std::exchange(made, made->next));
      job->next = nullptr;
      try {
        enqueue(*job);
        job.release();
      } catch (const std::bad_alloc&) {
        finish(job->request, -ENOMEM);
      }
    }
    to_do_.notify_all();
  }
}

void CufileEngine::reap(Sink& sink) {
  // Emptied BEFORE the completions are collected: one that comes in between makes it readable again.
  eventfd_t count;
  ::eventfd_read(event_fd_.get(), &count);
  Job* ended;
  {
    std::lock_guard lock(mutex_);
    ended = std::exchange(ended_, nullptr);
    ended_last_ = nullptr;
  }
  while (ended != nullptr) {
    const std::unique_ptr<Job> job(std::exchange(ended, ended->next));
    job->request->engine_slot = nullptr;
    finish(job->request, result_of(*job));
  }
  send();
  deliver(sink);
}

bool CufileEngine::wait(Sink& sink, int timeout_ms) {
  using clock = std::chrono::steady_clock;
  const auto deadline = clock::now() + std::chrono::milliseconds(std::max(timeout_ms, 0));
  const uint64_t delivered_before = delivered_;
  for (;;) {
    reap(sink);
    if (delivered_ != delivered_before) return true;
    if (in_flight_ == 0) return false;
    int left_ms = -1;
    if (timeout_ms >= 0) {
      left_ms = static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(deadline - clock::now()).count());
      if (left_ms <= 0) return false;
    }
    pollfd event{event_fd_.get(), POLLIN, 0};
    ::poll(&event, 1, left_ms);
  }
}

void CufileEngine::cancel(IoRequest* request, Sink& sink) {
  auto* const job = static_cast<Job*>(request->engine_slot);
  if (job == nullptr) {
    if (!submitted_.remove(request)) return;  // it waits for its turn in deliver(), further up the stack
    finish(request, -ECANCELED);
    return deliver(sink);
  }
  {
    std::unique_lock lock(mutex_);
    if (job->unfinished == 0 || job->cancelled) return;
    job->cancelled = true;
    for (Piece& piece : job->pieces) {
      if (piece.stage != Piece::Stage::waiting || (!queue_.remove(&piece) && !device_queue_.remove(&piece))) continue;
      piece.stage = Piece::Stage::ended;
      piece.error = ECANCELED;
      job->unfinished--;
    }
    if (job->unfinished > 0) return cancelled();
  }
  // Nothing of it runs. Its file's registration, if it was its own, may have to be given back, which is quick enough for what is rare.
  const std::unique_ptr<Job> owned(job);
  request->engine_slot = nullptr;
  owned->file.reset();
  finish(request, -ECANCELED);
  deliver(sink);
}

// The bytes that came without a gap from the beginning.
int64_t CufileEngine::result_of(const Job& job) {
  int64_t moved = 0;
  for (const Piece& piece : job.pieces) {
    if (piece.error != 0) return -piece.error;
    moved += static_cast<int64_t>(piece.moved);
    // The end of the file.
    if (piece.moved < piece.length) break;
  }
  return moved;
}

void CufileEngine::finish(IoRequest* request, int64_t result) {
  request->result = result;
  done_.push_back(request);
}

void CufileEngine::deliver(Sink& sink) {
  // The sink may submit, flush and cancel, which lead back here: the outermost loop delivers for all.
  if (delivering_) return;
  delivering_ = true;
  while (IoRequest* request = done_.pop_front()) {
    in_flight_--;
    delivered_++;
    sink.completed(request);
  }
  delivering_ = false;
}

// ---- on the engine's threads ----

void CufileEngine::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (other_work(lock)) continue;
    if (!queue_.empty()) {
      Piece& piece = *queue_.pop_front();
      piece.stage = Piece::Stage::running;
      lock.unlock();
      move_now(piece);
      lock.lock();
      end(piece, lock);
      continue;
    }
    if (stop_) return;
    to_do_.wait(lock);
  }
}

void CufileEngine::end(Piece& piece, std::unique_lock<std::mutex>& lock) {
  Job* const job = piece.job;
  piece.stage = Piece::Stage::ended;
  if (job->unfinished > 1) {
    job->unfinished--;
    return;
  }
  // Before the request is handed back, for its submitter may close the file then; and not under the mutex, for deregistering may take a while.
  if (job->file != nullptr) {
    std::shared_ptr<CufileHandle> file = std::move(job->file);
    lock.unlock();
    file.reset();
    lock.lock();
  }
  job->unfinished = 0;
  job->next = nullptr;
  (ended_ == nullptr ? ended_ : ended_last_->next) = job;
  ended_last_ = job;
  ::eventfd_write(event_fd_.get(), 1);
}

void CufileEngine::give_to_threads(Piece& piece, std::unique_lock<std::mutex>& lock) {
  try {
    queue_.push_front(&piece);
    piece.stage = Piece::Stage::waiting;
    to_do_.notify_one();
  } catch (const std::bad_alloc&) {
    piece.error = ENOMEM;
    end(piece, lock);
  }
}

void CufileEngine::note_failure(const Piece& piece, const std::string& what, int code, int cuda_code) {
  try {
    CufileDriver::instance().note(failure_of(std::string(what).append(" ").append(std::to_string(piece.length)).append(" bytes at ").append(std::to_string(piece.offset)).append(" of ").append(piece.job->request->name), code, cuda_code));
  } catch (const std::bad_alloc&) {
    // It was for people to read.
  }
}

CufileHandle* CufileEngine::file_of(Piece& piece) {
  {
    std::lock_guard lock(mutex_);
    if (piece.job->file != nullptr) return piece.job->file.get();
  }
  Failure failure;
  std::shared_ptr<CufileHandle> file = CufileDriver::instance().register_file(piece.job->request->fd, failure);
  if (file == nullptr) {
    CufileDriver::instance().note(failure);
    piece.error = failure.code.rfind("EBADF", 0) == 0 ? EBADF : EOPNOTSUPP;
    return nullptr;
  }
  std::lock_guard lock(mutex_);
  // Of two pieces that came here at once both got the same one.
  if (piece.job->file == nullptr) piece.job->file = std::move(file);
  return piece.job->file.get();
}

bool CufileEngine::make_current(Piece& piece) {
  if (piece.device == current_device) return true;
  Failure failure;
  if (!devices_->make_current(piece.device, failure)) {
    CufileDriver::instance().note(failure);
    piece.error = EIO;
    current_device = -1;
    return false;
  }
  current_device = piece.device;
  return true;
}

// One call. Bytes, or -errno.
int64_t CufileEngine::move_device(Piece& piece, size_t most) {
  const bool reading = piece.job->reading();
  CufileHandle* const file = file_of(piece);
  if (file == nullptr || !make_current(piece)) return -piece.error;
  // The address is moved, and the offset in the buffer is 0: not every way through the library minds it.
  void* const address = piece.address + piece.moved;
  const auto place = static_cast<off_t>(piece.offset + piece.moved);
  const ssize_t moved = reading ? api_->read(file->get(), address, most, place, 0) : api_->write(file->get(), address, most, place, 0);
  if (moved >= 0) return moved;
  const int error = moved == -1 ? errno : static_cast<int>(-moved);
  if (error == EINTR || error == EAGAIN) return -error;
  note_failure(piece, reading ? "cuFileRead of" : "cuFileWrite of", error == 0 ? EIO : error);
  return -errno_of(error == 0 ? EIO : error);
}

void CufileEngine::move_now(Piece& piece) {
  const bool reading = piece.job->reading();
  const IoRequest& request = *piece.job->request;
  unsigned tries = 0;
  while (piece.moved < piece.length && piece.error == 0) {
    {
      std::lock_guard lock(mutex_);
      if (piece.job->cancelled) piece.error = ECANCELED;
    }
    if (piece.error != 0) return;
    const size_t rest = piece.length - piece.moved;
    size_t most = std::min(rest, call_bytes_max);
    int64_t moved;
    if (piece.device >= 0) {
      moved = move_device(piece, most);
      if (piece.error != 0) return;
    } else {
      const iovec iov = {piece.address + piece.moved, rest};
      const auto move = reading ? file_io::read_all : file_io::write_all;
      moved = move(request.fd, &iov, 1, piece.offset + piece.moved, is_direct(request.fd), request.name, {});
      most = rest;
    }
    if (const fault::Strike strike = fault::ask("cufile.complete", request.name); strike.hit) {
      if (strike.hang) fault::wait_released(strike);
      if (strike.error != 0) moved = -strike.error;
      else if (strike.short_bytes >= 0) moved = std::min(moved, strike.short_bytes);
    }
    if ((moved == -EINTR || moved == -EAGAIN) && ++tries <= tries_max) continue;
    if (moved < 0) {
      piece.error = static_cast<int>(-moved);
    } else if (moved == 0) {
      // A read: the end of the file. A write that moves nothing and reports no error would be repeated for ever.
      if (!reading) piece.error = EIO;
      return;
    } else if (static_cast<size_t>(moved) > most) {
      note_failure(piece, "more bytes moved than asked for:", EIO);
      piece.error = EIO;
    } else {
      tries = 0;
      piece.moved += static_cast<size_t>(moved);
      // What read_all() answers is short at the end of the file alone.
      if (piece.device < 0 && reading) return;
    }
  }
}

}  // namespace hicache::cufile
