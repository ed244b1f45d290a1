#include "segments/owner_lock.h"

#include <fcntl.h>
#include <linux/magic.h>

#include <cerrno>
#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "segments/segment_names.h"
#include "util/clock.h"

namespace hicache::segments {
namespace {

constexpr int64_t live_for_ns = 500'000'000;

// Nothing where it cannot be told: an I/O error says neither that a writer lives nor that it does not.
std::optional<bool> ask_live(const Store& store, const std::string& folder_name, int folder) {
  const std::string name = store.named(folder_name + "/" + owner_file);
  const int opened = open_file(folder, owner_file, O_RDONLY, name.c_str());
  if (opened == -ENOENT) return false;
  if (opened < 0) return std::nullopt;
  const UniqueFd fd(opened);
  const int result = try_lock(fd.get(), true, name.c_str());
  if (result != 0 && result != -EWOULDBLOCK) return std::nullopt;
  return result == -EWOULDBLOCK;
}

}  // namespace

int take_owner(const Store& store, const std::string& folder_name, int folder, bool create) {
  const std::string name = store.named(folder_name + "/" + owner_file);
  struct stat status;
  const int opened = open_file(folder, owner_file, O_RDWR | (create ? O_CREAT : 0), name.c_str(), &status);
  if (opened < 0) return opened;
  UniqueFd fd(opened);
  int result = 0;
  for (int attempt = 0; attempt < (create ? 200 : 3); attempt++) {
    if (attempt > 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
    result = try_lock(opened, false, name.c_str());
    if (result == 0) return fd.release();
    if (result != -EWOULDBLOCK) break;
  }
  return result;
}

bool is_live(const std::string& directory, const Store& store, const std::string& folder_name, int folder) {
  struct Asked {
    int64_t at;
    bool live;
  };
  static std::mutex mutex;
  static auto* const asked = new std::map<std::string, Asked>;
  const std::string path = folder_path(directory, folder_name);
  const int64_t now = now_ns();
  bool before = false;
  {
    std::lock_guard lock(mutex);
    const auto found = asked->find(path);
    if (found != asked->end()) {
      if (now - found->second.at < live_for_ns) return found->second.live;
      before = found->second.live;
    }
  }
  const std::optional<bool> live = ask_live(store, folder_name, folder);
  if (!live) return before;
  std::lock_guard lock(mutex);
  if (asked->size() > 1024) asked->clear();
  (*asked)[path] = {now, *live};
  return *live;
}

bool is_local(const Store& store) {
  struct statfs status;
  must(file_system_of(store.fd.get(), &status, store.name.c_str()), "statfs of " + store.name);
  switch (static_cast<uint32_t>(status.f_type)) {
    case EXT4_SUPER_MAGIC:
    case 0x58465342:  // xfs
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
    case 0xf2f52010:  // f2fs
    case 0x2fc12fc1:  // zfs
    case OVERLAYFS_SUPER_MAGIC: return true;
    default: return false;
  }
}

}  // namespace hicache::segments
