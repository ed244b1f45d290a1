// Memory that 3FS's side sees, too: data move between it and files without a copy. It comes from one iov that lives long, because making one costs a link in the file system
// and, over there, its registration with the network. What of it is whose is its user's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "plugins/hf3fs/usrbio_api.h"

namespace hicache::hf3fs {

class SharedArena {
 public:
  // `mount_point`: any directory of the mount. `block_bytes` 0: the whole arena is one block, so that no request can cross the end of one; engines cut their requests at the ends of others. May
  // block. nullptr with the reason.
  static std::shared_ptr<SharedArena> create(const std::string& mount_point, size_t bytes, size_t block_bytes, Refusal& refusal);
  // The arena of the process that holds these bytes, if any does. Whoever has it keeps the memory.
  static std::shared_ptr<SharedArena> find_around(const void* address, size_t length);

  ~SharedArena();
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;

  uint8_t* base() const { return iov_.base; }
  size_t bytes() const { return bytes_; }
  size_t block_bytes() const { return iov_.block_size; }
  const uint8_t (&id() const)[16] { return iov_.id; }
  const std::string& mount_point() const { return mount_point_; }
  const Iov& iov() const { return iov_; }

 private:
  SharedArena(const Api& api, std::string mount_point, size_t bytes) : api_(api), mount_point_(std::move(mount_point)), bytes_(bytes) {}

  const Api& api_;
  const std::string mount_point_;
  const size_t bytes_;
  Iov iov_{};
};

}  // namespace hicache::hf3fs
