// The blocking system calls of the pool. Each asks first whether a failure is planned for it (util/fault.h), repeats EINTR, continues short I/O, and
// answers -errno instead of setting errno.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <cstdint>

#include "util/gate.h"
#include "util/unique_fd.h"

namespace hicache::file_io {

// `name` is for fault injection only; `path` is one component, never followed when it is a link.
int open_at(int folder, const char* path, int flags, mode_t mode, const char* name);
int stat(int fd, struct stat* out, const char* name);
int stat_at(int folder, const char* path, struct stat* out, const char* name);
int mkdir_at(int folder, const char* path, const char* name);
int link_descriptor(int fd, int folder, const char* path, const char* name);
int rename_at(int from_folder, const char* from, int to_folder, const char* to, const char* name);
int unlink_at(int folder, const char* path, const char* name);
// LOCK_EX; blocking unless `try_only`. A file system without locks answers 0: nobody can lock there, so nobody can sweep either.
int lock(int fd, bool try_only, const char* name);
int sync_data(int fd, const char* name);
int touch_access_time(int folder, const char* path, const char* name);

// Memory that may end while a call that hangs is still to come, or under way: the gate is asked before every system call (ECANCELED once it is closed). A read through
// the page cache fills the memory at the call's very end, whoever owns the address by then: with `buffered` it goes to a buffer of our own, and from there through the
// gate. (O_DIRECT holds the memory itself. A file system in memory never hangs.)
struct Guard {
  Gate* gate = nullptr;
  bool buffered = false;
};

inline constexpr int iov_max = 3;
// All of it, or -errno; a read is short only at the end of the file. `direct`: the descriptor is O_DIRECT, so continue at whole blocks.
int64_t write_all(int fd, const iovec* iov, int count, uint64_t offset, bool direct, const char* name, const Guard& guard = {});
int64_t read_all(int fd, const iovec* iov, int count, uint64_t offset, bool direct, const char* name, const Guard& guard = {});

}  // namespace hicache::file_io
