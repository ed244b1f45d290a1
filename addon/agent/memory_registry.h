// Memory that JavaScript made known to native code, for all agents of the process. Descriptors name it by id, so that no address from a message is
// ever trusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "util/gate.h"

namespace hicache {

struct Region {
  uint32_t id = 0;
  uint8_t* address = nullptr;
  size_t length = 0;
  // Closed when the environment that registered the memory ends.
  Gate gate;
};
using RegionRef = std::shared_ptr<Region>;

class MemoryRegistry {
 public:
  static MemoryRegistry& instance();

  RegionRef add(void* address, size_t length);
  bool remove(uint32_t id);
  RegionRef find(uint32_t id) const;
  // The region that holds these bytes, if any does.
  RegionRef find_around(const void* address, size_t length) const;
};

}  // namespace hicache
