// Open files that hold extents: a segment is used thousands of times, so it is not opened every time. Any thread.
#pragma once

#include <functional>
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
  std::string name;                     // relative to the directory
  std::shared_ptr<void> registration{};  // with the system that moves its bytes; ends before the descriptor does
};
using OpenFileRef = std::shared_ptr<OpenFile>;

class OpenFiles {
 public:
  // `watched`: a file that has been removed is not found any more, which costs a look at it each time.
  // `register_file`: asked for OpenFile::registration; may be empty.
  OpenFiles(size_t files_max, bool watched, std::function<std::shared_ptr<void>(int fd)> register_file = {})
      : files_max_(files_max), watched_(watched), register_file_(std::move(register_file)) {}

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
  const std::function<std::shared_ptr<void>(int fd)> register_file_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // latest used first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_key_;
};

}  // namespace hicache
