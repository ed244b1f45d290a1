#include "pool/file_io.h"

#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "util/aligned_buffer.h"
#include "util/fault.h"
#include "util/recorder.h"

namespace hicache::file_io {
namespace {

// The errno to fail with, or 0 to go on. What hangs, hangs here.
int planned(const char* point, const char* name, int64_t* short_bytes = nullptr) {
  const fault::Strike strike = fault::ask(point, name);
  if (!strike.hit) return 0;
  if (strike.hang) fault::wait_released(strike);
  if (short_bytes != nullptr) *short_bytes = strike.short_bytes;
  return strike.error;
}

// One system call that is tried again when a signal interrupts it. Answers what it answered, or -errno.
template <typename Call>
int asked(const char* point, const char* name, Call&& call) {
  while (true) {
    int error = planned(point, name);
    if (error == 0) {
      const int result = call();
      if (result >= 0) return result;
      error = errno;
    }
    if (error != EINTR) return -error;
  }
}

// The part of `iov` after the first `skip` bytes, and at most `limit` of it.
int slice(const iovec* iov, int count, size_t skip, size_t limit, iovec* out) {
  int used = 0;
  for (int i = 0; i < count && limit > 0; i++) {
    if (skip >= iov[i].iov_len) {
      skip -= iov[i].iov_len;
      continue;
    }
    const size_t length = std::min(iov[i].iov_len - skip, limit);
    out[used++] = {static_cast<uint8_t*>(iov[i].iov_base) + skip, length};
    skip = 0;
    limit -= length;
  }
  return used;
}

template <typename Transfer>
int64_t move_all(const char* point, const char* name, bool writing, bool direct, const iovec* iov, int count, Transfer&& transfer) {
  size_t total = 0, done = 0;
  for (int i = 0; i < count; i++) total += iov[i].iov_len;
  while (done < total) {
    int64_t short_bytes = -1;
    int error = planned(point, name, &short_bytes);
    ssize_t moved = -1;
    if (error == 0 && short_bytes == 0) {
      moved = 0;
    } else if (error == 0) {
      size_t limit = total - done;
      // A planned short transfer is a real one of that size; O_DIRECT moves whole blocks only.
      if (short_bytes > 0) limit = std::min(limit, direct ? round_up(static_cast<size_t>(short_bytes)) : static_cast<size_t>(short_bytes));
      iovec rest[iov_max];
      const int used = slice(iov, count, done, limit, rest);
      moved = transfer(rest, used, done);
      error = errno;
    }
    if (moved < 0) {
      if (error == EINTR || error == EAGAIN) continue;
      return -error;
    }
    if (moved == 0) return writing ? -EIO : static_cast<int64_t>(done);
    const size_t before = done;
    done += static_cast<size_t>(moved);
    if (direct && done < total && done % block_bytes != 0) {
      // O_DIRECT goes on at a whole block only. A read that ends inside one has met the end of the file; a write does the block again.
      if (!writing) return static_cast<int64_t>(done);
      done = round_down(done);
      if (done == before) return -EIO;
    }
  }
  return static_cast<int64_t>(done);
}

}  // namespace

int open_at(int folder, const char* path, int flags, mode_t mode, const char* name) {
  return asked("open", name, [&] { return recorded::openat(folder, path, flags | O_CLOEXEC | O_NOFOLLOW, mode); });
}

int stat(int fd, struct stat* out, const char* name) {
  return asked("stat", name, [&] { return ::fstat(fd, out); });
}

int stat_at(int folder, const char* path, struct stat* out, const char* name) {
  return asked("stat", name, [&] { return ::fstatat(folder, path, out, AT_SYMLINK_NOFOLLOW); });
}

int mkdir_at(int folder, const char* path, const char* name) {
  return asked("mkdir", name, [&] { return recorded::mkdirat(folder, path, 0700); });
}

int link_descriptor(int fd, int folder, const char* path, const char* name) {
  char from[32];
  std::snprintf(from, sizeof(from), "/proc/self/fd/%d", fd);
  return asked("link", name, [&] { return ::linkat(AT_FDCWD, from, folder, path, AT_SYMLINK_FOLLOW); });
}

int rename_at(int from_folder, const char* from, int to_folder, const char* to, const char* name) {
  return asked("rename", name, [&] { return recorded::renameat(from_folder, from, to_folder, to); });
}

int unlink_at(int folder, const char* path, const char* name) {
  return asked("unlink", name, [&] { return recorded::unlinkat(folder, path, 0); });
}

int lock(int fd, bool try_only, const char* name) {
  const int result = asked("flock", name, [&] { return ::flock(fd, LOCK_EX | (try_only ? LOCK_NB : 0)); });
  return !try_only && (result == -ENOLCK || result == -ENOSYS || result == -EOPNOTSUPP) ? 0 : result;
}

int sync_data(int fd, const char* name) {
  return asked("fsync", name, [&] { return recorded::fdatasync(fd); });
}

int touch_access_time(int folder, const char* path, const char* name) {
  const timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
  return asked("utimens", name, [&] { return ::utimensat(folder, path, times, AT_SYMLINK_NOFOLLOW); });
}

namespace {

// Through a buffer of our own, at most its size at once.
ssize_t read_by_buffer(int fd, const iovec* iov, int count, off_t offset, Gate& gate) {
  thread_local const AlignedBuffer buffer(1 << 20);
  size_t wanted = 0;
  for (int i = 0; i < count; i++) wanted += iov[i].iov_len;
  const ssize_t moved = ::pread(fd, buffer.data(), std::min(wanted, buffer.size()), offset);
  if (moved <= 0) return moved;
  const bool touched = gate.touch([&] {
    size_t at = 0;
    for (int i = 0; i < count && at < static_cast<size_t>(moved); i++) {
      const size_t part = std::min(iov[i].iov_len, static_cast<size_t>(moved) - at);
      std::memcpy(iov[i].iov_base, buffer.data() + at, part);
      at += part;
    }
  });
  if (touched) return moved;
  errno = ECANCELED;
  return -1;
}

bool ended(const Guard& guard) {
  if (guard.gate == nullptr || !guard.gate->closed()) return false;
  errno = ECANCELED;
  return true;
}

}  // namespace

int64_t write_all(int fd, const iovec* iov, int count, uint64_t offset, bool direct, const char* name, const Guard& guard) {
  return move_all("pwritev", name, true, direct, iov, count, [&](const iovec* rest, int used, size_t done) -> ssize_t {
    return ended(guard) ? -1 : recorded::pwritev(fd, rest, used, static_cast<off_t>(offset + done));
  });
}

int64_t read_all(int fd, const iovec* iov, int count, uint64_t offset, bool direct, const char* name, const Guard& guard) {
  return move_all("preadv", name, false, direct, iov, count, [&](const iovec* rest, int used, size_t done) -> ssize_t {
    if (ended(guard)) return -1;
    const off_t at = static_cast<off_t>(offset + done);
    return guard.gate != nullptr && guard.buffered ? read_by_buffer(fd, rest, used, at, *guard.gate) : ::preadv(fd, rest, used, at);
  });
}

}  // namespace hicache::file_io
