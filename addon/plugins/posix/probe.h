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
  bool page_files = false;  // it holds pages of the file layout
};

// Blocks. 0, or the errno of what failed (`failed_call` names it).
int probe_directory(const std::string& path, DirectoryReport& report, std::string& failed_call);

struct MadeDirectory {
  std::string real_path;
  bool directory = false;
  uint32_t owner_uid = 0;
  uint32_t link_uid = 0;  // the owner of the path itself; of the directory, when that is no link
};

// Makes the directory (0700) and those above it where they are not there. Blocks. 0, or the errno of what failed.
int make_directory(const std::string& path, MadeDirectory& made, std::string& failed_call);

}  // namespace hicache
