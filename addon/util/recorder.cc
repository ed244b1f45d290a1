#include "util/recorder.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <mutex>

namespace hicache::recorder {

std::atomic<bool> recording{false};

namespace {

// One entry: this header, then `name_bytes` of path, then `data_bytes`. spec/trials/recording.ts reads it.
enum class Kind : uint32_t { write = 1, sync = 2, end = 3, create = 4, folder = 5, rename = 6, unlink = 7, resize = 8, mark = 9 };
struct Header {
  uint32_t kind = 0;
  uint32_t name_bytes = 0;
  uint64_t id = 0;      // of a write or sync; end: of the one that ended
  uint64_t inode = 0;   // of the file; a rename has none
  int64_t number = 0;   // write: offset; end: result; resize: bytes
  uint64_t length = 0;  // write: bytes, rename: bytes of the first path, resize: 1 = never shorter
  uint64_t data_bytes = 0;  // write: `length`, or 0 where all of it is zeros
};
static_assert(sizeof(Header) == 48);

struct State {
  std::mutex mutex;
  int fd = -1;
  int error = 0;
  uint64_t next_id = 1;
  std::string directory;
};

// Never destroyed: pool threads may still write while the process runs its static destructors.
State& state() {
  static State* const the_state = new State;
  return *the_state;
}

// Under the mutex.
void put(State& s, const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0 && s.error == 0) {
    const ssize_t written = ::write(s.fd, at, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      s.error = written < 0 ? errno : EIO;
      return;
    }
    at += written;
    bytes -= static_cast<size_t>(written);
  }
}

void entry(Header header, Kind kind, std::string_view name, const iovec* iov = nullptr, int count = 0) {
  const int error_before = errno;
  State& s = state();
  {
    std::lock_guard lock(s.mutex);
    if (s.fd >= 0) {
      header.kind = static_cast<uint32_t>(kind);
      header.name_bytes = static_cast<uint32_t>(name.size());
      put(s, &header, sizeof header);
      put(s, name.data(), name.size());
      if (header.data_bytes > 0) {
        for (int i = 0; i < count; i++) put(s, iov[i].iov_base, iov[i].iov_len);
      }
    }
  }
  errno = error_before;
}

std::string path_of(int fd) {
  if (fd == AT_FDCWD) return "";
  char link[32], path[PATH_MAX];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = ::readlink(link, path, sizeof path);
  return length > 0 ? std::string(path, static_cast<size_t>(length)) : "";
}

std::string path_of(int folder, const char* path) {
  if (path[0] == '/' || folder == AT_FDCWD) return path;
  return path_of(folder) + "/" + path;
}

bool concerns(const std::string& path) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  return path.size() >= s.directory.size() && path.compare(0, s.directory.size(), s.directory) == 0 &&
         (path.size() == s.directory.size() || path[s.directory.size()] == '/');
}

uint64_t inode_of(int fd) {
  struct stat status;
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

uint64_t next_id() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  return s.next_id++;
}

bool all_zero(const iovec* iov, int count) {
  for (int i = 0; i < count; i++) {
    const uint8_t* data = static_cast<const uint8_t*>(iov[i].iov_base);
    if (iov[i].iov_len > 0 && (data[0] != 0 || std::memcmp(data, data + 1, iov[i].iov_len - 1) != 0)) return false;
  }
  return true;
}

}  // namespace

int start(const std::string& log, const std::string& directory) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (s.fd >= 0) return EBUSY;
  s.fd = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (s.fd < 0) return errno;
  s.error = 0;
  s.directory = directory;
  recording.store(true);
  return 0;
}

void mark(std::string_view text) {
  Header header;
  header.length = header.data_bytes = text.size();
  const iovec iov = {const_cast<char*>(text.data()), text.size()};
  entry(header, Kind::mark, "", &iov, 1);
}

int stop() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  recording.store(false);
  if (s.fd >= 0) ::close(s.fd);
  s.fd = -1;
  return s.error;
}

uint64_t begin_write_now(int fd, const iovec* iov, int count, uint64_t offset) {
  const std::string path = path_of(fd);
  if (!concerns(path)) return 0;
  Header header;
  header.id = next_id();
  header.inode = inode_of(fd);
  header.number = static_cast<int64_t>(offset);
  for (int i = 0; i < count; i++) header.length += iov[i].iov_len;
  header.data_bytes = all_zero(iov, count) ? 0 : header.length;
  entry(header, Kind::write, path, iov, count);
  return header.id;
}

uint64_t begin_sync_now(int fd) {
  const std::string path = path_of(fd);
  if (!concerns(path)) return 0;
  Header header;
  header.id = next_id();
  header.inode = inode_of(fd);
  entry(header, Kind::sync, path);
  return header.id;
}

void end_now(uint64_t id, int64_t result) {
  Header header;
  header.id = id;
  header.number = result == withdrawn ? -2 : std::max<int64_t>(result, -1);
  entry(header, Kind::end, "");
}

void created(int fd) {
  const std::string path = path_of(fd);
  if (!concerns(path)) return;
  Header header;
  header.inode = inode_of(fd);
  entry(header, Kind::create, path);
}

void made_folder(int folder, const char* path) {
  const std::string whole = path_of(folder, path);
  if (concerns(whole)) entry({}, Kind::folder, whole);
}

void renamed(int from_folder, const char* from, int to_folder, const char* to) {
  const std::string before = path_of(from_folder, from), after = path_of(to_folder, to);
  if (!concerns(before) && !concerns(after)) return;
  Header header;
  header.length = before.size();
  entry(header, Kind::rename, before + after);
}

void unlinked(int folder, const char* path) {
  const std::string whole = path_of(folder, path);
  if (concerns(whole)) entry({}, Kind::unlink, whole);
}

void resized(int fd, uint64_t bytes, bool only_longer) {
  const std::string path = path_of(fd);
  if (!concerns(path)) return;
  Header header;
  header.inode = inode_of(fd);
  header.number = static_cast<int64_t>(bytes);
  header.length = only_longer ? 1 : 0;
  entry(header, Kind::resize, path);
}

}  // namespace hicache::recorder
