// The engine over usrbio: files of a 3FS, through a ring for reads and a ring for writes. Memory of kind `shared` goes as it is; all other memory through staging slots in
// shared memory of the engine's own.
//
// Three threads: one prepares and submits on both rings, one waits on each. They take what blocks from the agent's thread: copies, registration of descriptors, rings that are
// made and ended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/engine.h"

namespace hicache::hf3fs {

// `dram`: everything is staged. `dram_zc` and `automatic`: what lies in a SharedArena of this mount is not.
enum class MemConfig : uint8_t { dram, dram_zc, automatic };

struct Options {
  std::string mount_point;  // any directory of the mount
  MemConfig mem_config = MemConfig::dram;
  unsigned iopool_size = 64;         // staging slots, for both directions together
  size_t slot_bytes = 1 << 20;       // of one; larger requests go in pieces. Made smaller, down to 64 KiB, where they would be more than staging_bytes_max
  size_t staging_bytes_max = 1 << 30;
  unsigned queue_depth = 64;         // pieces in each ring at once
  int timeout_ms = 30000;            // of one piece in a ring: then its request fails with ETIMEDOUT
  int grace_ms = 1000;               // after that (or a cancel) its ring is ended, to get back what the piece holds
  int retry_ms = 5000;               // a ring in which requests hang again after it was made anew is not made again before; requests fail with ETIMEDOUT meanwhile
};

struct Counters {
  uint64_t zero_copy = 0;    // pieces
  uint64_t staged = 0;       // pieces
  uint64_t not_shared = 0;   // requests that were staged although dram_zc was asked for, because their memory is not shared
  uint64_t timed_out = 0;    // pieces
  uint64_t renewed = 0;      // rings that were ended because of requests that hang, or of errors
  uint64_t strange = 0;      // completions that nobody waited for
  uint64_t quarantined = 0;  // now: staging slots that the file system's side may still write to
};

class Hf3fsEngine : public Engine {
 public:
  virtual Counters counters() const = 0;
  virtual const std::string& mount_point() const = 0;
};

// May block: it makes shared memory and rings through the mount. nullptr with `reason` and `remedy` when it cannot be had.
//
// A read in staging memory that timed out or was cancelled is handed back at once, its slot when it is reaped or its ring has been ended. A write, and whatever goes without a copy, is only
// handed back then: until then it may still change the file, or the memory.
std::unique_ptr<Hf3fsEngine> try_create_engine(const Options& options, std::string& reason, std::string& remedy);

}  // namespace hicache::hf3fs
