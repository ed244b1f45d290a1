// The agent: validates descriptors, hands batches to its plugin, and answers each when all its operations have an outcome. Owned and called by one
// thread; when that thread's environment ends, what is still in flight passes to a reaper thread.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "agent/operation.h"
#include "plugins/plugin.h"

namespace hicache {

class Agent {
 public:
  // Throws std::system_error.
  Agent(Words words, std::shared_ptr<CompletionQueue> queue, std::unique_ptr<Plugin> plugin);
  // Nothing may be in flight.
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // `stride` doubles a descriptor. Empty text: it is in flight. Else nothing was started, and the text says what is wrong with which descriptor.
  // `report` is called once on this thread, at the latest when every operation is finished or has been told to let go.
  std::string submit(const double* descriptors, size_t count, const uint8_t* blob, size_t blob_bytes, bool want_metas,
                     std::function<void(Batch&)> report);
  // What a batch's results say about an operation: RESULT_STRIDE doubles.
  static void write_result(const Operation& operation, double* out);

  Plugin& plugin() { return *plugin_; }
  // Readable when process() has something to do.
  int poll_fd() const { return epoll_.get(); }
  void process();

  // Operations submitted and not done, and calls.
  size_t in_flight() const;
  // Stronger than in_flight() == 0: every batch has been seen to its end, so no thread is about to announce one.
  bool idle() const { return batches_.empty() && plugin_->calls() == 0; }
  // Batches that wait for their report, and calls: what keeps a process alive.
  size_t unreported() const { return unreported_ + plugin_->calls(); }

  // Nothing new from now on; what waits ends as cancelled, the kernel is asked to let go of the rest.
  void stop();
  bool stopped() const { return stopped_; }
  // Processes until nothing is in flight or the time is over. True: nothing is in flight.
  bool drain(int timeout_ms);
  // Reports every batch as it stands: what still runs counts as an ECANCELED error.
  void report_all();
  void forget_reports();
  // Forgets all reports; then drains on a thread of its own, for as long as it takes. Never touches JavaScript.
  static void abandon(std::unique_ptr<Agent> agent);

 private:
  bool parse(const double* descriptor, size_t index, const uint8_t* blob, size_t blob_bytes, Operation& out, std::string& problem) const;
  void report(Batch& batch);
  bool take_events();
  void handle_cancel();

  const Words words_;
  const std::shared_ptr<CompletionQueue> queue_;
  std::unique_ptr<Plugin> plugin_;
  UniqueFd epoll_;
  std::list<std::unique_ptr<Batch>> batches_;
  size_t unreported_ = 0;
  bool stopped_ = false;
};

}  // namespace hicache
