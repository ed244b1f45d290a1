// Linux AIO (io_setup and its kin), by raw system calls. Containers that forbid io_uring usually allow it.
// IOCB_FLAG_RESFD is there since Linux 2.6.22, IOCB_CMD_PREADV and PWRITEV since 2.6.19; completions of cancelled
// requests come through the ring like all others since 3.11.

#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <vector>

#include "engine/engine_base.h"

namespace hicache {

namespace {

using engines::EngineBase;
using engines::Slot;

class LinuxAio final : public EngineBase {
 public:
  explicit LinuxAio(const EngineOptions& options)
      : EngineBase(options, 2, "aio.submit", "aio.complete"), iocbs_(depth()), given_(depth()) {}

  ~LinuxAio() override {
    // Waits for what is in flight, which is nothing.
    if (context_ != 0) syscall(__NR_io_destroy, context_);
  }

  bool open(std::string& reason, std::string& remedy);
  const char* name() const override { return "aio"; }

 protected:
  int give(Slot* const* slots, unsigned count) override;
  void collect() override;
  void ask_to_cancel(Slot& slot) override;

 private:
  aio_context_t context_ = 0;
  std::vector<iocb> iocbs_;   // one a slot
  std::vector<iocb*> given_;
};

bool LinuxAio::open(std::string& reason, std::string& remedy) {
  if (int error = open_event_fd()) {
    reason = "eventfd: " + engines::describe_errno(error);
    remedy = "Raise the limit of open files (ulimit -n).";
    return false;
  }
  if (syscall(__NR_io_setup, depth(), &context_) == 0) return true;
  const int error = errno;
  context_ = 0;
  reason = "io_setup: " + engines::describe_errno(error);
  switch (error) {
    case EAGAIN:
      reason += ": of " + engines::first_line_of("/proc/sys/fs/aio-max-nr") +
                " asynchronous requests that fs.aio-max-nr allows, " + engines::first_line_of("/proc/sys/fs/aio-nr") +
                " are reserved already, and " + std::to_string(depth()) + " more are needed";
      remedy = "Raise the limit (sysctl -w fs.aio-max-nr=1048576), or lower the queue depth or the number of workers.";
      break;
    case ENOSYS:
      remedy = "The kernel was built without CONFIG_AIO, or the sandbox (gVisor, seccomp) hides it: use io_uring "
               "(use_uring) or POSIX AIO (use_posix_aio).";
      break;
    case EPERM:
    case EACCES:
      remedy = "A security policy (seccomp, LSM) forbids io_setup: allow it for this process, or use io_uring "
               "(use_uring) or POSIX AIO (use_posix_aio).";
      break;
    case ENOMEM:
      remedy = "Give the process or its cgroup more memory, or lower the queue depth.";
      break;
    case EMFILE:
    case ENFILE:
      remedy = "Raise the limit of open files (ulimit -n).";
      break;
    default:
      remedy = "Use io_uring (use_uring) or POSIX AIO (use_posix_aio).";
  }
  return false;
}

int LinuxAio::give(Slot* const* slots, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    Slot& slot = *slots[i];
    const bool reading = slot.request->kind == IoRequest::Kind::read;
    iocb& block = iocbs_[slot.index];
    memset(&block, 0, sizeof block);
    block.aio_data = slot.index;
    block.aio_fildes = static_cast<uint32_t>(slot.request->fd);
    block.aio_offset = static_cast<int64_t>(slot.request->offset);
    block.aio_flags = IOCB_FLAG_RESFD;
    block.aio_resfd = static_cast<uint32_t>(event_fd());
    if (slot.iov_count == 1) {
      block.aio_lio_opcode = reading ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE;
      block.aio_buf = reinterpret_cast<uint64_t>(slot.iov[0].iov_base);
      block.aio_nbytes = slot.iov[0].iov_len;
    } else {
      block.aio_lio_opcode = reading ? IOCB_CMD_PREADV : IOCB_CMD_PWRITEV;
      block.aio_buf = reinterpret_cast<uint64_t>(slot.iov);
      block.aio_nbytes = static_cast<uint64_t>(slot.iov_count);
    }
    given_[i] = &block;
  }
  // Fewer than `count`: the one after the last that was taken is the bad one, and its errno comes when it is the
  // first of a call.
  const long taken = syscall(__NR_io_submit, context_, static_cast<long>(count), given_.data());
  return taken < 0 ? -errno : static_cast<int>(taken);
}

void LinuxAio::collect() {
  io_event events[64];
  constexpr long room = sizeof events / sizeof *events;
  for (;;) {
    timespec none{};
    const long count = syscall(__NR_io_getevents, context_, 0L, room, events, &none);
    if (count < 0) {
      // A signal came before anything was taken off the ring: the event loop calls again. Other errors mean a context
      // or an array that is not ours, which is not possible.
      wake();
      return;
    }
    for (long i = 0; i < count; i++) {
      if (Slot* slot = slot_at(events[i].data)) arrived(*slot, events[i].res);
    }
    if (count < room) return;
  }
}

void LinuxAio::ask_to_cancel(Slot& slot) {
  // Reads and writes of files cannot be cancelled today (EINVAL); they complete in their own time. Should a kernel
  // learn it, the completion comes through the ring all the same.
  io_event unused;
  syscall(__NR_io_cancel, context_, &iocbs_[slot.index], &unused);
}

}  // namespace

std::unique_ptr<Engine> try_create_linux_aio(const EngineOptions& options, std::string& reason, std::string& remedy) {
  auto engine = std::make_unique<LinuxAio>(options);
  if (!engine->open(reason, remedy)) return nullptr;
  return engine;
}

}  // namespace hicache
