#include "engine/engine_base.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

#include "util/errno_name.h"
#include "util/recorder.h"

namespace hicache::engines {

namespace {

constexpr unsigned depth_max = 32768;          // IORING_MAX_ENTRIES; Linux AIO allows more, nobody needs it
constexpr size_t piece_bytes_max = 0x7ffff000;  // MAX_RW_COUNT: the kernel moves no more at once
constexpr uint64_t direct_unit = 4096;          // what O_DIRECT takes everywhere
constexpr uint64_t sector_unit = 512;           // the least that O_DIRECT takes anywhere
constexpr unsigned stalls_max = 16;
constexpr unsigned interruptions_max = 16;
constexpr uint8_t tries_max = 16;

// Asked on rare branches only, so that no caller has to carry the answer around. Does not touch the file system.
bool is_direct(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_DIRECT) != 0;
}

// Drops `count` bytes from the front.
void advance(iovec* iov, int iov_count, size_t count) {
  for (int i = 0; i < iov_count && count > 0; i++) {
    size_t part = std::min(count, iov[i].iov_len);
    iov[i].iov_base = static_cast<char*>(iov[i].iov_base) + part;
    iov[i].iov_len -= part;
    count -= part;
  }
}

// Keeps the first `count` bytes.
void trim(iovec* iov, int iov_count, size_t count) {
  for (int i = 0; i < iov_count; i++) {
    iov[i].iov_len = std::min(count, iov[i].iov_len);
    count -= iov[i].iov_len;
  }
}

// Makes a planned short count honest: what a read brought beyond it is destroyed, so that only a real continuation
// can restore it.
int64_t cut_short(const Slot& slot, int64_t outcome, int64_t claim) {
  if (outcome <= claim) return outcome;
  if (slot.request->kind == IoRequest::Kind::read) {
    size_t skip = static_cast<size_t>(claim), left = static_cast<size_t>(outcome);
    for (int i = 0; i < slot.iov_count; i++) {
      size_t used = std::min(left, slot.iov[i].iov_len);
      left -= used;
      size_t kept = std::min(skip, used);
      skip -= kept;
      memset(static_cast<char*>(slot.iov[i].iov_base) + kept, 0xa5, used - kept);
    }
  }
  return claim;
}

}  // namespace

void Fifo::push_back(IoRequest* request) {
  request->next = nullptr;
  if (tail_ != nullptr) tail_->next = request;
  else head_ = request;
  tail_ = request;
}

void Fifo::push_front(IoRequest* request) {
  request->next = head_;
  head_ = request;
  if (tail_ == nullptr) tail_ = request;
}

IoRequest* Fifo::pop_front() {
  IoRequest* request = head_;
  if (request == nullptr) return nullptr;
  head_ = request->next;
  if (head_ == nullptr) tail_ = nullptr;
  request->next = nullptr;
  return request;
}

bool Fifo::remove(const IoRequest* request) {
  IoRequest* before = nullptr;
  for (IoRequest* at = head_; at != nullptr; before = at, at = at->next) {
    if (at != request) continue;
    (before != nullptr ? before->next : head_) = at->next;
    if (tail_ == at) tail_ = before;
    at->next = nullptr;
    return true;
  }
  return false;
}

EngineBase::EngineBase(const EngineOptions& options, int iov_max, const char* submit_point, const char* complete_point)
    : iov_max_(iov_max), submit_point_(submit_point), complete_point_(complete_point) {
  unsigned depth = std::clamp(options.queue_depth, 1u, depth_max);
  // Everything is allocated here: no request can fail later because memory is short.
  slots_.resize(depth);
  free_.reserve(depth);
  batch_.reserve(depth);
  withheld_.reserve(depth);
  for (unsigned i = depth; i-- > 0;) {
    slots_[i].index = i;
    free_.push_back(&slots_[i]);
  }
}

EngineBase::~EngineBase() {
  assert(in_flight_ == 0);
  if (watching_faults_) fault::forget(event_fd_.get());
}

int EngineBase::open_event_fd() {
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return errno;
  event_fd_ = UniqueFd(fd);
  return 0;
}

void EngineBase::wake() { eventfd_write(event_fd_.get(), 1); }

void EngineBase::submit(IoRequest* request) {
  request->result = 0;
  request->tries = 0;
  request->engine_slot = nullptr;
  in_flight_++;
  queue_.push_back(request);
}

void EngineBase::flush(Sink& sink) {
  dispatch();
  deliver(sink);
}

void EngineBase::reap(Sink& sink) {
  // The eventfd is emptied BEFORE the completions are collected: one that comes in between makes it readable again.
  eventfd_t count;
  eventfd_read(event_fd_.get(), &count);
  release_withheld();
  collect();
  dispatch();
  deliver(sink);
}

bool EngineBase::wait(Sink& sink, int timeout_ms) {
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
    // EINTR, and eventfd signals that hand nothing back (the first half of a short read), take another round with
    // what time is left.
    pollfd event{event_fd_.get(), POLLIN, 0};
    poll(&event, 1, left_ms);
  }
}

void EngineBase::cancel(IoRequest* request, Sink& sink) {
  Slot* slot = static_cast<Slot*>(request->engine_slot);
  if (slot != nullptr) {
    // Once is enough, and a withheld one has left the kernel already.
    if (!slot->cancelled && !slot->withheld) ask_to_cancel(*slot);
    slot->cancelled = true;
  } else if (queue_.remove(request)) {
    finish(request, -ECANCELED);
    deliver(sink);
  }
  // Neither: it is finished and waits for its turn in deliver(), further up the stack.
}

void EngineBase::dispatch() {
  bool go_on = true;
  // Every round gives the kernel something, takes a request out of the queue, or ends the loop.
  while (go_on && !queue_.empty() && !free_.empty()) {
    batch_.clear();
    IoRequest* struck = nullptr;
    int struck_error = 0;
    while (!queue_.empty() && !free_.empty()) {
      IoRequest* request = queue_.pop_front();
      if (request->bytes() == 0) {
        // Nothing to move. The kernel would answer 0, which means other things elsewhere.
        finish(request, request->result);
        continue;
      }
      if (request->tries > tries_max) {
        // The kernel answered EAGAIN or EINTR to this very request again and again: it gets the plain system call.
        transfer_now(request);
        continue;
      }
      fault::Strike strike = fault::ask(submit_point_, request->name);
      if (strike.error != 0) {
        struck = request;
        struck_error = strike.error;
        break;
      }
      batch_.push_back(prepare(request, strike));
    }

    if (!batch_.empty()) {
      const int count = static_cast<int>(batch_.size());
      const int taken = give(batch_.data(), static_cast<unsigned>(count));
      if (taken > 0) stalls_ = interruptions_ = 0;
      // What was not taken goes back in its old order: at the head of the queue, where cancel() finds it.
      for (int i = count; i-- > std::max(taken, 1);) queue_.push_front(let_go(*batch_[static_cast<size_t>(i)]));
      // Fewer than asked says nothing about why: the next round tells. None at all without an error is no reason to
      // try for ever, so it counts as EAGAIN.
      if (taken <= 0) go_on = refused(let_go(*batch_.front()), taken == 0 ? EAGAIN : -taken);
    }
    if (struck != nullptr) go_on = refused(struck, struck_error) && go_on;
  }
}

Slot* EngineBase::prepare(IoRequest* request, const fault::Strike& strike) {
  Slot& slot = *free_.back();
  free_.pop_back();
  slot.generation++;
  slot.request = request;
  slot.cancelled = slot.withheld = false;
  slot.claim = -1;
  slot.hang = {};
  slot.iov_count = 0;
  slot.asked = 0;
  for (int i = 0; i < request->iov_count && slot.iov_count < iov_max_; i++) {
    size_t length = std::min(request->iov[i].iov_len, piece_bytes_max - slot.asked);
    if (length == 0) continue;
    slot.iov[slot.iov_count++] = {request->iov[i].iov_base, length};
    slot.asked += length;
  }
  request->engine_slot = &slot;

  if (strike.hang) slot.hang = strike;
  if (strike.short_bytes >= 0 && static_cast<size_t>(strike.short_bytes) < slot.asked) {
    slot.claim = strike.short_bytes;
    size_t given = static_cast<size_t>(slot.claim);
    // O_DIRECT would refuse an odd length: the kernel gets whole blocks, and the surplus is not admitted.
    if (is_direct(request->fd)) given = std::min(slot.asked, (given + direct_unit - 1) / direct_unit * direct_unit);
    trim(slot.iov, slot.iov_count, given);
    while (slot.iov_count > 1 && slot.iov[slot.iov_count - 1].iov_len == 0) slot.iov_count--;
  }
  if (request->kind == IoRequest::Kind::write) slot.recorded = recorder::begin_write(request->fd, slot.iov, slot.iov_count, request->offset);
  return &slot;
}

IoRequest* EngineBase::let_go(Slot& slot) {
  IoRequest* request = slot.request;
  slot.request = nullptr;
  request->engine_slot = nullptr;
  // Not settled: the kernel never had it.
  recorder::end(std::exchange(slot.recorded, 0), recorder::withdrawn);
  free_.push_back(&slot);
  return request;
}

// The kernel did not take the request. True when it is worth while to go on with the others at once.
bool EngineBase::refused(IoRequest* request, int error) {
  switch (error) {
    case EINTR:
      queue_.push_front(request);
      // A signal came: try again, but not for ever.
      if (++interruptions_ <= interruptions_max) return true;
      starved(EAGAIN);
      return false;
    case EAGAIN:
    case EBUSY:
      queue_.push_front(request);
      starved(error);
      return false;
    default:
      // ENOMEM, EBADF, ENOSPC, EIO, EINVAL, ...: its own fate. When the fault is the ring's, the others learn it in
      // their turn.
      finish(request, -error);
      return true;
  }
}

// The kernel has no room. Something always follows, so that the queue cannot be forgotten, and it is never a loop here.
void EngineBase::starved(int error) {
  // EBUSY is a full completion queue, which reap() empties. Otherwise what is in the kernel makes room when it
  // completes, and that calls reap(); when nothing is in the kernel, the event loop gets a turn, a few times.
  if (stalls_ < stalls_max && (busy_slots() == 0 || error == EBUSY)) {
    stalls_++;
    wake();
    return;
  }
  if (busy_slots() > 0) return;
  // The kernel refuses although it has nothing of ours. A page that is late is better than none: one request by the
  // plain system call, and the next one in the next turn.
  if (IoRequest* request = queue_.pop_front()) transfer_now(request);
  if (!queue_.empty()) wake();
}

void EngineBase::arrived(Slot& slot, int64_t outcome) {
  IoRequest* request = slot.request;
  if (slot.claim >= 0) outcome = cut_short(slot, outcome, slot.claim);
  fault::Strike strike = fault::ask(complete_point_, request->name);
  if (strike.hit) {
    if (strike.error != 0) outcome = -strike.error;
    else if (strike.short_bytes >= 0) outcome = cut_short(slot, outcome, strike.short_bytes);
    if (strike.hang) slot.hang = strike;
  }
  if (slot.hang.hang) {
    // As if the kernel still had it: it keeps its slot, counts as in flight, and cannot be cancelled.
    slot.outcome = outcome;
    slot.withheld = true;
    withheld_.push_back(&slot);
    watching_faults_ = true;
    fault::wake_when_released(slot.hang, event_fd_.get());
    return;
  }
  settle(slot, outcome);
}

void EngineBase::release_withheld() {
  if (withheld_.empty()) return;
  auto kept = std::stable_partition(withheld_.begin(), withheld_.end(),
                                    [](Slot* slot) { return !fault::released(slot->hang); });
  std::vector<Slot*> going(kept, withheld_.end());
  withheld_.erase(kept, withheld_.end());
  for (Slot* slot : going) settle(*slot, slot->outcome);
}

// The kernel has let go of the slot.
void EngineBase::settle(Slot& slot, int64_t outcome) {
  const bool cancelled = slot.cancelled;
  const size_t asked = slot.asked;
  recorder::end(std::exchange(slot.recorded, 0), outcome);
  IoRequest* request = let_go(slot);
  bool unfinished = true;
  if (outcome == -EINTR || outcome == -EAGAIN) {
    // Nothing moved, and it is nobody's fault: again.
    request->tries++;
  } else {
    request->tries = 0;
    unfinished = account(request, asked, outcome);
  }
  if (!unfinished) return;
  // The rest of a short one goes first: its submitter has waited longest. A cancelled one is not started again.
  if (cancelled) finish(request, -ECANCELED);
  else queue_.push_front(request);
}

// Books what one call moved. True when the request needs another one; else it is finished.
bool EngineBase::account(IoRequest* request, size_t asked, int64_t outcome) {
  const bool reading = request->kind == IoRequest::Kind::read;
  if (outcome == -EINVAL && request->result > 0 && request->offset % direct_unit != 0 && is_direct(request->fd)) {
    // A short transfer ended inside a block of this device, and the kernel refuses to start there. Reads come to lie
    // there at the end of the file; for a write it is a failure of the device, not of the arguments.
    finish(request, reading ? request->result : -EIO);
    return false;
  }
  if (outcome < 0) {
    finish(request, outcome);
    return false;
  }
  if (outcome == 0) {
    // A read: the end of the file. A write that moves nothing and reports no error would be repeated for ever.
    finish(request, reading ? request->result : -EIO);
    return false;
  }
  const size_t moved = static_cast<size_t>(outcome);
  if (moved > asked) {
    // Nonsense from below (seen from broken drivers): advancing by it would leave the buffers.
    finish(request, -EIO);
    return false;
  }
  advance(request->iov, request->iov_count, moved);
  request->offset += moved;
  request->result += outcome;
  if (request->bytes() == 0) {
    finish(request, request->result);
    return false;
  }
  if (reading && moved < asked && request->offset % sector_unit != 0 && is_direct(request->fd)) {
    // O_DIRECT stops inside a sector only at the end of the file, and starting there again would be EINVAL.
    finish(request, request->result);
    return false;
  }
  return true;
}

// The last resort: blocks.
void EngineBase::transfer_now(IoRequest* request) {
  for (unsigned idle = 0; idle <= interruptions_max;) {
    const bool reading = request->kind == IoRequest::Kind::read;
    const fault::Strike strike = fault::ask(reading ? "preadv" : "pwritev", request->name);
    const size_t asked = std::min(request->bytes(), piece_bytes_max);
    const off_t offset = static_cast<off_t>(request->offset);
    int64_t outcome = -strike.error;
    if (strike.error == 0) {
      const ssize_t moved = reading ? preadv(request->fd, request->iov, request->iov_count, offset)
                                    : recorded::pwritev(request->fd, request->iov, request->iov_count, offset);
      outcome = moved < 0 ? -errno : moved;
    }
    if (outcome == -EINTR || outcome == -EAGAIN) {
      idle++;
      continue;
    }
    idle = 0;
    if (!account(request, asked, outcome)) return;
  }
  finish(request, -EAGAIN);
}

void EngineBase::finish(IoRequest* request, int64_t result) {
  request->result = result;
  done_.push_back(request);
}

void EngineBase::deliver(Sink& sink) {
  // The sink may submit, flush and cancel, which lead back here: the outermost loop delivers for all, so that the
  // stack does not grow.
  if (delivering_) return;
  delivering_ = true;
  while (IoRequest* request = done_.pop_front()) {
    in_flight_--;
    delivered_++;
    sink.completed(request);
  }
  delivering_ = false;
}

std::string describe_errno(int error) {
  return errno_name(error) + " (" + std::generic_category().message(error) + ")";
}

std::string first_line_of(const char* path) {
  UniqueFd file(open(path, O_RDONLY | O_CLOEXEC));
  char text[128];
  const ssize_t length = file.get() < 0 ? -1 : read(file.get(), text, sizeof text);
  if (length <= 0) return "";
  return std::string(text, static_cast<size_t>(std::find(text, text + length, '\n') - text));
}

}  // namespace hicache::engines
