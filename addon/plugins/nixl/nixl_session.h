// One NIXL agent with one backend: what is registered with it, blocks of memory of its own, and its requests. Thrown away as a whole after a failure, because some plugins fail
// every later transfer once one has failed, and some report the failure of one request as another's. Of one thread at a time.
#pragma once

#include <sys/stat.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "agent/memory_registry.h"
#include "plugins/nixl/nixl_backend.h"
#include "util/aligned_buffer.h"

namespace hicache::nixl {

struct Job;

// How an agent is got rid of after an error, which says neither whose I/O it was nor that the others are idle.
enum class Containment : uint8_t {
  // Its other requests are asked until they end, and get time to settle: plugins whose requests have nothing to do with each other.
  settled,
  // Nothing is asked any more. Destroying the agent waits for the kernel, and then its memory is idle: Linux AIO.
  destroyed,
  // Nothing tells when the memory is idle: the agent is neither asked nor destroyed but kept for ever, with its blocks, in which all that it moves has to lie. io_uring (the kernel
  // works on for a ring that was closed) and POSIX AIO (what is running cannot be called off, and its thread writes to memory of the agent's).
  kept,
};

struct SessionSettings {
  const Api* api = nullptr;
  std::string plugin;
  std::map<std::string, std::string> parameters;
  Containment containment = Containment::settled;
  bool short_reads_fail = false;  // an error even where the file ends: POSIX AIO
};

// A file that the agent knows by its descriptor.
struct FileEntry {
  int fd = -1;
  dev_t device = 0;
  ino_t inode = 0;
  int flags = 0;  // as of F_GETFL: a plugin may keep them with the descriptor
  bool registered = false;
  bool queued = false;     // among those that are about to be registered
  bool forgotten = false;  // goes as soon as nothing uses it
  size_t users = 0;
  // What the last fstat() said, and in which round that was.
  uint64_t size = 0;
  bool regular = true;
  uint64_t round = 0;
};

struct MemoryEntry {
  uint32_t id = 0;  // of the region
  uint8_t* address = nullptr;
  size_t length = 0;
  int type = memory::dram;
  uint64_t device = 0;
  size_t users = 0;
};

// Memory of the session, registered with its agent: ordinary memory is copied through it.
struct Block {
  uint8_t* data = nullptr;
  size_t length = 0;
};

struct Descriptor {
  uintptr_t address = 0;
  size_t length = 0;
  uint64_t device = 0;
  uint64_t offset = 0;
  int fd = -1;
};

// A request of the library.
struct Transfer {
  XferReq* request = nullptr;
  int operation = 0;
  size_t descriptors = 0;
  uint64_t bytes = 0;
  size_t live = 0;  // jobs that somebody still waits for
  int64_t posted_ns = 0, next_poll_ns = 0, deadline_ns = 0;
  bool failed = false;  // or one beside it: its end is kept back until next_poll_ns
  std::vector<Job*> jobs;
};

class Session {
 public:
  // nullptr with a refusal.
  static std::unique_ptr<Session> open(const SessionSettings&, Refusal&);
  ~Session();  // no request may be in progress, unless destroy_apart() has come to its end
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  bool moves(int memory_type) const { return own_.moves(memory_type); }

  // The entry of the descriptor, used once more; a number that means another file by now gets a new one. It may not be registered yet.
  FileEntry* file(int fd, const struct stat& info, int flags);
  FileEntry* known_file(int fd);  // nullptr: not known. Not used once more.
  // Tells the agent of files, each named once, by one call if it takes it. One that was refused stays unregistered.
  void register_files(const std::vector<FileEntry*>& files);
  void let_go(FileEntry* entry);
  void forget_file(int fd);

  // The region as a whole, used once more. nullptr when the agent refuses it.
  MemoryEntry* memory_of(const Region& region);
  void let_go(MemoryEntry* entry) { entry->users--; }
  void forget_region(uint32_t id);

  // False when none is free; with `broken` when there are none to be had at all.
  bool take_block(size_t bytes, Block& block, bool& broken);
  void give_back(const Block& block);

  // The status. Whatever it is, a request that exists is in the transfer afterwards.
  int post(int operation, int memory_type, const std::vector<Descriptor>& descriptors, Transfer& transfer);
  int poll(Transfer& transfer);
  // Only after it has come to its end. Nothing where the agent is gone: its requests would be asked once more inside of that call, and are left to the library.
  void release(Transfer& transfer);

  // After an error, with requests in progress. The library is not called for the agent any more; its requests' handles, a few kilobytes, are lost.
  void destroy_apart();  // on a thread of its own, because it waits for the kernel
  bool destroying() const { return destruction_ != nullptr; }
  bool destroyed() const { return destruction_ != nullptr && destruction_->load(std::memory_order_acquire); }
  void abandon();  // never destroyed
  bool abandoned() const { return abandoned_; }

  const std::string& problem() const { return problem_; }

  std::vector<std::unique_ptr<Transfer>> transfers;
  size_t in_flight = 0;   // descriptors
  bool broken = false;    // nothing new is given to it
  bool failed = false;    // an error came out of it: whatever it says is not believed
  bool given_up = false;  // a transfer passed its deadline, and may never end

 private:
  static constexpr size_t files_max = 512, regions_max = 64;

  struct Slab {
    size_t bytes = 0, count = 0;
    AlignedBuffer memory;
    std::vector<uint8_t*> free;
  };

  Session(const Api& api, std::string name) : own_(api, std::move(name)) {}
  bool start(const SessionSettings&, Refusal&);
  int memory_call(bool in, int type, const std::vector<Descriptor>& descriptors);
  void deregister(FileEntry& entry);
  void erase(std::list<FileEntry>::iterator at);
  void make_room_for_files();
  void make_room_for(const Region& region);
  void deregister(const MemoryEntry& entry);
  bool open_slab(Slab& slab);

  std::list<FileEntry> files_;  // the one used last first
  std::unordered_map<int, std::list<FileEntry>::iterator> by_fd_;
  std::list<MemoryEntry> regions_;
  // The smaller first; all but the first are had when they are needed. Of the sizes of records, of small pages, and of parts of large ones.
  std::array<Slab, 3> slabs_{Slab{block_bytes, 256, {}, {}}, Slab{64 << 10, 64, {}, {}}, Slab{256 << 10, 16, {}, {}}};
  std::shared_ptr<std::atomic<bool>> destruction_;
  bool abandoned_ = false;
  std::string problem_;
  // Ends first: the agent knows the memory above.
  AgentOfOne own_;
};

}  // namespace hicache::nixl
