// Memory brought in before it is used, in huge pages where the system gives them: transfers into 4 KiB pages run at half the speed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace hicache {

// Blocks for seconds with gigabytes. Leaves the contents alone. Stops early when `stop` becomes true. Answers the bytes backed by huge pages
// afterwards, -1 when /proc/self/smaps does not say.
int64_t populate(void* address, size_t bytes, const std::atomic<bool>& stop);

}  // namespace hicache
