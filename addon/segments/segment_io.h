// The blocking calls of the segment layout that pool/file_io.h does not have: each asks first whether a failure is planned for it, repeats EINTR, and answers
// -errno. Further points: fsync, truncate, fallocate, rmdir, list, statfs. And failures that carry what was tried, for code that runs on a thread of its own.
#pragma once

#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "pool/file_io.h"
#include "util/unique_fd.h"

namespace hicache::segments {

// What the functions of this folder throw. `what` reads on in "...: EIO (Input/output error)."
struct Failure {
  int error;
  std::string what;
};
// The answer of a call, or a Failure.
template <typename Answer>
Answer must(Answer answer, const std::string& what) {
  if (answer < 0) throw Failure{static_cast<int>(-answer), what};
  return answer;
}

// Follows links: the storage directory is the operator's.
int open_directory(const std::string& path);
int sync(int fd, bool data_only, const char* name);
int truncate(int fd, uint64_t size, const char* name);
int allocate(int fd, uint64_t size, const char* name);
// -EWOULDBLOCK when somebody else holds it.
int try_lock(int fd, bool shared, const char* name);
int remove_folder(int folder, const char* path, const char* name);
int file_system_of(int fd, struct statfs* out, const char* name);
// Names in a folder, without "." and "..".
int list(int folder, std::vector<std::string>& out, const char* name);

// A regular file, opened without following a link and without waiting for a FIFO's other end. -EISDIR and -EINVAL: something else has its name.
int open_file(int folder, const char* path, int flags, const char* name, struct stat* status = nullptr);
// A folder below `folder`.
int open_folder(int folder, const char* path, const char* name);

// Bytes that a file takes: never less than its size, since what is sparse or compressed now may fill up.
uint64_t taken_bytes(const struct stat& status);
// Of everything below a folder (its own entry is not counted). What vanishes meanwhile counts nothing.
uint64_t taken_below(int folder, const std::string& name, int depth = 4);

}  // namespace hicache::segments
