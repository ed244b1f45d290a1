// What the device and a plain C++ loop reach, measured in the same run as the cache itself. Their own code, without the agent, so that the agent has
// something to be compared with. All of it blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "plugins/obj/object_endpoint.h"

namespace hicache::bench {

struct Result {
  uint64_t bytes = 0;
  double seconds = 0, cpu_seconds = 0;
  std::vector<double> latency_us;  // one a page; of a mix: of its reads
  uint64_t read_bytes = 0, write_bytes = 0;  // of a mix
  std::vector<double> write_latency_us;
  int error = 0;                   // errno, with what failed
  std::string failed;
};

struct DeviceOptions {
  std::string directory;
  bool write = false;
  size_t page_bytes = 0;
  uint64_t bytes = 0;
  unsigned queue_depth = 32;
};
Result device_limit(const DeviceOptions&);

struct LoopOptions {
  std::string directory;
  bool write = false;
  size_t page_bytes = 0;
  uint64_t pages = 0;
  unsigned threads = 8;
  bool direct = true;
  bool replace = false;
};
Result file_loop(const LoopOptions&);

// Pages read and written by one ring at the same time, in the file of device_limit.
struct MixOptions {
  std::string directory;
  size_t page_bytes = 0;
  uint64_t bytes = 0;
  unsigned writes_in_flight = 0, reads_in_flight = 0;
};
Result mix_loop(const MixOptions&);

// A plain loop over an object store, with libcurl; lib/transfer/native-binding.ts says what it does.
struct CurlLoopOptions {
  ObjectOptions endpoint;
  bool put = false;
  size_t page_bytes = 0;
  uint64_t pages = 0;
  unsigned concurrency = 64;
  std::string prefix;
};
Result curl_loop(const CurlLoopOptions&);

// 0 or errno.
int cleanup(const std::string& directory);

}  // namespace hicache::bench
