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
  std::string name;  // relative to the directory
};
using OpenFileRef = std::shared_ptr<OpenFile>;

class OpenFiles {
 public:
  // `watched`: a file that has been removed is not found any more, which costs a look at it each time.
  OpenFiles(size_t files_max, bool watched) : files_max_(files_max), watched_(watched) {}

  // nullptr when it is not open. The file's name is `name` with `extension` behind it.
  OpenFileRef find(const char* name, const char* extension, bool writable, bool direct);
  OpenFileRef add(const char* name, const char* extension, bool writable, bool direct, UniqueFd fd);

 private:
  struct Entry {
    std::string key;
    OpenFileRef file;
  };
  const size_t files_max_;
  const bool watched_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // latest used first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_key_;
};

}  // namespace hicache
