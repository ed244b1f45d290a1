#include "plugins/hf3fs/usrbio_api.h"

#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "util/errno_name.h"

namespace hicache::hf3fs {
namespace {

constexpr char path_variable[] = "HICACHE_NIXL_HF3FS_PATH";
constexpr char remedy_text[] = "install the client of 3FS, whose libhf3fs_api_shared.so must be found by the loader (ldconfig, LD_LIBRARY_PATH), or name the file in HICACHE_NIXL_HF3FS_PATH";

std::unique_ptr<Api> open(const std::string& name, std::string& why) {
  SharedLibrary library(name, SharedLibrary::deep, why);
  if (!library) return nullptr;
  auto api = std::make_unique<Api>();
  library.find(api->is_hf3fs, "hf3fs_is_hf3fs");
  library.find(api->extract_mount_point, "hf3fs_extract_mount_point");
  library.find(api->iovcreate, "hf3fs_iovcreate");
  library.find(api->iovdestroy, "hf3fs_iovdestroy");
  library.find(api->ior_size, "hf3fs_ior_size");
  library.find(api->iorcreate, "hf3fs_iorcreate");
  library.find(api->iordestroy, "hf3fs_iordestroy");
  library.find(api->reg_fd, "hf3fs_reg_fd");
  library.find(api->dereg_fd, "hf3fs_dereg_fd");
  library.find(api->io_entries, "hf3fs_io_entries");
  library.find(api->prep_io, "hf3fs_prep_io");
  library.find(api->submit_ios, "hf3fs_submit_ios");
  library.find(api->wait_for_ios, "hf3fs_wait_for_ios");
  if (!library.complete(why)) return nullptr;
  library.look_for(api->iorcreate2, "hf3fs_iorcreate2");
  library.look_for(api->iorcreate3, "hf3fs_iorcreate3");
  library.look_for(api->iorcreate4, "hf3fs_iorcreate4");
  api->path = library.path_of(api->prep_io);
  const char* const newest = api->iorcreate4 != nullptr ? "iorcreate4" : api->iorcreate3 != nullptr ? "iorcreate3" : api->iorcreate2 != nullptr ? "iorcreate2" : "iorcreate";
  api->version = std::string("usrbio with ").append(newest);
  // The binary interface has no version to ask for. The size of a ring's memory is part of it, and known.
  constexpr int trial_entries = 7;
  constexpr size_t ring_bytes = 16 + 32 + 96 * (trial_entries + 1) + 4096;
  if (const size_t said = api->ior_size(trial_entries); said != ring_bytes) {
    why = name + " is of another binary interface: a ring of 7 entries takes " + std::to_string(said) + " bytes there, not " + std::to_string(ring_bytes);
    return nullptr;
  }
  return api;
}

}  // namespace

const Api* load(Refusal& refusal) {
  std::string reasons;
  const Api* const api = load_once<Api>([] { return library_names(path_variable, {"libhf3fs_api_shared.so"}); }, open, reasons);
  if (api == nullptr) refusal = {"the usrbio library of 3FS cannot be loaded: " + reasons, remedy_text};
  return api;
}

int Api::create_ring(Ior& ring, const std::string& mount, int entries, bool for_read) const {
  ring = {};
  constexpr int as_they_come = 0, normal_priority = 0, no_timeout = 0;
  if (iorcreate4 != nullptr) return iorcreate4(&ring, mount.c_str(), entries, for_read, as_they_come, no_timeout, any_numa_node, 0);
  if (iorcreate3 != nullptr) return iorcreate3(&ring, mount.c_str(), entries, for_read, as_they_come, normal_priority, no_timeout, any_numa_node);
  if (iorcreate2 != nullptr) return iorcreate2(&ring, mount.c_str(), entries, for_read, as_they_come, normal_priority, any_numa_node);
  return iorcreate(&ring, mount.c_str(), entries, for_read, as_they_come, any_numa_node);
}

std::string mount_point_of(const Api& api, const std::string& path, std::string& reason) {
  // The library throws where the path does not exist. It brings a C++ runtime of its own, so this look comes first, and the exception is left for the case
  // that the path goes away between the two.
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) {
    const int error = errno;
    reason = path + ": " + errno_name(error) + " (" + std::generic_category().message(error) + ")";
    return {};
  }
  char mount[256] = {};
  int length = -1;
  try {
    length = api.extract_mount_point(mount, sizeof(mount), path.c_str());
  } catch (...) {
    reason = path + ": the usrbio library threw an exception when it was asked for the mount point";
    return {};
  }
  if (length > static_cast<int>(sizeof(mount))) {
    reason = path + ": the path of its mount point is longer than the 255 bytes that usrbio takes";
    return {};
  }
  if (length <= 1 || mount[0] == '\0') {
    reason = path + " does not lie on a mounted 3FS";
    return {};
  }
  return mount;
}

}  // namespace hicache::hf3fs
