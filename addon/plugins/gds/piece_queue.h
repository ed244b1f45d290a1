// Parts of requests that wait for cuFile, or for a thread: reads before writes, as with the other engines (engines::WaitingQueue), and one write after every 16 reads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_base.h"
#include "plugins/gds/cufile_handle.h"

namespace hicache::cufile {

struct Job;

struct Piece {
  enum class Stage : uint8_t { waiting, running, ended };

  Job* job = nullptr;
  uint8_t* address = nullptr;
  size_t length = 0;
  uint64_t offset = 0;   // in the file
  size_t moved = 0;
  int error = 0;
  int device = -1;       // -1: memory of our own, which goes by pread and pwrite
  Stage stage = Stage::waiting;
};

// A request while an engine has it.
struct Job {
  IoRequest* request = nullptr;
  std::vector<Piece> pieces;               // ascending places of the file
  size_t unfinished = 0;                   // pieces that have not ended
  bool cancelled = false;
  std::shared_ptr<CufileHandle> file;      // since the first piece that wanted it
  Job* next = nullptr;

  bool reading() const { return request->kind == IoRequest::Kind::read; }
};

class PieceQueue {
 public:
  bool empty() const { return reads_.empty() && writes_.empty(); }
  size_t size() const { return reads_.size() + writes_.size(); }
  void push_back(Piece* piece) { queue_of(piece).push_back(piece); }
  void push_front(Piece* piece) { queue_of(piece).push_front(piece); }
  Piece* front() { return chosen().front(); }
  Piece* pop_front() {
    auto& queue = chosen();
    // Reads that no write waits behind are not counted.
    reads_taken_ = &queue == &reads_ && !writes_.empty() ? reads_taken_ + 1 : 0;
    Piece* const piece = queue.front();
    queue.pop_front();
    return piece;
  }
  bool remove(Piece* piece) { return std::erase(queue_of(piece), piece) > 0; }

 private:
  std::deque<Piece*>& queue_of(const Piece* piece) { return piece->job->reading() ? reads_ : writes_; }
  std::deque<Piece*>& chosen() {
    const bool reads = !reads_.empty() && (writes_.empty() || reads_taken_ < engines::WaitingQueue::reads_in_a_row);
    return reads ? reads_ : writes_;
  }

  std::deque<Piece*> reads_, writes_;
  unsigned reads_taken_ = 0;
};

}  // namespace hicache::cufile
