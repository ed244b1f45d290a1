// usrbio takes only descriptors that were made known to it, once each for the process, and they must be taken out BEFORE they are closed.
#pragma once

#include <memory>
#include <string>

#include "plugins/hf3fs/usrbio_api.h"

namespace hicache::hf3fs {

// One use of a registration; the last one of a descriptor takes it out. Any thread; what it calls may block as any call of the file system.
class RegisteredFile {
 public:
  ~RegisteredFile();
  RegisteredFile(const RegisteredFile&) = delete;
  RegisteredFile& operator=(const RegisteredFile&) = delete;

  int fd() const { return fd_; }

 private:
  friend std::shared_ptr<RegisteredFile> register_file(int, int&);
  RegisteredFile(const Api& api, int fd) : api_(api), fd_(fd) {}

  const Api& api_;
  const int fd_;
};

// For the owner of an open file: to be kept beside the descriptor, and destroyed before that is closed. Engines find it by the descriptor's number, and register for a request's time what
// nobody has. nullptr with an errno.
std::shared_ptr<RegisteredFile> register_file(int fd, int& error);
inline std::shared_ptr<RegisteredFile> register_file(int fd) {
  int error;
  return register_file(fd, error);
}

}  // namespace hicache::hf3fs
