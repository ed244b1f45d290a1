#include "plugins/hf3fs/registered_file.h"

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <new>
#include <unordered_map>

namespace hicache::hf3fs {
namespace {

struct Files {
  std::mutex mutex;
  std::unordered_map<int, size_t> uses;  // by descriptor
};
// Never destroyed: threads may outlive main().
Files& files() {
  static auto* const the_files = new Files;
  return *the_files;
}

}  // namespace

std::shared_ptr<RegisteredFile> register_file(int fd, int& error) {
  Refusal refusal;
  const Api* const api = load(refusal);
  error = ELIBACC;
  if (api == nullptr) return nullptr;
  RegisteredFile* use = nullptr;
  try {
    std::lock_guard lock(files().mutex);
    size_t& uses = files().uses[fd];
    // A positive errno is the error here, and zero or less is good: the opposite of all other calls.
    error = uses == 0 ? std::max(0, api->reg_fd(fd, 0)) : 0;
    if (error == 0) {
      use = new (std::nothrow) RegisteredFile(*api, fd);
      error = use == nullptr ? ENOMEM : 0;
      if (use == nullptr && uses == 0) api->dereg_fd(fd);
    }
    if (error == 0) uses++;
    else if (uses == 0) files().uses.erase(fd);
  } catch (const std::bad_alloc&) {
    error = ENOMEM;
  }
  if (use == nullptr) return nullptr;
  try {
    return std::shared_ptr<RegisteredFile>(use);
  } catch (const std::bad_alloc&) {
    // The object has taken itself out again.
    error = ENOMEM;
    return nullptr;
  }
}

RegisteredFile::~RegisteredFile() {
  std::lock_guard lock(files().mutex);
  const auto found = files().uses.find(fd_);
  if (--found->second > 0) return;
  api_.dereg_fd(fd_);
  files().uses.erase(found);
}

}  // namespace hicache::hf3fs
