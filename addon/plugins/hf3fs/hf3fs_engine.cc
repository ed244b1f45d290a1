#include "plugins/hf3fs/hf3fs_engine.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "agent/memory_registry.h"
#include "engine/engine_base.h"
#include "plugins/hf3fs/registered_file.h"
#include "plugins/hf3fs/shared_arena.h"
#include "util/fault.h"
#include "util/unique_fd.h"

namespace hicache::hf3fs {
namespace {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using std::chrono::milliseconds;
using engines::Fifo;
using Lock = std::unique_lock<std::mutex>;

constexpr size_t piece_bytes_max = 0x7ffff000;
constexpr size_t slot_bytes_min = 65536;
constexpr unsigned depth_max = 32768;
constexpr unsigned slots_max = 1 << 20;
// A waiting thread looks up this often: for deadlines, and for the end.
constexpr milliseconds slice{50}, soonest{5};
constexpr milliseconds stall{1};
constexpr unsigned stalls_max = 2000;
constexpr unsigned reads_in_a_row = 16;
constexpr unsigned unsubmitted_max = 8;
constexpr unsigned reaped_at_once = 64;
constexpr uint8_t tries_max = 16;
constexpr unsigned failed_waits_max = 16;
// How long the end of an engine waits for its threads. One that is stuck in the library is left behind, with all that it uses.
constexpr milliseconds farewell{3000};

// What an engine knows of a request, from submit() until it is handed back.
struct Job {
  IoRequest* request = nullptr;
  bool reading = false;
  size_t bytes = 0;
  std::shared_ptr<SharedArena> arena;    // of the first buffer, when it goes without a copy
  std::shared_ptr<RegisteredFile> file;  // since its first piece
  size_t cut = 0;                        // of its bytes, how many are in pieces or through
  size_t end = 0;                        // where the first gap begins: the end of the file
  unsigned pieces = 0;                   // cut and not through
  int error = 0;
  bool closed = false;  // no more pieces
  bool cancelled = false;
  fault::Strike withheld{};  // a planned hang: it is not handed back while that is in force

  bool over() const { return pieces == 0 && (closed || cut == bytes); }
  bool direct_at(size_t position) const { return arena != nullptr && position < request->iov[0].iov_len; }
};

// A part of a request, as one entry of a ring.
struct Piece {
  enum class State : uint8_t { free, here, again, in_ring };

  State state = State::free;  // here: one of the threads is at work with it
  Job* job = nullptr;         // nullptr: given up, its request was handed back, and its slot is in quarantine
  size_t position = 0;        // in the request's bytes
  size_t length = 0, done = 0;
  uint8_t* memory = nullptr;
  int slot = -1;     // -1: without a copy
  bool late = false;  // given up or out of time: at `hangs_at` its ring is ended
  uint8_t tries = 0, renewals = 0;
  uint64_t number = 0;  // what the completion brings
  Time deadline, hangs_at;
};

struct Ring {
  enum class State : uint8_t { ready, ending, gone, wanted };

  bool reading = false;
  Ior ior{};
  State state = State::gone;
  std::vector<Piece> pieces;
  std::vector<uint32_t> free;
  std::vector<uint32_t> again;  // to be prepared once more, before what waits; the last one first
  Fifo waiting;                // requests that are not all cut
  std::condition_variable asked;  // for its waiting thread
  unsigned in_ring = 0, unsubmitted = 0, stalls = 0, failed_submits = 0, failed_waits = 0;
  bool full = false;    // until something was reaped
  bool broken = false;  // the library fails: it is to be ended
  bool renewed = false;  // once already, and nothing has completed since
  uint32_t serial = 0;
  Time not_before{}, next_look{}, retry_at{};
};

timespec real_time_in(milliseconds from_now) {
  timespec at;
  ::clock_gettime(CLOCK_REALTIME, &at);
  const auto nanoseconds = at.tv_nsec + from_now.count() % 1000 * 1'000'000;
  at.tv_sec += from_now.count() / 1000 + nanoseconds / 1'000'000'000;
  at.tv_nsec = nanoseconds % 1'000'000'000;
  return at;
}

// The library is C++: what it throws stays here.
template <typename Call>
int guarded(Call&& call) {
  try {
    return call();
  } catch (...) {
    return -EIO;
  }
}

// All that the threads share. It lives as long as the last of them.
class Core : public std::enable_shared_from_this<Core> {
 public:
  Core(const Api& api, const Options& options) : api_(api), options_(options) {}
  ~Core() {
    // Where no thread ever ran. Else the last of them has done it.
    for (Ring& ring : rings_) end_ring(ring);
    if (staging_.handle != nullptr) api_.iovdestroy(&staging_);
  }

  bool open(std::string& reason, std::string& remedy);
  void stop();

  int event_fd() const { return event_fd_.get(); }
  const std::string& mount() const { return mount_; }
  const Options& options() const { return options_; }
  void wake() { ::eventfd_write(event_fd_.get(), 1); }

  // ---- for the agent's thread ----
  void take(Fifo& requests) {
    std::lock_guard lock(mutex_);
    while (IoRequest* const request = requests.pop_front()) ring_of(request).waiting.push_back(request);
    work_.notify_one();
  }
  Fifo done() {
    std::lock_guard lock(mutex_);
    return std::exchange(done_, {});
  }
  // False when nothing of it is under way, and it is the caller's again.
  bool cancel(IoRequest* request) {
    std::lock_guard lock(mutex_);
    Job& job = job_of(request);
    if (job.over() || job.cancelled) return true;
    if (job.cut == 0 && ring_of(request).waiting.remove(request)) return false;
    if (job.pieces == 0) {
      close(ring_of(request), job, ECANCELED);
      if_over(job);
    } else {
      job.cancelled = any_cancelled_ = true;
    }
    work_.notify_one();
    return true;
  }
  void count_not_shared() {
    std::lock_guard lock(mutex_);
    counters_.not_shared++;
  }
  Counters counters() const {
    std::lock_guard lock(mutex_);
    return counters_;
  }

 private:
  static Job& job_of(const IoRequest* request) { return *static_cast<Job*>(request->engine_slot); }
  Ring& ring_of(const IoRequest* request) { return rings_[request->kind == IoRequest::Kind::read ? 0 : 1]; }

  int make_ring(Ring& ring);
  void end_ring(Ring& ring);
  bool start_thread(void (Core::*run)(), std::string& reason, std::string& remedy);
  void thread_ends();

  // All with the mutex held; those that take the lock let go of it meanwhile.
  void prepare_and_submit();
  Ring* ring_with_work(Time now, Time& next);
  void go_on_with(Ring& ring, Lock& lock);
  void prepare(Ring& ring, uint32_t index);
  void submit(Ring& ring);
  void wait_for_reads() { wait_for(rings_[0]); }
  void wait_for_writes() { wait_for(rings_[1]); }
  void wait_for(Ring& ring);
  void arrived(Ring& ring, const Cqe& cqe, Lock& lock);
  void look_at_deadlines(Ring& ring);
  void renew(Ring& ring, Lock& lock);
  void fail_all(Ring& ring, int error);
  void close(Ring& ring, Job& job, int error);
  void give_up(Ring& ring, Job& job, int error);
  void give_up_cancelled();
  void piece_ends(Ring& ring, uint32_t index);
  void let_go(Ring& ring, uint32_t index);
  void if_over(Job& job);
  void hand_back(Lock& lock);
  bool copy(const Piece& piece, size_t count) const;

  const Api& api_;
  const Options options_;
  std::string mount_;
  UniqueFd event_fd_;
  size_t slot_bytes_ = 0;
  Iov staging_{};

  mutable std::mutex mutex_;
  std::condition_variable work_, ended_;
  std::array<Ring, 2> rings_;
  std::vector<uint32_t> free_slots_;
  Fifo over_;  // finished, their registrations still to be let go
  Fifo done_;  // finished, for the agent's thread
  Counters counters_;
  unsigned threads_ = 0, reads_taken_ = 0;
  bool any_cancelled_ = false, stop_ = false;
};

// ---- beginning and end ----

bool Core::open(std::string& reason, std::string& remedy) {
  mount_ = mount_point_of(api_, options_.mount_point, reason);
  if (mount_.empty()) {
    remedy = "name the directory where 3FS is mounted as plugin.3fs.mount_point, and look whether its daemon (hf3fs_fuse_main) runs";
    return false;
  }
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) {
    reason = "eventfd: " + engines::describe_errno(errno);
    remedy = "Raise the limit of open files (ulimit -n).";
    return false;
  }
  event_fd_ = UniqueFd(fd);

  unsigned slots = std::clamp(options_.iopool_size, 1u, slots_max);
  slot_bytes_ = std::max<size_t>(options_.slot_bytes, 1);
  if (slots > options_.staging_bytes_max / slot_bytes_) {
    slot_bytes_ = std::max(options_.staging_bytes_max / slots / 4096 * 4096, std::min(slot_bytes_, slot_bytes_min));
    slots = static_cast<unsigned>(std::clamp<size_t>(options_.staging_bytes_max / slot_bytes_, 1, slots));
  }
  // The whole of it is one block: slots end nowhere near the end of one.
  constexpr size_t one_block = 0;
  const size_t bytes = slots * slot_bytes_;
  if (const int failed = guarded([&] { return api_.iovcreate(&staging_, mount_.c_str(), bytes, one_block, any_numa_node); }); failed != 0) {
    staging_ = {};
    reason = "3FS gives no shared memory of " + std::to_string(bytes) + " bytes for staging (hf3fs_iovcreate at " + mount_ + "): " + engines::describe_errno(-failed);
    remedy = "look whether 3fs-virt/iovs of the mount can be written, whether /dev/shm has that much room, and whether memory may be locked (ulimit -l); a smaller iopool_size takes less";
    return false;
  }
  free_slots_.reserve(slots);
  for (unsigned i = slots; i-- > 0;) free_slots_.push_back(i);

  const unsigned depth = std::clamp(options_.queue_depth, 1u, depth_max);
  rings_[0].reading = true;
  for (Ring& ring : rings_) {
    ring.pieces.resize(depth);
    // So that no thread ever needs memory.
    ring.free.reserve(depth);
    ring.again.reserve(depth);
    for (unsigned i = depth; i-- > 0;) ring.free.push_back(i);
    if (const int failed = make_ring(ring); failed != 0) {
      reason = std::string("3FS gives no ring of ").append(std::to_string(depth)).append(" entries (hf3fs_iorcreate at ").append(mount_).append("): ");
      reason += engines::describe_errno(-failed);
      remedy = "look whether 3fs-virt/iovs of the mount can be written, and whether its daemon allows more rings";
      return false;
    }
    ring.state = Ring::State::ready;
  }
  // One that has begun holds the core, and ends with stop().
  const bool all = start_thread(&Core::prepare_and_submit, reason, remedy) && start_thread(&Core::wait_for_reads, reason, remedy) && start_thread(&Core::wait_for_writes, reason, remedy);
  if (!all) stop();
  return all;
}

int Core::make_ring(Ring& ring) {
  const int entries = static_cast<int>(ring.pieces.size());
  const int failed = guarded([&] { return api_.create_ring(ring.ior, mount_, entries, ring.reading); });
  if (failed != 0) {
    ring.ior = {};
    return failed;
  }
  if (api_.io_entries(&ring.ior) >= entries) return 0;
  end_ring(ring);
  return -ENOBUFS;
}

void Core::end_ring(Ring& ring) {
  if (ring.ior.handle == nullptr) return;
  guarded([&] {
    api_.iordestroy(&ring.ior);
    return 0;
  });
  ring.ior = {};
}

bool Core::start_thread(void (Core::*run)(), std::string& reason, std::string& remedy) {
  // The host's signal handlers have no business on this thread.
  sigset_t all, former;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &former);
  int error = 0;
  {
    std::lock_guard lock(mutex_);
    threads_++;
  }
  try {
    std::thread([self = shared_from_this(), run] {
      (self.get()->*run)();
      self->thread_ends();
    }).detach();
  } catch (const std::system_error& failure) {
    error = failure.code().value();
    std::lock_guard lock(mutex_);
    threads_--;
  }
  pthread_sigmask(SIG_SETMASK, &former, nullptr);
  if (error == 0) return true;
  reason = "starting a thread for usrbio: " + engines::describe_errno(error);
  remedy = "Raise the limit of threads (ulimit -u, the cgroup's pids.max) or the memory of the cgroup.";
  return false;
}

void Core::thread_ends() {
  Lock lock(mutex_);
  if (threads_ == 1) {
    // The last one. Nobody is on a ring any more.
    lock.unlock();
    for (Ring& ring : rings_) end_ring(ring);
    if (staging_.handle != nullptr) api_.iovdestroy(&staging_);
    staging_ = {};
    lock.lock();
  }
  threads_--;
  ended_.notify_all();
}

void Core::stop() {
  Lock lock(mutex_);
  stop_ = true;
  work_.notify_all();
  for (Ring& ring : rings_) ring.asked.notify_all();
  ended_.wait_for(lock, farewell, [&] { return threads_ == 0; });
}

// ---- the thread that prepares and submits ----

void Core::prepare_and_submit() {
  Lock lock(mutex_);
  while (!stop_) {
    if (any_cancelled_) give_up_cancelled();
    const Time now = Clock::now();
    Time next = Time::max();
    Ring* const ring = ring_with_work(now, next);
    if (ring != nullptr) go_on_with(*ring, lock);
    else {
      for (Ring& one : rings_) submit(one);
    }
    hand_back(lock);
    if (ring != nullptr || stop_ || any_cancelled_) continue;
    // What happened while the lock was let go is seen now.
    next = Time::max();
    if (ring_with_work(Clock::now(), next) != nullptr || !over_.empty()) continue;
    for (const Ring& one : rings_) {
      if (one.unsubmitted > 0 && one.state == Ring::State::ready) next = std::min(next, Clock::now() + stall);
    }
    if (next == Time::max()) work_.wait(lock);
    else work_.wait_until(lock, next);
  }
}

// The ring for whose direction something can be done now. `next`: when there may be something for one that was refused.
Ring* Core::ring_with_work(Time now, Time& next) {
  const auto can = [&](Ring& ring) {
    const bool some = !ring.again.empty() || !ring.waiting.empty();
    if (!some) return false;
    if (ring.state == Ring::State::gone) {
      if (now < ring.retry_at) {
        // Nothing waits for a file system that does not answer.
        fail_all(ring, ETIMEDOUT);
        return false;
      }
      ring.state = Ring::State::wanted;
      ring.asked.notify_one();
    }
    if (ring.state != Ring::State::ready || ring.broken || ring.full) return false;
    if (now < ring.not_before) {
      next = std::min(next, ring.not_before);
      return false;
    }
    if (!ring.again.empty()) return true;
    if (ring.free.empty()) return false;
    IoRequest* const first = ring.waiting.pop_front();
    ring.waiting.push_front(first);
    const Job& job = job_of(first);
    return job.direct_at(job.cut) || !free_slots_.empty();
  };
  const bool read = can(rings_[0]), write = can(rings_[1]);
  if (!read && !write) return nullptr;
  // Reads go first, for somebody waits for them; one write goes after so many.
  const bool reads = read && (!write || reads_taken_ < reads_in_a_row);
  reads_taken_ = reads && write ? reads_taken_ + 1 : 0;
  return &rings_[reads ? 0 : 1];
}

void Core::go_on_with(Ring& ring, Lock& lock) {
  if (!ring.again.empty()) {
    const uint32_t index = ring.again.back();
    ring.again.pop_back();
    return prepare(ring, index);
  }
  IoRequest* const request = ring.waiting.pop_front();
  Job& job = job_of(request);
  const uint32_t index = ring.free.back();
  ring.free.pop_back();
  Piece& piece = ring.pieces[index];
  piece = {};
  piece.state = Piece::State::here;
  piece.job = &job;
  piece.position = job.cut;
  if (job.direct_at(job.cut)) {
    piece.memory = static_cast<uint8_t*>(request->iov[0].iov_base) + job.cut;
    piece.length = std::min(request->iov[0].iov_len - job.cut, piece_bytes_max);
    if (const size_t block = job.arena->block_bytes(); block != 0) {
      const auto offset = static_cast<size_t>(piece.memory - job.arena->base());
      piece.length = std::min(piece.length, block - offset % block);
    }
    counters_.zero_copy++;
  } else {
    piece.slot = static_cast<int>(free_slots_.back());
    free_slots_.pop_back();
    piece.memory = staging_.base + static_cast<size_t>(piece.slot) * slot_bytes_;
    piece.length = std::min(job.bytes - job.cut, slot_bytes_);
    counters_.staged++;
  }
  job.cut += piece.length;
  job.pieces++;
  if (job.cut < job.bytes) ring.waiting.push_front(request);

  const bool copies = piece.slot >= 0 && !job.reading;
  if (copies || job.file == nullptr) {
    // What is prepared shall not wait for this.
    submit(ring);
    lock.unlock();
    int error = 0;
    if (job.file == nullptr) job.file = register_file(request->fd, error);
    if (error == 0 && copies && !copy(piece, piece.length)) error = ECANCELED;
    lock.lock();
    if (error != 0) close(ring, job, error);
  }
  prepare(ring, index);
}

void Core::prepare(Ring& ring, uint32_t index) {
  Piece& piece = ring.pieces[index];
  Job& job = *piece.job;
  if (job.error != 0 || job.cancelled) {
    if (job.error == 0) close(ring, job, ECANCELED);
    return piece_ends(ring, index);
  }
  if (ring.state != Ring::State::ready) {
    // The ring was ended meanwhile.
    piece.state = Piece::State::again;
    ring.again.push_back(index);
    return;
  }
  const IoRequest& request = *job.request;
  piece.number = static_cast<uint64_t>(++ring.serial) << 32 | index;
  piece.deadline = Clock::now() + milliseconds(options_.timeout_ms);
  const Iov& iov = piece.slot >= 0 ? staging_ : job.arena->iov();
  // It may begin, and even be through, before this returns; its waiting thread then waits for the mutex.
  const int said = guarded([&] {
    return api_.prep_io(&ring.ior, &iov, ring.reading, piece.memory + piece.done, request.fd, request.offset + piece.position + piece.done, piece.length - piece.done,
                        reinterpret_cast<const void*>(piece.number));
  });
  if (said == -EAGAIN && ring.stalls < stalls_max) {
    piece.state = Piece::State::again;
    ring.again.push_back(index);
    // Something in the ring is reaped, and makes room. A ring that is full of nothing gets some time.
    ring.full = ring.in_ring > 0;
    if (!ring.full) {
      ring.stalls++;
      ring.not_before = Clock::now() + stall;
    }
    submit(ring);
    return;
  }
  if (said < 0) {
    close(ring, job, -said);
    return piece_ends(ring, index);
  }
  ring.stalls = 0;
  piece.state = Piece::State::in_ring;
  if (ring.in_ring++ == 0) {
    ring.next_look = Clock::now();
    ring.asked.notify_one();
  }
  if (++ring.unsubmitted >= unsubmitted_max) submit(ring);
}

void Core::submit(Ring& ring) {
  if (ring.unsubmitted == 0 || ring.state != Ring::State::ready) return;
  const int failed = guarded([&] { return api_.submit_ios(&ring.ior); });
  if (failed >= 0) {
    ring.unsubmitted = ring.failed_submits = 0;
    return;
  }
  // What is prepared may be under way all the same, so it cannot be handed back: tried again, and at last the ring is ended.
  if (++ring.failed_submits < failed_waits_max) return;
  ring.broken = true;
  ring.asked.notify_one();
}

// ---- the threads that wait ----

void Core::wait_for(Ring& ring) {
  std::vector<Cqe> cqes(reaped_at_once);
  Lock lock(mutex_);
  while (!stop_) {
    if (ring.state == Ring::State::wanted) {
      lock.unlock();
      const int failed = make_ring(ring);
      lock.lock();
      ring.state = failed == 0 ? Ring::State::ready : Ring::State::gone;
      ring.retry_at = Clock::now() + milliseconds(options_.retry_ms);
      work_.notify_one();
      continue;
    }
    if (ring.broken) {
      renew(ring, lock);
      continue;
    }
    if (ring.in_ring == 0) {
      ring.asked.wait(lock);
      continue;
    }
    const Time now = Clock::now();
    const auto until_look = std::chrono::ceil<milliseconds>(ring.next_look - now);
    const timespec deadline = real_time_in(std::clamp(until_look, soonest, slice));
    lock.unlock();
    const int count = guarded([&] { return api_.wait_for_ios(&ring.ior, cqes.data(), static_cast<int>(cqes.size()), 1, &deadline); });
    lock.lock();
    if (count < 0 && count != -EINTR && count != -EAGAIN && count != -ETIMEDOUT) {
      if (++ring.failed_waits >= failed_waits_max) ring.broken = true;
      else ring.asked.wait_for(lock, stall);
    } else {
      ring.failed_waits = 0;
    }
    for (int i = 0; i < std::min(count, static_cast<int>(cqes.size())); i++) arrived(ring, cqes[static_cast<size_t>(i)], lock);
    look_at_deadlines(ring);
    hand_back(lock);
    work_.notify_one();
  }
}

void Core::arrived(Ring& ring, const Cqe& cqe, Lock& lock) {
  const auto number = reinterpret_cast<uint64_t>(cqe.userdata);
  const auto index = static_cast<uint32_t>(number);
  if (index >= ring.pieces.size() || ring.pieces[index].state != Piece::State::in_ring || ring.pieces[index].number != number) {
    counters_.strange++;
    return;
  }
  Piece& piece = ring.pieces[index];
  piece.state = Piece::State::here;
  ring.in_ring--;
  ring.full = ring.renewed = false;
  ring.stalls = 0;
  if (piece.job == nullptr) {
    counters_.quarantined--;
    return let_go(ring, index);
  }
  Job& job = *piece.job;
  int64_t result = cqe.result;
  if (const fault::Strike strike = fault::ask("usrbio.complete", job.request->name); strike.hit) {
    if (strike.error != 0) result = -strike.error;
    else if (strike.short_bytes >= 0) result = std::min(result, strike.short_bytes);
    if (strike.hang) job.withheld = strike;
  }
  const size_t asked = piece.length - piece.done;
  const bool retry = (result == -EINTR || result == -EAGAIN) && piece.tries < tries_max;
  if (retry) {
    piece.tries++;
  } else if (result < 0) {
    close(ring, job, static_cast<int>(std::min<int64_t>(-result, 4095)));
  } else if (static_cast<uint64_t>(result) > asked || (result == 0 && !job.reading)) {
    // More than was asked for is nonsense, and a write that moves nothing would be repeated for ever.
    close(ring, job, EIO);
  } else {
    piece.tries = 0;
    piece.done += static_cast<size_t>(result);
  }
  const bool unfinished = retry || (result > 0 && piece.done < piece.length);
  if (unfinished && job.error == 0 && !job.cancelled) {
    // Ahead of what waits: its submitter has waited longest.
    piece.state = Piece::State::again;
    ring.again.push_back(index);
    return;
  }
  if (job.error == 0 && result == 0) {
    job.end = std::min(job.end, piece.position + piece.done);
    close(ring, job, 0);
  }
  if (job.error == 0 && job.reading && piece.slot >= 0 && piece.done > 0) {
    lock.unlock();
    const bool copied = copy(piece, piece.done);
    lock.lock();
    if (!copied) close(ring, job, ECANCELED);
  }
  if (job.cancelled && unfinished) close(ring, job, ECANCELED);
  piece_ends(ring, index);
}

void Core::look_at_deadlines(Ring& ring) {
  const Time now = Clock::now();
  if (now < ring.next_look) return;
  ring.next_look = now + slice;
  for (size_t i = 0; i < ring.pieces.size(); i++) {
    const Piece& piece = ring.pieces[i];
    if (piece.state != Piece::State::in_ring) continue;
    if (!piece.late && now >= piece.deadline) {
      counters_.timed_out++;
      give_up(ring, *piece.job, ETIMEDOUT);
    }
    if (piece.late && now >= piece.hangs_at) ring.broken = true;
    ring.next_look = std::min(ring.next_look, piece.late ? piece.hangs_at : piece.deadline);
  }
}

// Ends the ring, after which nobody over there uses what its requests name, and makes it anew; when that was so before and nothing has completed since, not at once.
void Core::renew(Ring& ring, Lock& lock) {
  ring.state = Ring::State::ending;
  const bool again = ring.renewed;
  counters_.renewed++;
  lock.unlock();
  end_ring(ring);
  lock.lock();
  ring.renewed = true;
  ring.broken = ring.full = false;
  ring.in_ring = ring.unsubmitted = ring.stalls = ring.failed_submits = ring.failed_waits = 0;
  for (uint32_t i = 0; i < ring.pieces.size(); i++) {
    Piece& piece = ring.pieces[i];
    if (piece.state != Piece::State::in_ring) continue;
    piece.state = Piece::State::here;
    if (piece.job == nullptr) {
      counters_.quarantined--;
      let_go(ring, i);
    } else if (piece.job->error != 0 || piece.job->cancelled || piece.renewals > 0) {
      close(ring, *piece.job, piece.job->cancelled ? ECANCELED : ETIMEDOUT);
      piece_ends(ring, i);
    } else {
      // Its own fault it was not: whatever was moved already is moved once more, to and from the same places.
      piece.renewals++;
      piece.late = false;
      piece.state = Piece::State::again;
      ring.again.push_back(i);
    }
  }
  ring.state = again ? Ring::State::gone : Ring::State::wanted;
  ring.retry_at = Clock::now() + milliseconds(options_.retry_ms);
  hand_back(lock);
  work_.notify_one();
}

void Core::fail_all(Ring& ring, int error) {
  while (!ring.again.empty()) {
    const uint32_t index = ring.again.back();
    ring.again.pop_back();
    close(ring, *ring.pieces[index].job, error);
    piece_ends(ring, index);
  }
  while (IoRequest* const request = ring.waiting.pop_front()) {
    Job& job = job_of(request);
    job.closed = true;
    job.error = job.error == 0 ? error : job.error;
    if_over(job);
  }
}

// No more pieces are cut of it; with an error it fails by the first one.
void Core::close(Ring& ring, Job& job, int error) {
  if (job.error == 0) job.error = error;
  if (!job.closed && job.cut < job.bytes) ring.waiting.remove(job.request);
  job.closed = true;
}

// Out of time, or cancelled. What only touches memory of our own is left behind; for the rest the ring gets some time, and is ended then.
void Core::give_up(Ring& ring, Job& job, int error) {
  const Time hangs_at = Clock::now() + milliseconds(options_.grace_ms);
  close(ring, job, error);
  job.pieces++;  // not over in the midst of this
  for (uint32_t i = 0; i < ring.pieces.size(); i++) {
    Piece& piece = ring.pieces[i];
    if (piece.job != &job) continue;
    if (piece.state == Piece::State::again) {
      std::erase(ring.again, i);
      piece_ends(ring, i);
    } else if (piece.state == Piece::State::in_ring) {
      if (!piece.late) piece.hangs_at = hangs_at;
      piece.late = true;
      if (piece.slot < 0 || !job.reading) continue;
      piece.job = nullptr;
      job.pieces--;
      counters_.quarantined++;
    }
  }
  job.pieces--;
  if_over(job);
}

void Core::give_up_cancelled() {
  any_cancelled_ = false;
  for (Ring& ring : rings_) {
    for (Piece& piece : ring.pieces) {
      if (piece.state != Piece::State::free && piece.job != nullptr && piece.job->cancelled && !piece.late) give_up(ring, *piece.job, ECANCELED);
    }
  }
}

void Core::let_go(Ring& ring, uint32_t index) {
  Piece& piece = ring.pieces[index];
  if (piece.slot >= 0) free_slots_.push_back(static_cast<uint32_t>(piece.slot));
  piece.state = Piece::State::free;
  piece.job = nullptr;
  ring.free.push_back(index);
}

void Core::piece_ends(Ring& ring, uint32_t index) {
  Job& job = *ring.pieces[index].job;
  let_go(ring, index);
  job.pieces--;
  if_over(job);
}

void Core::if_over(Job& job) {
  if (!job.over()) return;
  job.request->result = job.error != 0 ? -job.error : static_cast<int64_t>(job.end);
  over_.push_back(job.request);
}

// Descriptors are let go before the requests are handed back, after which they may be closed.
void Core::hand_back(Lock& lock) {
  if (over_.empty()) return;
  Fifo over = std::exchange(over_, {});
  lock.unlock();
  Fifo released;
  while (IoRequest* const request = over.pop_front()) {
    Job& job = job_of(request);
    job.file.reset();
    job.arena.reset();
    released.push_back(request);
  }
  lock.lock();
  while (IoRequest* const request = released.pop_front()) done_.push_back(request);
  wake();
}

// Between the piece's slot and the request's memory. False when that memory has ended.
bool Core::copy(const Piece& piece, size_t count) const {
  const IoRequest& request = *piece.job->request;
  const bool out = piece.job->reading;
  size_t skip = piece.position;
  uint8_t* staged = piece.memory;
  for (int i = 0; i < request.iov_count && count > 0; i++) {
    const iovec& iov = request.iov[i];
    const size_t part = skip < iov.iov_len ? std::min(iov.iov_len - skip, count) : 0;
    if (part > 0) {
      auto* const own = static_cast<uint8_t*>(iov.iov_base) + skip;
      const auto move = [&] { std::memcpy(out ? own : staged, out ? staged : own, part); };
      // The gate counts who is inside; the region itself is not changed.
      auto* const region = i == 0 ? const_cast<Region*>(request.region) : nullptr;
      if (region == nullptr) move();
      else if (!region->gate.touch(move)) return false;
    }
    skip -= std::min(skip, iov.iov_len);
    staged += part;
    count -= part;
  }
  return true;
}

// ---- the agent's side ----

class EngineOfRings final : public Hf3fsEngine {
 public:
  explicit EngineOfRings(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  ~EngineOfRings() override {
    assert(in_flight_ == 0);
    fault::forget(core_->event_fd());
    core_->stop();
  }

  const char* name() const override { return "3fs"; }
  int event_fd() const override { return core_->event_fd(); }
  size_t in_flight() const override { return in_flight_; }
  Counters counters() const override { return core_->counters(); }
  const std::string& mount_point() const override { return core_->mount(); }

  void submit(IoRequest* request) override {
    in_flight_++;
    request->result = 0;
    request->engine_slot = nullptr;
    const Region* const region = request->region;
    if (request->bytes() == 0) return finished_.push_back(request);
    if (region != nullptr && region->kind == MemoryKind::device) {
      request->result = -EOPNOTSUPP;
      return finished_.push_back(request);
    }
    auto* const job = new (std::nothrow) Job;
    if (job == nullptr) {
      request->result = -ENOMEM;
      return finished_.push_back(request);
    }
    job->request = request;
    job->reading = request->kind == IoRequest::Kind::read;
    job->bytes = job->end = request->bytes();
    const MemConfig config = core_->options().mem_config;
    if (config != MemConfig::dram && region != nullptr && region->kind == MemoryKind::shared) {
      job->arena = SharedArena::find_around(request->iov[0].iov_base, request->iov[0].iov_len);
      // Of another mount: its side does not know the memory.
      if (job->arena != nullptr && job->arena->mount_point() != core_->mount()) job->arena.reset();
    }
    if (config == MemConfig::dram_zc && job->arena == nullptr) core_->count_not_shared();
    request->engine_slot = job;
    taken_.push_back(request);
  }

  void flush(Sink& sink) override {
    if (!taken_.empty()) core_->take(taken_);
    deliver(sink);
  }

  void reap(Sink& sink) override {
    eventfd_t count;
    ::eventfd_read(core_->event_fd(), &count);
    for (Fifo requests : {std::exchange(withheld_, {}), core_->done()}) {
      while (IoRequest* const request = requests.pop_front()) {
        const fault::Strike& strike = static_cast<const Job*>(request->engine_slot)->withheld;
        if (!strike.hang || fault::released(strike)) {
          finished_.push_back(request);
          continue;
        }
        withheld_.push_back(request);
        fault::wake_when_released(strike, core_->event_fd());
      }
    }
    flush(sink);
  }

  bool wait(Sink& sink, int timeout_ms) override {
    const auto deadline = Clock::now() + milliseconds(std::max(timeout_ms, 0));
    const uint64_t before = delivered_;
    for (;;) {
      reap(sink);
      if (delivered_ != before) return true;
      if (in_flight_ == 0) return false;
      int left_ms = -1;
      if (timeout_ms >= 0) {
        left_ms = static_cast<int>(std::chrono::ceil<milliseconds>(deadline - Clock::now()).count());
        if (left_ms <= 0) return false;
      }
      pollfd event{core_->event_fd(), POLLIN, 0};
      ::poll(&event, 1, left_ms);
    }
  }

  void cancel(IoRequest* request, Sink& sink) override {
    if (request->engine_slot == nullptr) return;
    if (!taken_.remove(request) && core_->cancel(request)) return;
    request->result = -ECANCELED;
    finished_.push_back(request);
    deliver(sink);
  }

 private:
  void deliver(Sink& sink) {
    // The sink may submit, flush and cancel, which lead back here: the outermost loop delivers for all.
    if (delivering_) return;
    delivering_ = true;
    while (IoRequest* const request = finished_.pop_front()) {
      delete static_cast<Job*>(std::exchange(request->engine_slot, nullptr));
      in_flight_--;
      delivered_++;
      sink.completed(request);
    }
    delivering_ = false;
  }

  const std::shared_ptr<Core> core_;
  Fifo taken_;     // until flush()
  Fifo withheld_;  // until a planned hang is released
  Fifo finished_;  // to be delivered
  size_t in_flight_ = 0;
  uint64_t delivered_ = 0;
  bool delivering_ = false;
};

}  // namespace

std::unique_ptr<Hf3fsEngine> try_create_engine(const Options& options, std::string& reason, std::string& remedy) {
  Refusal refusal;
  const Api* const api = load(refusal);
  if (api == nullptr) {
    reason = refusal.reason;
    remedy = refusal.remedy;
    return nullptr;
  }
  auto core = std::make_shared<Core>(*api, options);
  if (!core->open(reason, remedy)) return nullptr;
  return std::make_unique<EngineOfRings>(std::move(core));
}

}  // namespace hicache::hf3fs
