#include "bench/bench_support.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <new>

#include "util/aligned_buffer.h"

namespace hicache::bench {

std::string folder_of(const std::string& directory) { return directory + "/.hicache-nixl-bench"; }

int make_folder(const std::string& path) { return ::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST ? 0 : errno; }

double cpu_seconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Buffers::Buffers(size_t bytes) : bytes_(round_up(bytes, size_t{2} << 20)) {
  void* const memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  ::madvise(memory, bytes_, MADV_HUGEPAGE);
  data_ = static_cast<uint8_t*>(memory);
  uint64_t state = 0x9e3779b97f4a7c15;
  for (size_t i = 0; i < bytes_; i += 8) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    *reinterpret_cast<uint64_t*>(data_ + i) = state;
  }
}

Buffers::~Buffers() { ::munmap(data_, bytes_); }

int cleanup(const std::string& directory) {
  std::error_code error;
  std::filesystem::remove_all(folder_of(directory), error);
  return error ? error.value() : 0;
}

}  // namespace hicache::bench
