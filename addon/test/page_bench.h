// A bench of whole pages: what the tests of every plugin ask of an agent, by name, slot and length.
#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "test/agent_bench.h"

namespace hicache {

struct PageAsk {
  Op op;
  std::string name;
  size_t slot = 0;
  size_t length = 0;
  uint32_t flags = 0;
  uint64_t file_offset = 60'000;  // of an extent; of an object's operation, the milliseconds that are left until its deadline
  std::string identity = "me";
  size_t shift = 0;  // in the slot
};

inline PageAsk write(const std::string& name, size_t slot, size_t length, uint32_t flags = 0) { return {Op::page_write, name, slot, length, flags}; }
inline PageAsk read(const std::string& name, size_t slot, size_t length, uint32_t flags = 0) { return {Op::page_read, name, slot, length, flags}; }
inline PageAsk check(const std::string& name, uint32_t flags = 0) { return {Op::page_check, name, 0, 0, flags}; }
inline PageAsk of_you(PageAsk asked) {
  asked.identity = "you";
  return asked;
}

struct PageBench : AgentBench {
  using AgentBench::AgentBench;

  std::shared_ptr<Answer> submit(const std::vector<PageAsk>& asks, size_t& first, std::string* problem = nullptr) {
    return AgentBench::submit(asks.size(), [&](size_t i, double* one, std::string& blob) {
      const PageAsk& ask = asks[i];
      one[field::op] = static_cast<double>(ask.op);
      one[field::flags] = ask.flags;
      one[field::name_offset] = static_cast<double>(blob.size());
      one[field::name_length] = static_cast<double>(ask.name.size());
      blob += ask.name;
      one[field::record_offset] = static_cast<double>(blob.size());
      one[field::identity_length] = static_cast<double>(ask.identity.size());
      one[field::meta_length] = 4;
      blob.append(ask.identity).append("meta");
      one[field::region] = region->id;
      one[field::memory_offset] = static_cast<double>(ask.slot * slot_bytes + ask.shift);
      one[field::length] = static_cast<double>(ask.length);
      one[field::file_offset] = static_cast<double>(ask.file_offset);
    }, first, problem);
  }
  std::shared_ptr<Answer> run(const std::vector<PageAsk>& asks) {
    size_t first;
    const auto answer = submit(asks, first);
    wait_for(*answer, first, asks.size());
    return answer;
  }
  std::shared_ptr<Answer> expect(const PageAsk& ask, Status status) {
    test_context() = ask.name;
    const auto answer = run({ask});
    if (answer->status() != status) check_failed(__FILE__, __LINE__, "status " + std::to_string(static_cast<int>(answer->status())) + " " + answer->metas[0]);
    return answer;
  }
  void call_off(size_t word) {
    if (!change(word, word_state::queued, word_state::cancelled)) CHECK(change(word, word_state::started, word_state::cancelling));
    request_cancel_everywhere();
  }
  bool same(size_t a, size_t b, size_t length) { return std::memcmp(slot(a), slot(b), length) == 0; }
};

}  // namespace hicache
