// Open files that hold extents: a segment is used thousands of times, so it is not opened every time. Any thread.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "util/unique_fd.h"

namespace hicache {

struct OpenFile {
  UniqueFd fd;
  bool direct = false;
};
using OpenFileRef = std::shared_ptr<OpenFile>;

class OpenFiles {
 public:
  static constexpr size_t files_max = 64;

  // nullptr when it is not open, or has been removed since.
  OpenFileRef find(const char* name, bool writable, bool direct);
  OpenFileRef add(const char* name, bool writable, bool direct, UniqueFd fd);

 private:
  struct Entry {
    std::string key;
    OpenFileRef file;
  };
  std::mutex mutex_;
  std::list<Entry> entries_;  // latest used first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_key_;
};

}  // namespace hicache
