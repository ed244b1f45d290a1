// A thread that calls NIXL about objects, and the operations that it has. The library's calls may block, query_mem does, and none of them has a time limit: so they have a thread of their own,
// which whoever holds the lane may leave to itself (stuck(), give_up()).
//
// The bytes of all pages go through slots of the agent's, and nothing of a caller's is touched inside of the library: an operation can be handed back at any time, whatever the library does.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "agent/operation.h"
#include "plugins/nixl/nixl_object_session.h"

namespace hicache::nixl {

struct ObjectLaneOptions {
  const Api* api = nullptr;
  std::string plugin;
  std::map<std::string, std::string> parameters;
  size_t depth = 256;           // transfers in flight
  int64_t timeout_ms = 30'000;  // of one transfer; then its agent is given up
};

// An operation, as the lane's thread sees it. The lane's mutex guards the first three.
struct ObjectJob {
  Operation* operation = nullptr;  // nullptr: handed back
  bool started = false;
  bool touching = false, called_off = false;  // the thread is at its memory, and hands it back itself if it is called off meanwhile

  enum class Step : uint8_t { begin, ask_for_check, ask_before_write, peek, write, read, ask_after_read, ask_before_measuring, measure };

  uint64_t id = 0;
  Op op = Op::page_read;
  uint32_t flags = 0;
  std::string key, identity, meta;
  Memory memory;
  RegionRef region;
  int64_t deadline_ns = 0;
  Step step = Step::begin;
  int failures = 0, reads = 0;
  uint64_t fill = 0;                 // what the slot was filled with before a read
  uint64_t from = 0, window = 0;     // of measuring
};

class ObjectLane : public std::enable_shared_from_this<ObjectLane> {
 public:
  explicit ObjectLane(ObjectLaneOptions options) : options_(std::move(options)) {}
  // Throws std::system_error.
  void start();

  // These by one thread, the agent's. Those of give_up() come back as they were handed over.
  struct Given {
    uint64_t id;
    Operation* operation;
  };
  void hand_over(const std::vector<Given>& given);
  void cancel(uint64_t id);
  void withdraw_called_off();
  void stop();
  // Is the thread inside of one call for longer than a transfer may take?
  bool stuck() const;
  // Ends what was started as unavailable; answers what was not.
  std::vector<Given> give_up();
  // Waits for the thread, unless it does not come back from the library; then it is left to itself.
  void close();

 private:
  using JobRef = std::shared_ptr<ObjectJob>;
  using Step = ObjectJob::Step;

  void run();
  int64_t work();
  void farewell();
  bool have_session();
  void begin(const JobRef& job);
  bool start_transfer(const JobRef& job);
  bool fill_for_write(const JobRef& job, ObjectSlot& slot);
  void ask();
  void answered(const JobRef& job, bool there);
  void poll_session(ObjectSession& session, int64_t now);
  // True when it has come to its end.
  bool advance(ObjectSession& session, ObjectTransfer& transfer, int answer, int64_t now);
  void moved(ObjectSession& session, ObjectTransfer& transfer, bool well);
  void judge_peek(const JobRef& job, const uint8_t* block);
  void judge_read(const JobRef& job, const uint8_t* bytes);
  void judge_window(const JobRef& job, const uint8_t* bytes);
  void go_on(const JobRef& job, Step step);
  void failed(ObjectSession* session, const JobRef& job, Step again);
  void finish(const JobRef& job, const Outcome& outcome);
  void unavailable(const JobRef& job);
  bool gone(const JobRef& job);
  // Calls it with the job's memory to be touched. False: the job is gone.
  template <typename Call>
  bool touch(const JobRef& job, Call&& call);
  template <typename Fits>
  void take_back(const Outcome& outcome, Fits&& fits);

  const ObjectLaneOptions options_;
  std::atomic<int64_t> inside_{0};  // since when the thread is inside of the library; 0: it is not
  std::thread thread_;

  std::mutex mutex_;
  std::condition_variable changed_, ended_;
  std::unordered_map<uint64_t, JobRef> jobs_;
  std::deque<JobRef> inbox_;
  bool closing_ = false, has_ended_ = false;

  // The thread's.
  std::deque<JobRef> waiting_, asking_;
  std::unique_ptr<ObjectSession> current_;
  std::vector<std::unique_ptr<ObjectSession>> retired_;  // broken or given up, with transfers in progress
  int64_t next_attempt_ns_ = 0;                          // to make a session, after one could not be made
  uint64_t fills_ = 0;
  std::string problem_;
};

// Sessions that this process has left behind because their transfers never came to an end.
size_t object_sessions_left_behind();

}  // namespace hicache::nixl
