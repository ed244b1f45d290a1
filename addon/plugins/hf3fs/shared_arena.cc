#include "plugins/hf3fs/shared_arena.h"

#include <mutex>
#include <shared_mutex>
#include <vector>

#include "engine/engine_base.h"

namespace hicache::hf3fs {
namespace {

struct Arenas {
  std::shared_mutex mutex;
  std::vector<std::weak_ptr<SharedArena>> list;
};
// Never destroyed: threads may outlive main().
Arenas& arenas() {
  static auto* const the_arenas = new Arenas;
  return *the_arenas;
}

}  // namespace

std::shared_ptr<SharedArena> SharedArena::create(const std::string& mount_point, size_t bytes, size_t block_bytes, Refusal& refusal) {
  const Api* const api = load(refusal);
  if (api == nullptr) return nullptr;
  if (bytes == 0 || (block_bytes != 0 && bytes % block_bytes != 0)) {
    refusal = {"an arena of " + std::to_string(bytes) + " bytes in blocks of " + std::to_string(block_bytes) + " cannot be: it must hold at least one block, and only whole ones",
               "give it a multiple of the block's size"};
    return nullptr;
  }
  std::string reason;
  const std::string mount = mount_point_of(*api, mount_point, reason);
  if (mount.empty()) {
    refusal = {reason, "name the directory where 3FS is mounted"};
    return nullptr;
  }
  std::shared_ptr<SharedArena> arena(new SharedArena(*api, mount, bytes));
  if (const int failed = api->iovcreate(&arena->iov_, mount.c_str(), bytes, block_bytes, any_numa_node); failed != 0) {
    arena->iov_ = {};
    refusal = {"3FS gives no shared memory of " + std::to_string(bytes) + " bytes (hf3fs_iovcreate at " + mount + "): " + engines::describe_errno(-failed),
               "look whether 3FS is mounted there and 3fs-virt/iovs can be written, whether /dev/shm has that much room, and whether memory may be locked (ulimit -l)"};
    return nullptr;
  }
  std::unique_lock lock(arenas().mutex);
  std::erase_if(arenas().list, [](const auto& one) { return one.expired(); });
  arenas().list.push_back(arena);
  return arena;
}

std::shared_ptr<SharedArena> SharedArena::find_around(const void* address, size_t length) {
  const auto* const start = static_cast<const uint8_t*>(address);
  std::shared_lock lock(arenas().mutex);
  for (const auto& one : arenas().list) {
    auto arena = one.lock();
    if (arena == nullptr || start < arena->base()) continue;
    const auto offset = static_cast<size_t>(start - arena->base());
    if (offset <= arena->bytes_ && length <= arena->bytes_ - offset) return arena;
  }
  return nullptr;
}

SharedArena::~SharedArena() {
  if (iov_.handle != nullptr) api_.iovdestroy(&iov_);
}

}  // namespace hicache::hf3fs
