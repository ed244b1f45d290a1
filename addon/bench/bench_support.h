#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "bench/bench.h"
#include "engine/engine.h"
#include "util/clock.h"
#include "util/unique_fd.h"

namespace hicache::bench {

std::string folder_of(const std::string& directory);  // everything the bench makes lies in here
int make_folder(const std::string& path);             // 0700; 0 or errno
double cpu_seconds();                                 // of the whole process

inline void fail(Result& result, const char* what, int error) {
  if (result.error != 0) return;
  result.error = error;
  result.failed = what;
}

// The file that the device is measured with, its extents written before: unwritten ones cost half the speed. Kept between calls, so that only the first one pays.
struct DeviceFile {
  UniqueFd fd;
  std::unique_ptr<Engine> engine;  // a ring, or AIO where it is forbidden; with `or_any`, what there is
  bool direct = false;
};
DeviceFile open_device_file(const std::string& directory, uint64_t bytes, unsigned queue_depth, bool or_any, Result& result);

// Page-aligned memory in huge pages where the system gives them, filled with bytes that do not compress.
class Buffers {
 public:
  explicit Buffers(size_t bytes);  // throws std::bad_alloc
  ~Buffers();
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace hicache::bench
