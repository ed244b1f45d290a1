// An engine over a NIXL agent of its own: NIXL's plugins POSIX, GDS, GDS_MT and HF3FS move the bytes of files whose descriptors they are given.
//
// The library does its work inside of our calls, on the caller's thread (its POSIX plugin has no thread of its own), so the engine asks again by a timer, for as long as
// something is in flight. Nothing that the library says is believed: after "success" the length of the file is looked at; after a failure the agent is thrown away, and all that it
// had in flight (an error may be another's) is tried once more, each request by itself; after a deadline the agent is given up, with the memory that it may still write to.
//
// An error does not say that the other requests' memory is idle. Linux AIO's agents are destroyed, which waits for it. With io_uring and POSIX AIO nobody can know: there all bytes
// go through blocks of the agent's own, and an agent that failed with several descriptors in flight is kept for ever with its blocks (about 9 MiB). Such agents are few: afterwards
// descriptors go one at a time for a while, each time for longer, and for good once the process keeps kept_max of them; a single descriptor that fails has come to its end.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "plugins/nixl/nixl_api.h"

namespace hicache::nixl {

struct Options {
  std::string plugin = "POSIX";
  // As NIXL wants them. It ignores unknown ones silently. HF3FS gets mem_config=dram unless that is given: it would map over the memory it is given.
  std::map<std::string, std::string> parameters;
  unsigned queue_depth = 256;  // descriptors in flight in an agent; 1 to 256, brought into that range: with over 512 NIXL's io_uring hangs
  int64_t timeout_ms = 30'000;  // of one transfer; then its agent is given up
  // A transfer of several descriptors that fails may have others still under way. Where that cannot be known, nobody gets them back for so long, nor are they tried again.
  int64_t settle_ms = 250;
  // Agents that the process may keep for ever because they failed; beyond that descriptors go one at a time, for good. Several engines may add one each at the same time.
  size_t kept_max = 8;
};

// Counted since the engine was made.
struct Statistics {
  uint64_t transfers = 0, polls = 0;
  uint64_t agents = 0;       // made
  uint64_t failed = 0;       // transfers that the library failed
  uint64_t retried = 0;      // requests that were tried once more by themselves
  uint64_t short_writes = 0; // the library said success, and the file did not have the bytes
  uint64_t short_reads = 0;  // the library said success, and the end of what was to be read had not come
  uint64_t given_up = 0;     // agents that passed a deadline
  uint64_t kept = 0;         // agents that failed with several descriptors in flight, and are kept for ever
};

class NixlEngine : public Engine {
 public:
  // Before the descriptor is closed, on the engine's thread. Without it a number that is used again is noticed, but the agent keeps the old one for a while.
  virtual void forget_file(int fd) = 0;
  // Before memory ends, on the engine's thread; the same.
  virtual void forget_region(uint32_t id) = 0;
  virtual bool takes_device_memory() const = 0;
  // Of NIXL, in words; empty when there was none. NIXL's errors carry no text.
  virtual const std::string& last_problem() const = 0;
  virtual const Statistics& statistics() const = 0;
  // Agents that are given up now, and still hold requests.
  virtual size_t agents_given_up() const = 0;
};

// nullptr with a refusal. Loads the library and makes the first agent: for threads that may wait.
std::unique_ptr<NixlEngine> try_create_nixl(const Options&, Refusal&);

// Agents that this process has left behind, with their requests, because these never came to an end.
size_t agents_left_behind();
// Agents that this process keeps because they failed, and nothing says when the kernel has done with their memory.
size_t agents_kept();

struct Probe {
  bool usable = false;
  bool objects = false;  // the plugin moves objects, and no files: pages are objects (nixl_objects.h)
  std::string path, version, plugin_folder;
  std::vector<PluginInfo> plugins;
  std::string reason, remedy;
};
// By making an engine, or an agent for objects, and asking it nothing. For threads that may wait.
Probe probe(const Options&);

}  // namespace hicache::nixl
