// An open file that cuFile knows. Whoever opened the file keeps this beside its descriptor and lets go of it before the descriptor is closed; the last holder deregisters it.
#pragma once

#include <sys/types.h>

#include "plugins/gds/cufile_api.h"

namespace hicache::cufile {

class CufileHandle {
 public:
  CufileHandle(int fd, dev_t device, ino_t inode) : fd_(fd), device_(device), inode_(inode) {}
  CufileHandle(const CufileHandle&) = delete;
  CufileHandle& operator=(const CufileHandle&) = delete;

  Handle get() const { return handle_; }
  int fd() const { return fd_; }
  // Is the descriptor still that of the file that was registered?
  bool current() const;

 private:
  friend class CufileDriver;

  const int fd_;
  const dev_t device_;
  const ino_t inode_;
  Handle handle_ = nullptr;
};

}  // namespace hicache::cufile
