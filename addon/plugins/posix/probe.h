// What a storage directory can do, found by doing it.
#pragma once

#include <cstdint>
#include <string>

namespace hicache {

struct DirectoryReport {
  std::string path, real_path, file_system;
  bool direct = false;
  std::string direct_reason;
  bool engine = false;
  std::string engine_reason;
  bool tmpfile = false;
  uint64_t free_bytes = 0, total_bytes = 0;
  uint32_t owner_uid = 0, mode = 0;
  bool writable = false;
};

// Blocks. 0, or the errno of what failed (`failed_call` names it).
int probe_directory(const std::string& path, DirectoryReport& report, std::string& failed_call);

}  // namespace hicache
