// Can 3FS be used for a directory? Found by doing it.
#pragma once

#include <string>

namespace hicache::hf3fs {

struct ProbeOptions {
  std::string mount_point{};  // the configured one; empty: whichever the directory lies on
  int timeout_ms = 5000;      // of each of the two transfers
};

struct Probe {
  bool usable = false;
  std::string library, version;  // empty: not loaded
  std::string mount_point;       // empty: the directory lies on none
  std::string reason, remedy;    // when it is not usable
};

// Writes a temporary file of 4096 bytes at `path` (a directory) through a ring, reads it back and removes it. May block for as long as the mount does: for threads that may wait.
Probe probe(const std::string& path, const ProbeOptions& options);

}  // namespace hicache::hf3fs
