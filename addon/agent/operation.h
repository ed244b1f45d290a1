// A descriptor in flight, and the batch it came with.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "agent/completion_queue.h"
#include "agent/memory_registry.h"
#include "agent/protocol.h"
#include "pool/page_store.h"

namespace hicache {

class Batch;

struct Operation {
  Batch* batch = nullptr;
  Op op = Op::page_read;
  uint32_t flags = 0;
  uint32_t directory = 0;
  const char* name = "";  // NUL-terminated; like the views, into the batch
  std::string_view identity, meta;
  RegionRef region;
  Memory memory;
  uint64_t file_offset = 0;
  uint64_t record_at = 0;
  int32_t* word = nullptr;
  int32_t word_queued = 0;

  bool claimed = false;
  int64_t started_ns = 0;
  Outcome outcome;
  double microseconds = 0;
  // The last thing that is written, so that a batch can be answered while some of its operations still run.
  std::atomic<bool> finished{false};

  // For the plugin.
  void* state = nullptr;

  // queued -> started. False: it was called off, and neither its memory nor its word may be touched again.
  bool claim();
  // The word has left `queued` without us: nothing can start this operation any more.
  bool called_off() const;
  // The caller has asked that the kernel let go.
  bool cancelling() const;
  // Any thread. The outcome is final, and nobody touches the memory any more. Ends the operation: do not use it afterwards.
  void finish(const Outcome& outcome);
};

// The completion words of a cache: shared memory, alive as long as its gate is open.
struct Words {
  int32_t* data = nullptr;
  size_t count = 0;
  RegionRef region;  // nullptr: nobody registered this memory, so nobody will say when it ends
};

class Batch final : public Event {
 public:
  Batch(size_t count, Words words, std::shared_ptr<CompletionQueue> queue)
      : count_(count), operations_(new Operation[count]), words_(std::move(words)), queue_(std::move(queue)), remaining_(count) {
    for (size_t i = 0; i < count; i++) operations_[i].batch = this;
  }

  size_t size() const { return count_; }
  Operation& operator[](size_t index) { return operations_[index]; }
  Gate* word_gate() const { return words_.region == nullptr ? nullptr : &words_.region->gate; }
  size_t remaining() const { return remaining_.load(std::memory_order_acquire); }
  void one_finished() {
    if (remaining_.fetch_sub(1, std::memory_order_acq_rel) == 1) queue_->push(this);
  }
  void arrived() override { on_all_finished(); }

  bool want_metas = false;
  std::vector<char> text;  // the blob's parts, each name followed by a NUL
  // Answers the batch, once; empty afterwards.
  std::function<void(Batch&)> report;
  // On the agent's thread; destroys the batch.
  std::function<void()> on_all_finished;
  std::shared_ptr<void> plugin_state;

 private:
  const size_t count_;
  std::unique_ptr<Operation[]> operations_;
  Words words_;
  std::shared_ptr<CompletionQueue> queue_;
  std::atomic<size_t> remaining_;
};

}  // namespace hicache
