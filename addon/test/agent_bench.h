// What the tests of the agent share: memory and words that are registered, a plugin and an agent over one directory (or over another plugin), and batches that
// are handed in and waited for.
#pragma once

#include <poll.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/agent.h"
#include "plugins/posix/posix_plugin.h"
#include "test/check.h"
#include "util/aligned_buffer.h"
#include "util/clock.h"

namespace hicache {

struct AgentBench {
  static constexpr int32_t queued = 1 << word_state::bits | word_state::queued;

  const size_t slot_bytes;
  std::vector<int32_t> words = std::vector<int32_t>(256);
  AlignedBuffer memory;
  RegionRef region = MemoryRegistry::instance().add(memory.data(), memory.size());
  RegionRef word_region = MemoryRegistry::instance().add(words.data(), words.size() * 4);
  std::shared_ptr<CompletionQueue> queue = std::make_shared<CompletionQueue>();
  std::unique_ptr<Agent> agent;  // nullptr: the engine cannot be used here
  size_t next_word = 0;

  AgentBench(size_t memory_slot_bytes, size_t memory_slots, const PosixDirectoryOptions& directory, const std::string& engine, unsigned threads)
      : slot_bytes(memory_slot_bytes), memory(memory_slot_bytes * memory_slots) {
    PosixOptions options;
    options.engine = engine;
    options.threads = threads;
    options.queue_depth = 4;
    options.directories.push_back(directory);
    Refusal refusal;
    auto plugin = try_create_posix_plugin(options, queue, refusal);
    if (plugin == nullptr) return;
    agent = std::make_unique<Agent>(Words{words.data(), words.size(), word_region}, queue, std::move(plugin));
  }
  AgentBench(size_t memory_slot_bytes, size_t memory_slots, std::unique_ptr<Plugin> plugin) : slot_bytes(memory_slot_bytes), memory(memory_slot_bytes * memory_slots) {
    if (plugin != nullptr) agent = std::make_unique<Agent>(Words{words.data(), words.size(), word_region}, queue, std::move(plugin));
  }
  ~AgentBench() {
    MemoryRegistry::instance().remove(region->id);
    MemoryRegistry::instance().remove(word_region->id);
  }
  AgentBench(const AgentBench&) = delete;
  AgentBench& operator=(const AgentBench&) = delete;

  uint8_t* slot(size_t index) { return memory.data() + index * slot_bytes; }
  void fill(size_t index, size_t length, uint8_t seed, size_t shift = 0) {
    for (size_t i = 0; i < length; i++) slot(index)[shift + i] = static_cast<uint8_t>(i * 13 + (i >> 9) + seed);
  }
  int32_t state(size_t word) { return std::atomic_ref(words[word]).load() & word_state::mask; }
  bool change(size_t word, int32_t from, int32_t to) {
    int32_t expected = (queued & ~word_state::mask) | from;
    return std::atomic_ref(words[word]).compare_exchange_strong(expected, (queued & ~word_state::mask) | to);
  }

  struct Answer {
    bool there = false;
    std::vector<double> results;
    std::vector<std::string> metas;
    Status status(size_t i = 0) const { return static_cast<Status>(static_cast<int>(results[i * result_field::stride])); }
    int error(size_t i = 0) const { return static_cast<int>(results[i * result_field::stride + result_field::error]); }
    uint64_t length(size_t i = 0) const { return static_cast<uint64_t>(results[i * result_field::stride + result_field::length]); }
  };

  // Hands in `count` operations: `describe` sets all of a descriptor but its word, and appends what it names to the blob. Operation i has
  // word `first + i`. `problem`: what is said to a malformed batch, which is an error without it.
  std::shared_ptr<Answer> submit(size_t count, const std::function<void(size_t, double*, std::string&)>& describe, size_t& first, std::string* problem) {
    std::vector<double> descriptors(count * field::stride);
    std::string blob;
    first = next_word;
    for (size_t i = 0; i < count; i++) {
      double* one = descriptors.data() + i * field::stride;
      one[field::word] = static_cast<double>(next_word);
      one[field::word_queued] = queued;
      describe(i, one, blob);
      std::atomic_ref(words[next_word]).store(queued);
      next_word = (next_word + 1) % words.size();
    }
    auto answer = std::make_shared<Answer>();
    const auto* bytes = reinterpret_cast<const uint8_t*>(blob.data());
    const std::string said = agent->submit(descriptors.data(), count, bytes, blob.size(), true, [answer](Batch& batch) {
      CHECK(!answer->there);
      answer->there = true;
      answer->results.resize(batch.size() * result_field::stride);
      for (size_t i = 0; i < batch.size(); i++) {
        Agent::write_result(batch[i], answer->results.data() + i * result_field::stride);
        const bool finished = batch[i].finished.load(std::memory_order_acquire);
        answer->metas.emplace_back(finished ? std::string(reinterpret_cast<const char*>(batch[i].outcome.meta), batch[i].outcome.meta_length) : "");
      }
    });
    if (problem != nullptr) *problem = said;
    else CHECK_EQ(said, "");
    return answer;
  }
  template <typename Holds>
  void process_until(Holds&& holds) {
    const int64_t end = now_ns() + 60'000'000'000;
    while (!holds()) {
      CHECK(now_ns() < end);
      pollfd fd{agent->poll_fd(), POLLIN, 0};
      ::poll(&fd, 1, 10);
      agent->process();
    }
  }
  // Until it is answered, with every word done.
  void wait_for(const Answer& answer, size_t first, size_t count) {
    process_until([&] { return answer.there; });
    for (size_t i = 0; i < count; i++) CHECK_EQ(state((first + i) % words.size()), word_state::done);
  }
};

}  // namespace hicache
