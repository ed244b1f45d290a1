#include "agent/operation.h"

#include "util/clock.h"

namespace hicache {
namespace {

int32_t with_state(int32_t word, int32_t state) { return (word & ~word_state::mask) | state; }

template <typename Call>
bool in_gate(Gate* gate, Call&& call) {
  if (gate != nullptr) return gate->touch(call);
  call();
  return true;
}

}  // namespace

bool Operation::claim() {
  int32_t expected = word_queued;
  in_gate(batch->word_gate(), [&] {
    claimed = std::atomic_ref(*word).compare_exchange_strong(expected, with_state(word_queued, word_state::started), std::memory_order_acq_rel);
  });
  started_ns = now_ns();
  return claimed;
}

bool Operation::called_off() const {
  int32_t now = ~word_queued;
  in_gate(batch->word_gate(), [&] { now = std::atomic_ref(*word).load(std::memory_order_acquire); });
  return now != word_queued;
}

bool Operation::cancelling() const {
  int32_t now = 0;
  in_gate(batch->word_gate(), [&] { now = std::atomic_ref(*word).load(std::memory_order_acquire); });
  return now == with_state(word_queued, word_state::cancelling);
}

void Operation::finish(const Outcome& final_outcome) {
  outcome = final_outcome;
  if (started_ns != 0) microseconds = static_cast<double>(now_ns() - started_ns) / 1e3;
  if (claimed) {
    in_gate(batch->word_gate(), [&] { std::atomic_ref(*word).store(with_state(word_queued, word_state::done), std::memory_order_release); });
  }
  Batch* const mine = batch;
  finished.store(true, std::memory_order_release);
  mine->one_finished();
}

}  // namespace hicache
