// What the engines share: the queue before the kernel, the continuation of short I/O, retries, cancellation, planned
// failures. An engine adds only how requests are handed to its kernel interface and how completions are collected
// from it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "util/fault.h"
#include "util/unique_fd.h"

namespace hicache::engines {

// First in, first out, linked through IoRequest::next.
class Fifo {
 public:
  bool empty() const { return head_ == nullptr; }
  void push_back(IoRequest* request);
  void push_front(IoRequest* request);
  IoRequest* pop_front();  // nullptr when empty
  bool remove(const IoRequest* request);

 private:
  IoRequest* head_ = nullptr;
  IoRequest* tail_ = nullptr;
};

// What waits for the kernel: reads before writes, for somebody waits for a read, and a write behind it is only stored later. One write goes after every
// `reads_in_a_row` reads, so that a store that is read without a pause still takes pages in.
class WaitingQueue {
 public:
  static constexpr unsigned reads_in_a_row = 16;

  bool empty() const { return reads_.empty() && writes_.empty(); }
  void push_back(IoRequest* request) { queue_of(request).push_back(request); }
  void push_front(IoRequest* request) { queue_of(request).push_front(request); }
  IoRequest* pop_front() {
    const bool reads = !reads_.empty() && (writes_.empty() || reads_taken_ < reads_in_a_row);
    // Reads that nobody waits behind are not counted.
    reads_taken_ = reads && !writes_.empty() ? reads_taken_ + 1 : 0;
    return (reads ? reads_ : writes_).pop_front();
  }
  bool remove(const IoRequest* request) { return queue_of(request).remove(request); }

 private:
  Fifo& queue_of(const IoRequest* request) { return request->kind == IoRequest::Kind::read ? reads_ : writes_; }

  Fifo reads_, writes_;
  unsigned reads_taken_ = 0;
};

// The part of a request that is in the kernel.
struct Slot {
  uint32_t index = 0;
  uint32_t generation = 0;  // tells this use of the slot from earlier ones
  IoRequest* request = nullptr;
  iovec iov[2] = {};
  int iov_count = 0;
  size_t asked = 0;       // bytes the request still wanted when it went to the kernel; less is short
  int64_t claim = -1;     // a planned short count, -1 = none
  int64_t outcome = 0;    // of a withheld completion
  uint64_t recorded = 0;  // its number in a recording, 0 = none
  bool cancelled = false;
  bool withheld = false;
  fault::Strike hang;
};

class EngineBase : public Engine {
 public:
  ~EngineBase() override;

  int event_fd() const final { return event_fd_.get(); }
  void submit(IoRequest* request) final;
  void flush(Sink& sink) final;
  void reap(Sink& sink) final;
  bool wait(Sink& sink, int timeout_ms) final;
  void cancel(IoRequest* request, Sink& sink) final;
  size_t in_flight() const final { return in_flight_; }

 protected:
  // `iov_max`: buffers that one call of the kernel takes.
  EngineBase(const EngineOptions& options, int iov_max, const char* submit_point, const char* complete_point);

  // Makes the eventfd. 0 or errno.
  int open_event_fd();

  // Hands slots to the kernel, in order. Answers how many it took, or -errno when it took none (the first one is to
  // blame).
  virtual int give(Slot* const* slots, unsigned count) = 0;
  // Calls arrived() for every completion there is, without blocking.
  virtual void collect() = 0;
  // Asks the kernel to let go of it; whether it does or not, the completion comes through collect().
  virtual void ask_to_cancel(Slot& slot) = 0;

  void arrived(Slot& slot, int64_t outcome);
  // Makes the eventfd readable, so that reap() is called again.
  void wake();
  unsigned depth() const { return static_cast<unsigned>(slots_.size()); }
  Slot* slot_at(size_t index) { return index < slots_.size() ? &slots_[index] : nullptr; }

 private:
  size_t busy_slots() const { return slots_.size() - free_.size(); }
  void dispatch();
  Slot* prepare(IoRequest* request, const fault::Strike& strike);
  IoRequest* let_go(Slot& slot);
  bool refused(IoRequest* request, int error);
  void starved(int error);
  void settle(Slot& slot, int64_t outcome);
  bool account(IoRequest* request, size_t asked, int64_t outcome);
  void transfer_now(IoRequest* request);
  void finish(IoRequest* request, int64_t result);
  void deliver(Sink& sink);
  void release_withheld();

  const int iov_max_;
  const char* const submit_point_;
  const char* const complete_point_;
  UniqueFd event_fd_;
  WaitingQueue queue_;  // taken, not in the kernel
  Fifo done_;           // finished, not yet handed back
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;
  std::vector<Slot*> batch_;
  std::vector<Slot*> withheld_;
  size_t in_flight_ = 0;
  uint64_t delivered_ = 0;
  unsigned stalls_ = 0;
  unsigned interruptions_ = 0;
  bool delivering_ = false;
  bool watching_faults_ = false;
};

// "EPERM (Operation not permitted)"
std::string describe_errno(int error);
// The first line of a small file such as those of /proc/sys; empty when it cannot be read.
std::string first_line_of(const char* path);

}  // namespace hicache::engines
