#include "segments/segment_io.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "util/fault.h"
#include "util/recorder.h"

namespace hicache::segments {
namespace {

template <typename Call>
int asked(const char* point, const char* name, Call&& call) {
  while (true) {
    const fault::Strike strike = fault::ask(point, name);
    if (strike.hang) fault::wait_released(strike);
    int error = strike.hit ? strike.error : 0;
    if (error == 0) {
      const int result = call();
      if (result >= 0) return result;
      error = errno;
    }
    if (error != EINTR) return -error;
  }
}

}  // namespace

int open_directory(const std::string& path) {
  return asked("open", path.c_str(), [&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
}

int sync(int fd, bool data_only, const char* name) {
  // Some file systems have no fsync of folders: then there is nothing to wait for.
  const int result = asked("fsync", name, [&] { return data_only ? recorded::fdatasync(fd) : recorded::fsync(fd); });
  return result == -EINVAL || result == -EROFS ? 0 : result;
}

int truncate(int fd, uint64_t size, const char* name) {
  return asked("truncate", name, [&] { return recorded::ftruncate(fd, static_cast<off_t>(size)); });
}

int allocate(int fd, uint64_t size, const char* name) {
  return asked("fallocate", name, [&] { return recorded::fallocate(fd, 0, 0, static_cast<off_t>(size)); });
}

int try_lock(int fd, bool shared, const char* name) {
  return asked("flock", name, [&] { return ::flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB); });
}

int remove_folder(int folder, const char* path, const char* name) {
  return asked("rmdir", name, [&] { return recorded::unlinkat(folder, path, AT_REMOVEDIR); });
}

int file_system_of(int fd, struct statfs* out, const char* name) {
  return asked("statfs", name, [&] { return ::fstatfs(fd, out); });
}

int list(int folder, std::vector<std::string>& out, const char* name) {
  // A descriptor of its own: reading a folder moves the position of the one that is read.
  const int opened = asked("list", name, [&] { return ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (opened < 0) return opened;
  DIR* const entries = ::fdopendir(opened);
  if (entries == nullptr) {
    const int error = errno;
    ::close(opened);
    return -error;
  }
  int error = 0;
  while (true) {
    errno = 0;
    const dirent* const entry = ::readdir(entries);
    if (entry == nullptr) {
      error = errno;
      break;
    }
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) out.emplace_back(entry->d_name);
  }
  ::closedir(entries);
  return -error;
}

int open_file(int folder, const char* path, int flags, const char* name, struct stat* status) {
  struct stat own;
  if (status == nullptr) status = &own;
  UniqueFd fd(file_io::open_at(folder, path, flags | O_NONBLOCK, 0600, name));
  if (!fd) return fd.release();
  if (const int error = file_io::stat(fd.get(), status, name); error < 0) return error;
  if (!S_ISREG(status->st_mode)) return S_ISDIR(status->st_mode) ? -EISDIR : -EINVAL;
  return fd.release();
}

int open_folder(int folder, const char* path, const char* name) { return file_io::open_at(folder, path, O_RDONLY | O_DIRECTORY, 0, name); }

uint64_t taken_bytes(const struct stat& status) {
  const uint64_t allocated = static_cast<uint64_t>(status.st_blocks) * 512;
  return S_ISREG(status.st_mode) ? std::max(allocated, static_cast<uint64_t>(status.st_size)) : allocated;
}

uint64_t taken_below(int folder, const std::string& name, int depth) {
  std::vector<std::string> entries;
  if (const int error = list(folder, entries, name.c_str()); error != 0) {
    if (error == -ENOENT) return 0;
    throw Failure{-error, "listing " + name};
  }
  uint64_t bytes = 0;
  for (const std::string& entry : entries) {
    const std::string path = name + "/" + entry;
    struct stat status;
    const int error = file_io::stat_at(folder, entry.c_str(), &status, path.c_str());
    if (error == -ENOENT) continue;
    must(error, "stat of " + path);
    bytes += taken_bytes(status);
    if (!S_ISDIR(status.st_mode) || depth == 0) continue;
    const UniqueFd below(open_folder(folder, entry.c_str(), path.c_str()));
    if (below) bytes += taken_below(below.get(), path, depth - 1);
    else if (below.get() != -ENOENT) throw Failure{-below.get(), "opening " + path};
  }
  return bytes;
}

}  // namespace hicache::segments
