// POSIX AIO, by glibc's <aio.h> (in libc itself since 2.34): at most 20 threads a process that call pread and pwrite,
// one request at a time per descriptor. By far the slowest engine, and the one that works wherever threads do. All
// engines of the process share those threads, so that requests which hang (a dead device) can hold up the POSIX AIO
// of other directories, too: one more reason why it comes last.
//
// Its completions reach the eventfd by one waiting thread a process, which sits in aio_suspend(). SIGEV_THREAD would
// start a thread a completion, lose the completion when it cannot, and might ring an eventfd that is closed by then;
// SIGEV_SIGNAL would take a signal from the host. aio_suspend() cannot be told of new requests, so one more request
// is always among those it waits for: a read of the waiter's own eventfd, the bell, which blocks one of glibc's
// threads until it is rung.

#include <aio.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "engine/engine_base.h"
#include "util/unique_fd.h"

namespace hicache {

namespace {

using engines::EngineBase;
using engines::Slot;

class PosixAio;

// One request as glibc knows it. One a slot; at a fixed address while it is in flight.
struct Ticket {
  aiocb block;
  PosixAio* owner = nullptr;
  uint32_t slot = 0;
  int64_t outcome = 0;
  // Of the agent's thread alone:
  uint64_t number = 0;      // in the order in which they were given
  bool queued = false;      // given, and not known to be over
  bool letting_go = false;  // its requester has asked
};

// The waiting thread: starts with the first engine, ends with the last.
class Waiter {
 public:
  // nullptr with an errno when there is no thread or no bell to be had.
  static std::shared_ptr<Waiter> get(int& error);
  ~Waiter();

  void watch(Ticket* const* tickets, size_t count);
  // Guards the engines' lists of arrived tickets, too.
  std::mutex& mutex() { return mutex_; }

 private:
  int start();
  bool arm_bell();
  bool bell_rang();
  void run();

  std::mutex mutex_;
  std::vector<Ticket*> incoming_;  // under the mutex
  bool stop_ = false;              // under the mutex
  UniqueFd bell_;
  std::thread thread_;
  // Of the thread alone:
  std::vector<Ticket*> active_;
  aiocb bell_block_{};
  uint64_t bell_count_ = 0;
  bool armed_ = false;
};

class PosixAio final : public EngineBase {
 public:
  explicit PosixAio(const EngineOptions& options)
      : EngineBase(options, 1, "paio.submit", "paio.complete"), tickets_(depth()) {
    given_.reserve(depth());
    arrived_.reserve(depth());
    collected_.reserve(depth());
  }

  bool open(std::string& reason, std::string& remedy);
  const char* name() const override { return "posix_aio"; }
  // By the waiter, under its mutex.
  void add_arrived(Ticket* ticket) {
    arrived_.push_back(ticket);
    wake();
  }

 protected:
  int give(Slot* const* slots, unsigned count) override;
  void collect() override;
  void ask_to_cancel(Slot& slot) override;

 private:
  void cancel_last(int fd);

  std::shared_ptr<Waiter> waiter_;
  uint64_t given_so_far_ = 0;
  unsigned letting_go_ = 0;  // tickets that wait for those behind them
  std::vector<Ticket> tickets_;
  std::vector<Ticket*> given_;
  std::vector<Ticket*> arrived_;  // under the waiter's mutex
  std::vector<Ticket*> collected_;
};

std::shared_ptr<Waiter> Waiter::get(int& error) {
  static std::mutex mutex;
  static std::weak_ptr<Waiter> current;
  std::lock_guard lock(mutex);
  std::shared_ptr<Waiter> waiter = current.lock();
  if (waiter == nullptr) {
    waiter = std::make_shared<Waiter>();
    error = waiter->start();
    if (error != 0) return nullptr;
    current = waiter;
  }
  return waiter;
}

int Waiter::start() {
  // Blocking: the bell's read must wait.
  bell_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  if (!bell_) return errno;
  if (!arm_bell()) return EAGAIN;
  // The host's signal handlers have no business on this thread.
  sigset_t all, former;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &former);
  int error = 0;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& failure) {
    error = failure.code().value();
  }
  pthread_sigmask(SIG_SETMASK, &former, nullptr);
  return error;
}

Waiter::~Waiter() {
  if (!bell_) return;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  if (thread_.joinable()) {
    eventfd_write(bell_.get(), 1);
    thread_.join();
  }
  // The block is part of this object: it must not go before glibc has let go of it.
  if (armed_) {
    eventfd_write(bell_.get(), 1);
    const aiocb* list[] = {&bell_block_};
    while (aio_error(&bell_block_) == EINPROGRESS) aio_suspend(list, 1, nullptr);
    bell_rang();
  }
}

bool Waiter::arm_bell() {
  memset(&bell_block_, 0, sizeof bell_block_);
  bell_block_.aio_fildes = bell_.get();
  bell_block_.aio_buf = &bell_count_;
  bell_block_.aio_nbytes = sizeof bell_count_;
  bell_block_.aio_sigevent.sigev_notify = SIGEV_NONE;
  armed_ = aio_read(&bell_block_) == 0;
  return armed_;
}

bool Waiter::bell_rang() {
  if (!armed_ || aio_error(&bell_block_) == EINPROGRESS) return false;
  aio_return(&bell_block_);
  armed_ = false;
  return true;
}

void Waiter::watch(Ticket* const* tickets, size_t count) {
  {
    std::lock_guard lock(mutex_);
    incoming_.insert(incoming_.end(), tickets, tickets + count);
  }
  eventfd_write(bell_.get(), 1);
}

void Waiter::run() {
  std::vector<const aiocb*> list;
  for (;;) {
    // Armed before the incoming tickets are looked at: a ring after the look ends the wait, one before it is in the
    // look.
    if (!armed_) arm_bell();
    {
      std::lock_guard lock(mutex_);
      active_.insert(active_.end(), incoming_.begin(), incoming_.end());
      incoming_.clear();
      if (stop_ && active_.empty()) return;
    }
    list.clear();
    if (armed_) list.push_back(&bell_block_);
    for (Ticket* ticket : active_) list.push_back(&ticket->block);
    // Without a bell (glibc had no memory for it) new tickets are found by looking every 10 ms, until it can be had
    // again.
    const timespec nap{0, 10'000'000};
    if (list.empty()) nanosleep(&nap, nullptr);
    else aio_suspend(list.data(), static_cast<int>(list.size()), armed_ ? nullptr : &nap);
    // EINTR and EAGAIN (the nap is over) need no care of their own: every block is asked.
    bell_rang();
    std::lock_guard lock(mutex_);
    std::erase_if(active_, [](Ticket* ticket) {
      const int error = aio_error(&ticket->block);
      if (error == EINPROGRESS) return false;
      // aio_error() takes glibc's own lock, under which the result was written: it is whole.
      const ssize_t moved = aio_return(&ticket->block);
      ticket->outcome = error != 0 ? -error : moved;
      ticket->owner->add_arrived(ticket);
      return true;
    });
  }
}

bool PosixAio::open(std::string& reason, std::string& remedy) {
  if (int error = open_event_fd()) {
    reason = "eventfd: " + engines::describe_errno(error);
    remedy = "Raise the limit of open files (ulimit -n).";
    return false;
  }
  int error = 0;
  waiter_ = Waiter::get(error);
  if (waiter_ != nullptr) return true;
  reason = "starting the thread that waits for completions: " + engines::describe_errno(error);
  remedy = error == EMFILE || error == ENFILE
               ? "Raise the limit of open files (ulimit -n)."
               : "Raise the limit of threads (ulimit -u, the cgroup's pids.max) or the memory of the cgroup.";
  return false;
}

int PosixAio::give(Slot* const* slots, unsigned count) {
  int error = 0;
  given_.clear();
  for (unsigned i = 0; i < count; i++) {
    const Slot& slot = *slots[i];
    Ticket& ticket = tickets_[slot.index];
    ticket.owner = this;
    ticket.slot = slot.index;
    memset(&ticket.block, 0, sizeof ticket.block);
    ticket.block.aio_fildes = slot.request->fd;
    ticket.block.aio_buf = slot.iov[0].iov_base;
    ticket.block.aio_nbytes = slot.iov[0].iov_len;
    ticket.block.aio_offset = static_cast<off_t>(slot.request->offset);
    ticket.block.aio_sigevent.sigev_notify = SIGEV_NONE;
    const bool reading = slot.request->kind == IoRequest::Kind::read;
    if ((reading ? aio_read(&ticket.block) : aio_write(&ticket.block)) != 0) {
      error = errno;
      break;
    }
    ticket.number = ++given_so_far_;
    ticket.queued = true;
    ticket.letting_go = false;
    given_.push_back(&ticket);
  }
  if (given_.empty()) return -error;
  waiter_->watch(given_.data(), given_.size());
  return static_cast<int>(given_.size());
}

void PosixAio::collect() {
  {
    std::lock_guard lock(waiter_->mutex());
    collected_.swap(arrived_);
  }
  for (Ticket* ticket : collected_) {
    const int fd = ticket->block.aio_fildes;
    ticket->queued = false;
    if (ticket->letting_go) letting_go_--;
    ticket->letting_go = false;
    if (Slot* slot = slot_at(ticket->slot)) arrived(*slot, ticket->outcome);
    if (letting_go_ > 0) cancel_last(fd);
  }
  collected_.clear();
}

void PosixAio::ask_to_cancel(Slot& slot) {
  Ticket& ticket = tickets_[slot.index];
  if (!ticket.queued || ticket.letting_go) return;
  ticket.letting_go = true;
  letting_go_++;
  cancel_last(slot.request->fd);
}

// aio_cancel() works while a request waits for a thread or for another one of its descriptor; it then completes with ECANCELED, which the waiter sees as any other
// end. But when the request that it takes out is the next one to run, glibc (seen with 2.36) forgets those behind it on the same descriptor: they are never run. So only
// the last one of a descriptor is taken out, and then the one before it, as long as their requesters have let go of them.
void PosixAio::cancel_last(int fd) {
  for (;;) {
    Ticket* last = nullptr;
    for (Ticket& ticket : tickets_) {
      if (ticket.queued && ticket.block.aio_fildes == fd && (last == nullptr || ticket.number > last->number)) last = &ticket;
    }
    if (last == nullptr || !last->letting_go || aio_cancel(fd, &last->block) == AIO_NOTCANCELED) return;
    last->queued = false;
  }
}

}  // namespace

std::unique_ptr<Engine> try_create_posix_aio(const EngineOptions& options, std::string& reason, std::string& remedy) {
  auto engine = std::make_unique<PosixAio>(options);
  if (!engine->open(reason, remedy)) return nullptr;
  return engine;
}

}  // namespace hicache
