// The folder `segments` of a storage directory: its format, its lock, the writers' folders in it. Throws segments::Failure.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "segments/segment_io.h"
#include "util/unique_fd.h"

namespace hicache::segments {

// How long others may hold what they hold for moments only.
inline constexpr auto lock_wait = std::chrono::seconds(5);

struct Store {
  UniqueFd fd;  // not open: there is none
  std::string name;
  std::string named(const std::string& below) const { return name + "/" + below; }
};
Store open_store(const std::string& directory, bool create);
UniqueFd open_below(const Store& store, const std::string& folder);
// As this process's writers are known by.
std::string folder_path(const std::string& directory, const std::string& folder);
// The writers' folders, sorted. None where there is no store.
std::vector<std::string> folders_of(const Store& store);

// False: there is no FORMAT yet (or what is left of one that was being written when the power failed). A newer one is refused before anything is touched.
bool check_format(const Store& store);
void write_format(const Store& store);

// The directory's lock, held while this lives. Others hold it for moments; one that does not give it back is reported.
class DirectoryLock {
 public:
  explicit DirectoryLock(const Store& store, std::chrono::milliseconds wait = lock_wait);

 private:
  UniqueFd fd_;
};

}  // namespace hicache::segments
