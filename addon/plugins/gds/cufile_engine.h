// What both engines over cuFile share: requests cut into pieces, threads that move them, completions in their order, cancellation. One moves device memory by one blocking call a thread
// (cufile_threads_engine), the other by batches (cufile_batch_engine). Memory of our own always goes by pread and pwrite: through cuFile it gains nothing.
//
// The fault point cufile.complete (util/fault.h) stands behind each call or batch entry: an errno or a short count replaces what it answered, a hang withholds it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_base.h"
#include "plugins/gds/cufile_driver.h"
#include "plugins/gds/piece_queue.h"
#include "util/unique_fd.h"

namespace hicache::cufile {

struct CufileThreadsOptions {
  unsigned thread_count = 4;
  size_t max_request_size = size_t{16} << 20;  // larger ones are split over the threads
};
struct CufileBatchOptions {
  unsigned batch_pool_size = 128;
  unsigned batch_limit = 128;  // cuFile itself takes 128 at most where its configuration says nothing: then that is what is used
  size_t max_request_size = size_t{16} << 20;
};

// Open cuFile's driver: only where probe() has found it usable. nullptr with the reason and the remedy.
std::unique_ptr<Engine> try_create_cufile_threads(const CufileThreadsOptions&, std::string& reason, std::string& remedy);
std::unique_ptr<Engine> try_create_cufile_batch(const CufileBatchOptions&, std::string& reason, std::string& remedy);

class CufileEngine : public Engine {
 public:
  ~CufileEngine() override;

  int event_fd() const final { return event_fd_.get(); }
  void submit(IoRequest* request) final;
  void flush(Sink& sink) final;
  void reap(Sink& sink) final;
  bool wait(Sink& sink, int timeout_ms) final;
  void cancel(IoRequest* request, Sink& sink) final;
  size_t in_flight() const final { return in_flight_; }

 protected:
  // `separate`: pieces of device memory do not go to the threads, but wait in device_queue_.
  CufileEngine(size_t max_request_size, bool separate);

  // Opens the driver and the eventfd, starts the threads. False with the reason and the remedy.
  bool open(unsigned threads, std::string& reason, std::string& remedy);
  // To be called by the destructor of what derives: its threads use it.
  void stop_threads();

  // One more thing for a thread, under the mutex: true when it did something (then it may have let go of the mutex).
  virtual bool other_work(std::unique_lock<std::mutex>&) { return false; }
  // A request of which something runs has been cancelled; under the mutex.
  virtual void cancelled() {}

  // Moves the rest of a piece by calls that block: errors stay in the piece.
  void move_now(Piece& piece);
  // The handle of the piece's file, registered if it has to be. nullptr: the piece has the error.
  CufileHandle* file_of(Piece& piece);
  // The context of the piece's device becomes this thread's. False: the piece has the error.
  bool make_current(Piece& piece);
  // Nobody works on the piece any more; under the mutex, of which it may let go for a while.
  void end(Piece& piece, std::unique_lock<std::mutex>&);
  // Its rest is to be moved by move_now(); under the mutex, of which it may let go for a while.
  void give_to_threads(Piece& piece, std::unique_lock<std::mutex>&);
  void note_failure(const Piece& piece, const std::string& what, int code, int cuda_code = 0);

  std::mutex mutex_;
  std::condition_variable to_do_;
  PieceQueue device_queue_;  // under the mutex
  bool stop_ = false;        // under the mutex
  const Api* api_ = nullptr;
  cuda::Devices* devices_ = nullptr;

 private:
  std::unique_ptr<Job> cut(IoRequest* request) const;
  void enqueue(Job& job);
  void send();
  void run();
  int64_t move_device(Piece& piece, size_t most);
  void finish(IoRequest* request, int64_t result);
  void deliver(Sink& sink);
  static int64_t result_of(const Job& job);

  const size_t max_request_size_;
  const bool separate_;
  UniqueFd event_fd_;
  std::vector<std::thread> threads_;
  PieceQueue queue_;       // for the threads; under the mutex
  Job* ended_ = nullptr;   // under the mutex, oldest first
  Job* ended_last_ = nullptr;
  // Of the owner's thread alone:
  engines::Fifo submitted_;  // not flushed
  engines::Fifo done_;       // finished, not yet handed back
  size_t in_flight_ = 0;
  uint64_t delivered_ = 0;
  bool delivering_ = false;
};

}  // namespace hicache::cufile
