// io_uring, by raw system calls: Linux 5.6 or newer (IORING_OP_READ and WRITE, IORING_REGISTER_PROBE).
//
// Used where the kernel has it: IORING_SETUP_SUBMIT_ALL (5.18: one bad entry does not end a submission) and
// COOP_TASKRUN (5.19: spares the submitter an inter-processor interrupt a completion; the work is done when it next
// enters the kernel, at the latest in the poll that waits for the eventfd). Not used: SQPOLL (a busy core),
// SINGLE_ISSUER and DEFER_TASKRUN (6.0, 6.1: only the creating thread may enter, but what is left at the end of a
// worker is handed to a reaper thread), registered ring descriptors (5.18, per thread likewise), TASKRUN_FLAG (5.19:
// reap() enters the kernel anyway, and the flag stays up, to no avail, for work that belongs to a thread that has
// ended: seen).

#include <linux/io_uring.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "engine/engine_base.h"
#include "util/fault.h"
#include "util/unique_fd.h"

namespace hicache {

namespace {

using engines::EngineBase;
using engines::Slot;

// Newer than some headers that this shall compile with.
constexpr uint32_t setup_submit_all = 1u << 7, setup_coop_taskrun = 1u << 8;
constexpr uint32_t sq_cq_overflow = 1u << 1;  // 5.8

// Completions that belong to no slot: the NOP of the trial and cancellations.
constexpr uint64_t nobody = ~uint64_t{0};

class Mapping {
 public:
  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (base_ != nullptr) munmap(base_, length_);
  }
  // 0 or errno.
  int map(int fd, size_t length, uint64_t offset) {
    const int flags = MAP_SHARED | MAP_POPULATE;
    void* base = mmap(nullptr, length, PROT_READ | PROT_WRITE, flags, fd, static_cast<off_t>(offset));
    if (base == MAP_FAILED) return errno;
    base_ = base;
    length_ = length;
    return 0;
  }
  template <class T>
  T* at(size_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(base_) + offset);
  }

 private:
  void* base_ = nullptr;
  size_t length_ = 0;
};

// The kernel is the other side of these.
uint32_t load(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
void store(uint32_t* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

class IoUring final : public EngineBase {
 public:
  explicit IoUring(const EngineOptions& options)
      : EngineBase(options, 2, "ring.enter", "ring.complete"),
        wanted_entries_(options.ring_entries == 0 ? depth() : std::min(options.ring_entries, depth())),
        hold_fd_(options.hold_fd) {}

  bool open(std::string& reason, std::string& remedy);
  const char* name() const override { return "io_uring"; }

 protected:
  int give(Slot* const* slots, unsigned count) override;
  void collect() override;
  void ask_to_cancel(Slot& slot) override;

 private:
  int setup();
  int map_rings();
  int probe_operations();
  int try_out();
  io_uring_sqe& entry(unsigned position);
  int push(unsigned count, unsigned to_await);
  unsigned drain();

  const unsigned wanted_entries_;
  const int hold_fd_;
  io_uring_params params_{};
  UniqueFd ring_;
  Mapping rings_, sqes_;
  uint32_t *sq_head_ = nullptr, *sq_tail_ = nullptr, *sq_flags_ = nullptr;
  uint32_t *cq_head_ = nullptr, *cq_tail_ = nullptr;
  uint32_t sq_mask_ = 0, cq_mask_ = 0;
  io_uring_cqe* cqes_ = nullptr;
};

// The generation makes a late cancellation harmless: it cannot hit the next user of the slot.
uint64_t tag_of(const Slot& slot) { return uint64_t{slot.generation} << 32 | slot.index; }

int IoUring::setup() {
  // CLAMP is there since 5.6. An unknown flag is EINVAL: then without those that are only nice to have.
  int error = 0;
  for (uint32_t nice : {setup_submit_all | setup_coop_taskrun, 0u}) {
    params_ = {};
    params_.flags = IORING_SETUP_CLAMP | nice;
    const long fd = syscall(__NR_io_uring_setup, wanted_entries_, &params_);
    if (fd >= 0) {
      ring_ = UniqueFd(static_cast<int>(fd));  // close-on-exec by itself
      // One mapping for both rings (5.4), completions never dropped and submitted entries free at once (5.5).
      constexpr uint32_t needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
      return (params_.features & needed) == needed ? 0 : EOPNOTSUPP;
    }
    error = errno;
    if (error != EINVAL) break;
  }
  return error;
}

int IoUring::map_rings() {
  const size_t sq_bytes = params_.sq_off.array + params_.sq_entries * sizeof(uint32_t);
  const size_t cq_bytes = params_.cq_off.cqes + params_.cq_entries * sizeof(io_uring_cqe);
  if (int error = rings_.map(ring_.get(), std::max(sq_bytes, cq_bytes), IORING_OFF_SQ_RING)) return error;
  if (int error = sqes_.map(ring_.get(), params_.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES)) return error;
  sq_head_ = rings_.at<uint32_t>(params_.sq_off.head);
  sq_tail_ = rings_.at<uint32_t>(params_.sq_off.tail);
  sq_flags_ = rings_.at<uint32_t>(params_.sq_off.flags);
  sq_mask_ = *rings_.at<uint32_t>(params_.sq_off.ring_mask);
  cq_head_ = rings_.at<uint32_t>(params_.cq_off.head);
  cq_tail_ = rings_.at<uint32_t>(params_.cq_off.tail);
  cq_mask_ = *rings_.at<uint32_t>(params_.cq_off.ring_mask);
  cqes_ = rings_.at<io_uring_cqe>(params_.cq_off.cqes);
  uint32_t* array = rings_.at<uint32_t>(params_.sq_off.array);
  for (uint32_t i = 0; i < params_.sq_entries; i++) array[i] = i;
  return 0;
}

// EINVAL from the register call means a kernel older than 5.6.
int IoUring::probe_operations() {
  constexpr unsigned operations = 64;
  alignas(io_uring_probe) char room[sizeof(io_uring_probe) + operations * sizeof(io_uring_probe_op)] = {};
  auto* probe = reinterpret_cast<io_uring_probe*>(room);
  if (syscall(__NR_io_uring_register, ring_.get(), IORING_REGISTER_PROBE, probe, operations) < 0) {
    return errno == EINVAL ? EOPNOTSUPP : errno;
  }
  for (unsigned needed : {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_ASYNC_CANCEL}) {
    if (needed > probe->last_op || (probe->ops[needed].flags & IO_URING_OP_SUPPORTED) == 0) return EOPNOTSUPP;
  }
  return 0;
}

// One NOP through the ring: a filter may allow io_uring_setup and forbid io_uring_enter, and the eventfd must be rung.
int IoUring::try_out() {
  io_uring_sqe& sqe = entry(0);
  sqe.opcode = IORING_OP_NOP;
  sqe.user_data = nobody;
  unsigned to_submit = 1;
  for (unsigned tries = 0; tries < 16; tries++) {
    const int taken = push(to_submit, 1);
    if (taken < 0 && taken != -EINTR) return -taken;
    if (taken > 0) to_submit = 0;
    if (drain() == 0) continue;
    eventfd_t count = 0;
    return eventfd_read(event_fd(), &count) == 0 ? 0 : EOPNOTSUPP;
  }
  return EINTR;
}

bool IoUring::open(std::string& reason, std::string& remedy) {
  int error = 0;
  const auto fails = [&](const char* step, int result) {
    error = result;
    if (error != 0) reason = std::string(step) + ": " + engines::describe_errno(error);
    return error != 0;
  };
  const auto register_event_fd = [&] {
    const int fd = event_fd();
    return syscall(__NR_io_uring_register, ring_.get(), IORING_REGISTER_EVENTFD, &fd, 1) < 0 ? errno : 0;
  };
  const auto register_hold = [&] {
    if (hold_fd_ < 0) return 0;
    if (const fault::Strike strike = fault::ask("ring.register", ""); strike.error != 0) return strike.error;
    return syscall(__NR_io_uring_register, ring_.get(), IORING_REGISTER_FILES, &hold_fd_, 1) < 0 ? errno : 0;
  };
  const bool failed = fails("eventfd", open_event_fd()) || fails("io_uring_setup", setup()) ||
                      fails("mapping the ring", map_rings()) || fails("io_uring_register", register_event_fd()) ||
                      fails("probing the operations", probe_operations()) || fails("a NOP through the ring", try_out()) ||
                      fails("registering the writer's lock", register_hold());
  if (!failed) return true;

  const std::string disabled = engines::first_line_of("/proc/sys/kernel/io_uring_disabled");  // 6.6
  switch (error) {
    case EPERM:
    case EACCES:
      if (disabled == "2") {
        reason += ": sysctl kernel.io_uring_disabled = 2 forbids it to everybody";
        remedy = "Ask the administrator for kernel.io_uring_disabled = 0, or use Linux AIO (use_aio).";
      } else if (disabled == "1") {
        reason += ": sysctl kernel.io_uring_disabled = 1 allows it only to CAP_SYS_ADMIN and to the group "
                  "kernel.io_uring_group";
        remedy = "Add the user to that group or set kernel.io_uring_disabled = 0, or use Linux AIO (use_aio).";
      } else {
        reason += ": a security policy (the container runtime's seccomp profile, or an LSM) forbids it";
        remedy = "Run the container with a seccomp profile that allows io_uring_setup, io_uring_enter and "
                 "io_uring_register, or use Linux AIO (use_aio).";
      }
      break;
    case ENOSYS:
      remedy = "The kernel is older than 5.6 or was built without CONFIG_IO_URING, or the sandbox (gVisor, a seccomp "
               "profile) hides it: use Linux AIO (use_aio).";
      break;
    case EOPNOTSUPP:
      reason += ": this kernel's io_uring lacks what is needed";
      remedy = "Linux 5.6 or newer is needed; or use Linux AIO (use_aio).";
      break;
    case ENOMEM: {
      rlimit limit{};
      getrlimit(RLIMIT_MEMLOCK, &limit);
      const bool unlimited = limit.rlim_cur == RLIM_INFINITY;
      reason += ": rings count as locked memory before Linux 5.12 and in the cgroup after it; RLIMIT_MEMLOCK is " +
                (unlimited ? "unlimited" : std::to_string(limit.rlim_cur) + " bytes");
      remedy = "Raise the limit of locked memory (ulimit -l, LimitMEMLOCK=) or the memory of the cgroup, or lower the "
               "queue depth.";
      break;
    }
    case EMFILE:
    case ENFILE:
      remedy = "Raise the limit of open files (ulimit -n).";
      break;
    default:
      remedy = "Use Linux AIO (use_aio) or POSIX AIO (use_posix_aio).";
  }
  return false;
}

io_uring_sqe& IoUring::entry(unsigned position) {
  io_uring_sqe& sqe = sqes_.at<io_uring_sqe>(0)[(*sq_tail_ + position) & sq_mask_];
  memset(&sqe, 0, sizeof sqe);
  return sqe;
}

// Publishes `count` entries and gives them to the kernel; with `to_await` it waits for so many completions. Answers
// how many were taken, or -errno when none was. What was not taken is withdrawn: the submission ring is empty between
// calls, so that nothing in it can be forgotten, be cancelled twice or outlive its request. (Without SQPOLL the
// kernel looks at the ring only inside this call.)
int IoUring::push(unsigned count, unsigned to_await) {
  const uint32_t tail = *sq_tail_;
  store(sq_tail_, tail + count);
  const unsigned flags = to_await > 0 ? IORING_ENTER_GETEVENTS : 0;
  const long result = syscall(__NR_io_uring_enter, ring_.get(), count, to_await, flags, nullptr, 0);
  const int error = result < 0 ? errno : 0;
  // The ring's head is the truth. The return value is not: an error of the waiting part hides how many were submitted
  // before it.
  const uint32_t taken = load(sq_head_) - tail;
  store(sq_tail_, tail + taken);
  return taken > 0 ? static_cast<int>(taken) : -error;
}

int IoUring::give(Slot* const* slots, unsigned count) {
  // A ring smaller than the queue depth (the kernel's CLAMP) is given what fits; the rest stays queued for the next
  // round.
  count = std::min(count, params_.sq_entries);
  for (unsigned i = 0; i < count; i++) {
    const Slot& slot = *slots[i];
    const bool reading = slot.request->kind == IoRequest::Kind::read;
    io_uring_sqe& sqe = entry(i);
    sqe.fd = slot.request->fd;
    sqe.off = slot.request->offset;
    sqe.user_data = tag_of(slot);
    if (slot.iov_count == 1) {
      sqe.opcode = reading ? IORING_OP_READ : IORING_OP_WRITE;
      sqe.addr = reinterpret_cast<uint64_t>(slot.iov[0].iov_base);
      sqe.len = static_cast<uint32_t>(slot.iov[0].iov_len);
    } else {
      sqe.opcode = reading ? IORING_OP_READV : IORING_OP_WRITEV;
      sqe.addr = reinterpret_cast<uint64_t>(slot.iov);
      sqe.len = static_cast<uint32_t>(slot.iov_count);
    }
  }
  return push(count, 0);
}

unsigned IoUring::drain() {
  unsigned count = 0;
  uint32_t head = *cq_head_;
  while (head != load(cq_tail_)) {
    const uint64_t tag = cqes_[head & cq_mask_].user_data;
    const int32_t outcome = cqes_[head & cq_mask_].res;
    // The entry is given back before anything is done about it: no path can leave with the queue not advanced.
    store(cq_head_, ++head);
    count++;
    Slot* slot = tag == nobody ? nullptr : slot_at(tag & 0xffffffff);
    if (slot != nullptr && slot->request != nullptr && tag == tag_of(*slot)) arrived(*slot, outcome);
  }
  return count;
}

void IoUring::collect() {
  // Completions that found the completion ring full wait in the kernel until somebody enters it. The ring has twice
  // the submission ring's entries, so only one that is smaller than the queue depth gets there; kernels before 5.8,
  // which have no flag for it, cannot.
  for (unsigned rounds = 0; rounds < depth() + 2; rounds++) {
    drain();
    if ((load(sq_flags_) & sq_cq_overflow) == 0) return;
    // Waits for 0 completions: does not block. Failures (EINTR, EBUSY) are for the next round.
    syscall(__NR_io_uring_enter, ring_.get(), 0, 0, IORING_ENTER_GETEVENTS, nullptr, 0);
  }
  // The kernel does not move: the event loop gets its turn before we go on.
  wake();
}

void IoUring::ask_to_cancel(Slot& slot) {
  io_uring_sqe& sqe = entry(0);
  sqe.opcode = IORING_OP_ASYNC_CANCEL;
  sqe.fd = -1;
  sqe.addr = tag_of(slot);
  sqe.user_data = nobody;
  // Should the kernel have no room for it, the request completes in its own time; so does one that is at the device
  // already.
  push(1, 0);
}

}  // namespace

std::unique_ptr<Engine> try_create_io_uring(const EngineOptions& options, std::string& reason, std::string& remedy) {
  auto engine = std::make_unique<IoUring>(options);
  if (!engine->open(reason, remedy)) return nullptr;
  return engine;
}

}  // namespace hicache
