// The client library of 3FS's usrbio interface, loaded when it is first needed. Its headers are not: what is declared here is the part of its binary interface that we use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>

#include "util/shared_library.h"

namespace hicache::hf3fs {

// Shared memory that the file system's side knows. `id` names it there.
struct Iov {
  uint8_t* base;
  void* handle;
  uint8_t id[16];
  char mount_point[256];
  size_t size;
  size_t block_size;
  int numa;
};
// A ring of requests, all reads or all writes.
struct Ior {
  Iov iov;
  void* handle;
  char mount_point[256];
  bool for_read;
  int io_depth;
  int priority;
  int timeout;
  uint64_t flags;
};
struct Cqe {
  int32_t index;
  int32_t reserved;
  int64_t result;
  const void* userdata;
};
static_assert(sizeof(Iov) == 312 && offsetof(Iov, handle) == 8 && offsetof(Iov, id) == 16 && offsetof(Iov, mount_point) == 32);
static_assert(offsetof(Iov, size) == 288 && offsetof(Iov, block_size) == 296 && offsetof(Iov, numa) == 304);
static_assert(sizeof(Ior) == 600 && offsetof(Ior, handle) == 312 && offsetof(Ior, mount_point) == 320 && offsetof(Ior, for_read) == 576);
static_assert(offsetof(Ior, io_depth) == 580 && offsetof(Ior, priority) == 584 && offsetof(Ior, timeout) == 588 && offsetof(Ior, flags) == 592);
static_assert(sizeof(Cqe) == 24 && offsetof(Cqe, result) == 8 && offsetof(Cqe, userdata) == 16);

inline constexpr int any_numa_node = -1;

// 0 or -errno everywhere, except where it says otherwise.
struct Api {
  std::string path;
  std::string version;  // the library tells none: what can be said of it from outside

  bool (*is_hf3fs)(int fd) = nullptr;
  // The length + 1 or -1, and a C++ exception where the path does not exist: see mount_point_of().
  int (*extract_mount_point)(char* out, int size, const char* path) = nullptr;
  int (*iovcreate)(Iov*, const char* mount, size_t size, size_t block_size, int numa) = nullptr;
  void (*iovdestroy)(Iov*) = nullptr;
  size_t (*ior_size)(int entries) = nullptr;
  int (*iorcreate)(Ior*, const char* mount, int entries, bool for_read, int io_depth, int numa) = nullptr;
  void (*iordestroy)(Ior*) = nullptr;
  int (*reg_fd)(int fd, uint64_t flags) = nullptr;  // a POSITIVE errno is the error; zero or negative is good
  void (*dereg_fd)(int fd) = nullptr;
  int (*io_entries)(const Ior*) = nullptr;
  int (*prep_io)(const Ior*, const Iov*, bool read, void* ptr, int fd, size_t offset, uint64_t length, const void* userdata) = nullptr;  // an index >= 0 or -errno
  int (*submit_ios)(const Ior*) = nullptr;
  int (*wait_for_ios)(const Ior*, Cqe*, int count, int min, const timespec* absolute) = nullptr;  // how many; CLOCK_REALTIME
  // Not in every version.
  int (*iorcreate2)(Ior*, const char* mount, int entries, bool for_read, int io_depth, int priority, int numa) = nullptr;
  int (*iorcreate3)(Ior*, const char* mount, int entries, bool for_read, int io_depth, int priority, int timeout_ms, int numa) = nullptr;
  int (*iorcreate4)(Ior*, const char* mount, int entries, bool for_read, int io_depth, int timeout_ms, int numa, uint64_t flags) = nullptr;

  // By the newest of the calls that there are: normal priority, and requests are begun as they come. May block. 0 or -errno.
  int create_ring(Ior& ring, const std::string& mount, int entries, bool for_read) const;
};

// The library, once for the process; it is never unloaded. nullptr with the reason; the next call tries again. May read files: for threads that may wait.
const Api* load(Refusal&);

// The mount that `path` lies on; empty with the reason where that is no 3FS. May block.
std::string mount_point_of(const Api&, const std::string& path, std::string& reason);

}  // namespace hicache::hf3fs
