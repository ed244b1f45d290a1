#include "plugins/posix/open_files.h"

#include <fcntl.h>
#include <sys/stat.h>

namespace hicache {
namespace {

std::string key_of(const char* name, bool writable, bool direct) {
  std::string key(1, static_cast<char>((writable ? 1 : 0) | (direct ? 2 : 0)));
  return key += name;
}

}  // namespace

OpenFileRef OpenFiles::find(const char* name, bool writable, bool direct) {
  std::lock_guard lock(mutex_);
  const auto found = by_key_.find(key_of(name, writable, direct));
  if (found == by_key_.end()) return nullptr;
  struct stat status;
  if (::fstat(found->second->file->fd.get(), &status) != 0 || status.st_nlink == 0) {
    entries_.erase(found->second);
    by_key_.erase(found);
    return nullptr;
  }
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->file;
}

OpenFileRef OpenFiles::add(const char* name, bool writable, bool direct, UniqueFd fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  auto file = std::make_shared<OpenFile>(OpenFile{std::move(fd), flags >= 0 && (flags & O_DIRECT) != 0});
  std::lock_guard lock(mutex_);
  const std::string key = key_of(name, writable, direct);
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    entries_.erase(found->second);
    by_key_.erase(found);
  }
  entries_.push_front({key, file});
  by_key_[key] = entries_.begin();
  if (entries_.size() > files_max) {
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
  return file;
}

}  // namespace hicache
