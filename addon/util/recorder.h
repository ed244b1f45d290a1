// A log of what is written, synchronised, named and cut below one directory, and when, from which the specs build what a
// power cut could leave (spec/trials/crash-images.ts). Nothing is recorded in production: one relaxed load a call.
//
// What writes files of the segment layout calls these instead of the system calls of the same names. Engines tell what
// they hand to the kernel by begin_write() and end().
//
// Of writes and syncs both ends are in the log: a write is certainly on the disk once a sync of its file that began
// after the write's end has ended. Names are logged once they are made, before anybody can act upon it.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace hicache::recorder {

extern std::atomic<bool> recording;
inline bool on() { return recording.load(std::memory_order_relaxed); }

// Begins a new log. What happens to files below `directory` (an absolute path without links) is recorded. 0 or errno.
int start(const std::string& log, const std::string& directory);
// Anybody's words, in their place in the log.
void mark(std::string_view text);
// 0, or the errno of the first entry that could not be logged.
int stop();

// Called only while on(). The number is 0 for what is not recorded, which end() ignores.
uint64_t begin_write_now(int fd, const iovec* iov, int count, uint64_t offset);
uint64_t begin_sync_now(int fd);
void end_now(uint64_t id, int64_t result);  // keeps errno
// A result of end(): the kernel was never given it.
inline constexpr int64_t withdrawn = INT64_MIN;
void created(int fd);
void made_folder(int folder, const char* path);
void renamed(int from_folder, const char* from, int to_folder, const char* to);
void unlinked(int folder, const char* path);
void resized(int fd, uint64_t bytes, bool only_longer);

inline uint64_t begin_write(int fd, const iovec* iov, int count, uint64_t offset) {
  if (!on()) [[likely]] return 0;
  return begin_write_now(fd, iov, count, offset);
}
inline void end(uint64_t id, int64_t result) {
  if (id != 0) [[unlikely]] end_now(id, result);
}

}  // namespace hicache::recorder

// System calls that are recorded when a recording is on.
namespace hicache::recorded {

inline ssize_t pwritev(int fd, const iovec* iov, int count, off_t offset) {
  const uint64_t id = recorder::begin_write(fd, iov, count, static_cast<uint64_t>(offset));
  const ssize_t result = ::pwritev(fd, iov, count, offset);
  recorder::end(id, result);
  return result;
}

inline ssize_t pwrite(int fd, const void* data, size_t length, off_t offset) {
  const iovec iov = {const_cast<void*>(data), length};
  const uint64_t id = recorder::begin_write(fd, &iov, 1, static_cast<uint64_t>(offset));
  const ssize_t result = ::pwrite(fd, data, length, offset);
  recorder::end(id, result);
  return result;
}

inline int fdatasync(int fd) {
  const uint64_t id = recorder::on() ? recorder::begin_sync_now(fd) : 0;
  const int result = ::fdatasync(fd);
  recorder::end(id, result);
  return result;
}

inline int fsync(int fd) {
  const uint64_t id = recorder::on() ? recorder::begin_sync_now(fd) : 0;
  const int result = ::fsync(fd);
  recorder::end(id, result);
  return result;
}

inline int openat(int folder, const char* path, int flags, mode_t mode = 0) {
  const int fd = ::openat(folder, path, flags, mode);
  if (fd >= 0 && recorder::on() && (flags & (O_CREAT | O_TRUNC)) != 0) [[unlikely]] {
    if ((flags & O_CREAT) != 0) recorder::created(fd);
    if ((flags & O_TRUNC) != 0) recorder::resized(fd, 0, false);
  }
  return fd;
}

inline int open(const char* path, int flags, mode_t mode = 0) { return recorded::openat(AT_FDCWD, path, flags, mode); }

inline int mkdirat(int folder, const char* path, mode_t mode) {
  const int result = ::mkdirat(folder, path, mode);
  if (result == 0 && recorder::on()) [[unlikely]] recorder::made_folder(folder, path);
  return result;
}

inline int mkdir(const char* path, mode_t mode) { return recorded::mkdirat(AT_FDCWD, path, mode); }

inline int renameat(int from_folder, const char* from, int to_folder, const char* to) {
  const int result = ::renameat(from_folder, from, to_folder, to);
  if (result == 0 && recorder::on()) [[unlikely]] recorder::renamed(from_folder, from, to_folder, to);
  return result;
}

inline int rename(const char* from, const char* to) { return recorded::renameat(AT_FDCWD, from, AT_FDCWD, to); }

// With AT_REMOVEDIR for folders, too.
inline int unlinkat(int folder, const char* path, int flags) {
  const int result = ::unlinkat(folder, path, flags);
  if (result == 0 && recorder::on()) [[unlikely]] recorder::unlinked(folder, path);
  return result;
}

inline int unlink(const char* path) { return recorded::unlinkat(AT_FDCWD, path, 0); }
inline int rmdir(const char* path) { return recorded::unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

inline int ftruncate(int fd, off_t length) {
  const int result = ::ftruncate(fd, length);
  if (result == 0 && recorder::on()) [[unlikely]] recorder::resized(fd, static_cast<uint64_t>(length), false);
  return result;
}

inline int fallocate(int fd, int mode, off_t offset, off_t length) {
  const int result = ::fallocate(fd, mode, offset, length);
  if (result == 0 && recorder::on() && mode == 0) [[unlikely]] {
    recorder::resized(fd, static_cast<uint64_t>(offset + length), true);
  }
  return result;
}

inline int posix_fallocate(int fd, off_t offset, off_t length) {
  const int result = ::posix_fallocate(fd, offset, length);
  if (result == 0 && recorder::on()) [[unlikely]] recorder::resized(fd, static_cast<uint64_t>(offset + length), true);
  return result;
}

}  // namespace hicache::recorded
