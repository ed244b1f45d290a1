#include "agent/memory_registry.h"

#include <shared_mutex>
#include <unordered_map>
#include <utility>

namespace hicache {
namespace {

struct State {
  mutable std::shared_mutex mutex;
  std::unordered_map<uint32_t, RegionRef> regions;
  uint32_t next_id = 1;
};
// Never destroyed: threads may outlive main().
State& state() {
  static State* const the_state = new State;
  return *the_state;
}

}  // namespace

MemoryRegistry& MemoryRegistry::instance() {
  static MemoryRegistry the_registry;
  return the_registry;
}

RegionRef MemoryRegistry::add(void* address, size_t length, MemoryKind kind, int device, std::shared_ptr<void> owner) {
  auto region = std::make_shared<Region>();
  region->address = static_cast<uint8_t*>(address);
  region->length = length;
  region->kind = kind;
  region->device = device;
  region->owner = std::move(owner);
  std::unique_lock lock(state().mutex);
  region->id = state().next_id++;
  state().regions[region->id] = region;
  return region;
}

bool MemoryRegistry::remove(uint32_t id) {
  std::unique_lock lock(state().mutex);
  return state().regions.erase(id) > 0;
}

RegionRef MemoryRegistry::find(uint32_t id) const {
  std::shared_lock lock(state().mutex);
  const auto found = state().regions.find(id);
  return found == state().regions.end() ? nullptr : found->second;
}

RegionRef MemoryRegistry::find_around(const void* address, size_t length) const {
  const auto* start = static_cast<const uint8_t*>(address);
  std::shared_lock lock(state().mutex);
  for (const auto& [id, region] : state().regions) {
    if (start >= region->address && start + length <= region->address + region->length) return region;
  }
  return nullptr;
}

}  // namespace hicache
