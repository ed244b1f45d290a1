// GDS: cuFile's batches. The engine's threads fill and submit them, one more asks how they are. A batch is used for one group of pieces at a time, and goes back to the pool when all of
// them have ended well; one in which anything failed is destroyed. What failed, or came short, is finished by the plain calls.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "plugins/gds/cufile_engine.h"
#include "util/fault.h"

namespace hicache::cufile {

class CufileBatchEngine final : public CufileEngine {
 public:
  explicit CufileBatchEngine(const CufileBatchOptions& options);
  ~CufileBatchEngine() override;

  const char* name() const override { return "cufile_batch"; }
  bool open(std::string& reason, std::string& remedy);

 protected:
  bool other_work(std::unique_lock<std::mutex>&) override;
  void cancelled() override { to_poll_.notify_one(); }

 private:
  struct Batch {
    BatchHandle handle = nullptr;
    std::vector<Piece*> pieces;  // nullptr: its entry has ended
    std::vector<BatchEntry> entries;
    size_t outstanding = 0;
    int device = -1;
    unsigned refusals = 0;  // of the status, in a row
    bool failed = false;
    bool cancel_asked = false;
  };
  struct Held {
    Piece* piece;
    int64_t outcome;
    fault::Strike strike;
  };

  bool set_up(Batch& batch, Error& error);
  void submit_batch(std::unique_ptr<Batch> batch, std::unique_lock<std::mutex>&);
  void poll();
  bool ask(Batch& batch, unsigned least, std::unique_lock<std::mutex>&);
  bool told(Batch& batch, const BatchEvent& event, std::unique_lock<std::mutex>&);
  void settle(Piece& piece, int64_t outcome, std::unique_lock<std::mutex>&);
  void release_held(std::unique_lock<std::mutex>&);
  void cancel_unwanted(Batch& batch, std::unique_lock<std::mutex>&);
  void abandon(Batch& batch, std::unique_lock<std::mutex>&);
  void retire(Batch& batch, std::unique_lock<std::mutex>&);

  const size_t pool_size_;
  size_t limit_;
  std::condition_variable to_poll_;
  std::thread poller_;
  // Under the mutex:
  std::vector<std::unique_ptr<Batch>> idle_, active_;
  size_t made_ = 0;  // idle, active, and being filled
  std::vector<Held> held_;
  // Of the poller alone:
  std::vector<BatchEvent> events_;
  std::vector<Batch*> polled_;
  bool untimely_ = false;  // the latest answer had events
};

}  // namespace hicache::cufile
