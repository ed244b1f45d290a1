// One NIXL agent with a backend that moves objects: slots of memory that it knows, its requests, and questions about objects. Each request has one descriptor, so that its end is its own.
// Thrown away as a whole after a failure that nothing explains. Of one thread; while that is inside of the library, `inside` says since when: a call has no time limit.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plugins/nixl/nixl_backend.h"
#include "util/aligned_buffer.h"

namespace hicache::nixl {

struct ObjectJob;

// Memory of the session, registered with its agent. What is in it when it is taken is anybody's.
struct ObjectSlot {
  AlignedBuffer memory;
  uint8_t* data() const { return memory.data(); }
};

struct ObjectTransfer {
  std::shared_ptr<ObjectJob> job;
  ObjectSlot* slot = nullptr;
  int operation = 0;
  uint64_t offset = 0;
  size_t length = 0;
  int64_t posted_ns = 0, next_poll_ns = 0, deadline_ns = 0;

  // The session's.
  XferReq* request = nullptr;
  uint64_t device = 0;  // by which the agent knows the key; 0: it does not
};

class ObjectSession {
 public:
  // nullptr with a refusal.
  static std::unique_ptr<ObjectSession> open(const Api&, const std::string& plugin, const std::map<std::string, std::string>& parameters, std::atomic<int64_t>& inside, Refusal&);
  ~ObjectSession();  // no transfer may be in progress
  ObjectSession(const ObjectSession&) = delete;
  ObjectSession& operator=(const ObjectSession&) = delete;

  // Which of these objects are there. The status.
  int query(const std::vector<std::string>& keys, std::vector<bool>& there);

  // nullptr: none is free; with `refused`, none is to be had. One page may be larger than all slots together may be, when it is alone.
  ObjectSlot* take_slot(size_t bytes, bool& refused);
  void give_back(ObjectSlot* slot);

  // The status. Whatever it is, release() is due when the transfer has come to its end.
  int post(const std::string& key, ObjectTransfer& transfer);
  int poll(ObjectTransfer& transfer);
  void release(const std::string& key, ObjectTransfer& transfer);

  const std::string& problem() const { return problem_; }

  std::vector<std::unique_ptr<ObjectTransfer>> transfers;
  bool broken = false;    // nothing new is given to it, and a write that it calls a success is not believed
  bool given_up = false;  // a transfer passed its deadline, and may never end

 private:
  static constexpr size_t slot_bytes_max = 64 << 20;  // of all together

  ObjectSession(const Api& api, std::atomic<int64_t>& inside) : inside_(inside), own_(std::make_unique<AgentOfOne>(api, next_agent_name())) {}
  int memory_call(bool in, int type, uintptr_t address, size_t length, uint64_t device, const std::string& key);
  void drop_free_slots();

  std::atomic<int64_t>& inside_;
  std::map<size_t, std::vector<ObjectSlot*>> free_;  // by their bytes
  std::vector<std::unique_ptr<ObjectSlot>> slots_;
  size_t slot_bytes_ = 0, slots_used_ = 0;
  uint64_t next_device_ = 1;
  std::string problem_;
  std::unique_ptr<AgentOfOne> own_;
};

}  // namespace hicache::nixl
