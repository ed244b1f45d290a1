#include "plugins/posix/open_files.h"

#include <fcntl.h>
#include <sys/stat.h>

namespace hicache {
namespace {

// Its string is used again: looking a file up allocates nothing.
const std::string& key_of(const char* name, const char* extension, bool writable, bool direct) {
  thread_local std::string key;
  key.assign(1, static_cast<char>((writable ? 1 : 0) | (direct ? 2 : 0)));
  return (key += name) += extension;
}

}  // namespace

OpenFileRef OpenFiles::find(const char* name, const char* extension, bool writable, bool direct) {
  const std::string& key = key_of(name, extension, writable, direct);
  OpenFileRef gone;  // let go of after the lock, as in add()
  std::lock_guard lock(mutex_);
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return nullptr;
  struct stat status;
  if (watched_ && (::fstat(found->second->file->fd.get(), &status) != 0 || status.st_nlink == 0)) {
    gone = std::move(found->second->file);
    entries_.erase(found->second);
    by_key_.erase(found);
    return nullptr;
  }
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->file;
}

OpenFileRef OpenFiles::add(const char* name, const char* extension, bool writable, bool direct, UniqueFd fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  auto file = std::make_shared<OpenFile>(OpenFile{std::move(fd), flags >= 0 && (flags & O_DIRECT) != 0, std::string(name) += extension});
  if (register_file_) file->registration = register_file_(file->fd.get());
  const std::string& key = key_of(name, extension, writable, direct);
  // The end of a registration, and a close, may block: not under the lock, which the agent's thread takes to look files up.
  OpenFileRef replaced, oldest;
  std::lock_guard lock(mutex_);
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    replaced = std::move(found->second->file);
    entries_.erase(found->second);
    by_key_.erase(found);
  }
  entries_.push_front({key, file});
  by_key_[key] = entries_.begin();
  if (entries_.size() > files_max_) {
    by_key_.erase(entries_.back().key);
    oldest = std::move(entries_.back().file);
    entries_.pop_back();
  }
  return file;
}

}  // namespace hicache
