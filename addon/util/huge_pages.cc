#include "util/huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>

namespace hicache {
namespace {

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14
#endif

constexpr size_t chunk_bytes = size_t{64} << 20;

// The share of each mapping's huge pages is not told by address, so a mapping that is only partly ours counts by at most its overlap.
int64_t huge_bytes(uintptr_t from, uintptr_t to) {
  std::FILE* const smaps = std::fopen("/proc/self/smaps", "re");
  if (smaps == nullptr) return -1;
  char line[512];
  uintptr_t start = 0, end = 0;
  int64_t total = 0;
  while (std::fgets(line, sizeof(line), smaps) != nullptr) {
    uintptr_t a, b;
    int64_t kib;
    if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &a, &b) == 2) {
      start = a;
      end = b;
    } else if (start < to && end > from && (std::sscanf(line, "AnonHugePages: %" SCNd64, &kib) == 1 || std::sscanf(line, "ShmemPmdMapped: %" SCNd64, &kib) == 1)) {
      total += std::min(kib * 1024, static_cast<int64_t>(std::min(end, to) - std::max(start, from)));
    }
  }
  std::fclose(smaps);
  return total;
}

}  // namespace

int64_t populate(void* address, size_t bytes, const std::atomic<bool>& stop) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto from = reinterpret_cast<uintptr_t>(address), to = from + bytes;
  const uintptr_t first = from / page * page;
  // Refused (no huge pages in this kernel, a locked-down container): then with small ones.
  ::madvise(reinterpret_cast<void*>(first), to - first, MADV_HUGEPAGE);
  for (uintptr_t at = first; at < to && !stop.load(std::memory_order_relaxed); at += chunk_bytes) {
    const size_t length = std::min(chunk_bytes, to - at);
    if (::madvise(reinterpret_cast<void*>(at), length, MADV_POPULATE_WRITE) == 0) continue;
    if (errno != EINVAL) break;  // ENOMEM, EFAULT: the memory is gone, or there is no more of it; touching it would be a signal
    // An older kernel. Adding nothing, atomically, brings a page in for writing and cannot lose what others write meanwhile.
    for (uintptr_t touch = std::max(at, from); touch < at + length; touch = touch / page * page + page) {
      if (stop.load(std::memory_order_relaxed)) break;
      __atomic_fetch_or(reinterpret_cast<uint8_t*>(touch), 0, __ATOMIC_RELAXED);
    }
  }
  return huge_bytes(from, to);
}

}  // namespace hicache
