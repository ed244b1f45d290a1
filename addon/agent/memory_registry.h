// Memory that JavaScript made known to native code, for all agents of the process. Descriptors name it by id, so that no address from a message is
// ever trusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "util/gate.h"

namespace hicache {

// What the bytes lie in. `shared`: an iov of 3FS, host memory that its file system side sees too. `device`: a GPU's; no address of it is ever touched by this processor.
enum class MemoryKind : uint8_t { host, shared, device };

struct Region {
  uint32_t id = 0;
  uint8_t* address = nullptr;
  size_t length = 0;
  MemoryKind kind = MemoryKind::host;
  int device = 0;               // ordinal, of device memory
  std::shared_ptr<void> owner;  // what the memory is a part of, if it must outlive the region's last use
  // Closed when the environment that registered the memory ends.
  Gate gate;
  // Of whoever has made the memory known elsewhere (CUDA's pinning): that it is to be forgotten there. Set inside of the gate; called once the gate is closed, and before the memory ends.
  std::function<void()> forget;

  // The end of its memory: nobody touches it in user space any more.
  void end() {
    gate.close();
    if (forget) std::exchange(forget, nullptr)();
  }
};
using RegionRef = std::shared_ptr<Region>;

class MemoryRegistry {
 public:
  static MemoryRegistry& instance();

  RegionRef add(void* address, size_t length, MemoryKind kind = MemoryKind::host, int device = 0, std::shared_ptr<void> owner = nullptr);
  bool remove(uint32_t id);
  RegionRef find(uint32_t id) const;
  // The region that holds these bytes, if any does.
  RegionRef find_around(const void* address, size_t length) const;
};

}  // namespace hicache
