// An engine moves bytes between memory and open files, and knows nothing else: no names, no records, no JavaScript.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace hicache {

struct Region;

// One read or write. The submitter owns it and keeps it, and the memory it points to, until the engine hands it back
// through Sink::completed(): exactly once for every request that submit() took, also after errors and cancellation.
struct IoRequest {
  enum class Kind : uint8_t { read, write };

  Kind kind = Kind::read;
  uint8_t iov_count = 0;  // 1 or 2
  uint8_t tries = 0;      // the engine's own: attempts in a row that moved nothing
  int fd = -1;
  uint64_t offset = 0;        // the engine may advance it, as the iovecs
  iovec iov[2] = {};          // the engine may advance these while it resubmits short I/O
  // Where the first buffer lies, for engines that must know the memory (its kind, what it is registered as); nullptr: ordinary memory of our own, as the second buffer always is.
  const Region* region = nullptr;
  const char* name = "";      // for fault injection and messages; outlives the request
  int64_t result = 0;         // out: bytes moved in all (short only at end of file), or -errno
  void* engine_slot = nullptr;  // the engine's own
  IoRequest* next = nullptr;    // the engine's own while it holds the request

  size_t bytes() const {
    size_t total = 0;
    for (int i = 0; i < iov_count; i++) total += iov[i].iov_len;
    return total;
  }
};

class Sink {
 public:
  virtual void completed(IoRequest* request) = 0;

 protected:
  ~Sink() = default;
};

// Owned and called by one thread at a time (ownership may pass on, to a reaper thread for example). Short I/O is
// continued (a read that returns 0 is the end of the file), EINTR and EAGAIN are retried, and whatever the kernel was
// given is reaped before its request is handed back: RocksDB's MultiRead is the model. The sink may call submit(),
// flush() and cancel(), but must not destroy the engine.
class Engine {
 public:
  virtual ~Engine() = default;  // in_flight() must be 0

  virtual const char* name() const = 0;
  // Readable when reap() has something to do. Belongs to the engine.
  virtual int event_fd() const = 0;
  // Takes the request; goes to the kernel at the next flush(), or later when queue_depth are there already.
  virtual void submit(IoRequest* request) = 0;
  // Hands what is queued to the kernel. A failure of the system call completes the requests it concerns.
  virtual void flush(Sink& sink) = 0;
  // Never blocks: collects completions, continues short I/O, refills from the queue, calls the sink.
  virtual void reap(Sink& sink) = 0;
  // Flushes, and blocks up to timeout_ms (-1 = for ever) until at least one request was handed back. For draining
  // only. False when none was, at once if none is in flight.
  virtual bool wait(Sink& sink, int timeout_ms) = 0;
  // Queued here: completes with -ECANCELED at once. In the kernel: asks it to let go; the request still completes
  // through the sink.
  virtual void cancel(IoRequest* request, Sink& sink) = 0;
  // Requests taken and not yet handed back.
  virtual size_t in_flight() const = 0;
};

struct EngineOptions {
  unsigned queue_depth = 64;  // requests in the kernel at once; 1 to 32768, brought into that range
  // io_uring: entries of the submission ring, 0 = queue_depth. Smaller ones exist for the tests of overflow.
  unsigned ring_entries = 0;
  // io_uring: registered with the ring, so that what the descriptor stands for (a lock) is held for as long as the ring has requests: the kernel ends them after the
  // process has gone, and its descriptors with it. The other interfaces end with the process itself. -1 = none.
  int hold_fd = -1;
};

// The one way to make an engine, used to run and to probe alike. nullptr with `reason` (what the system said) and
// `remedy` when it cannot be had.
std::unique_ptr<Engine> try_create_io_uring(const EngineOptions&, std::string& reason, std::string& remedy);
std::unique_ptr<Engine> try_create_linux_aio(const EngineOptions&, std::string& reason, std::string& remedy);
std::unique_ptr<Engine> try_create_posix_aio(const EngineOptions&, std::string& reason, std::string& remedy);

}  // namespace hicache
