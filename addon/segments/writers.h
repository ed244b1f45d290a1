// This process's writers: a folder below `<directory>/segments` each, which it has locked. Everything here blocks, and throws segments::Failure.
// lib/transfer/native-binding.ts (NativeSegments) is the contract, docs/formats.md has the files.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "segments/change_ring.h"
#include "util/unique_fd.h"

namespace hicache::segments {

struct Opened {
  std::string folder;
  int owner_fd = -1;
  uint64_t serial = 0;  // of this opening: descriptors and folders come back, it does not
  std::vector<std::string> adopted;
  uint64_t used_bytes = 0;
};
Opened open_writer(const std::string& directory);
// False, and nothing happens: this folder was not opened with this descriptor, or (unless 0) is not the opening of this serial any more.
bool close_writer(const std::string& directory, const std::string& folder, int owner_fd, uint64_t serial = 0);
bool is_writer(const std::string& directory, const std::string& folder, int owner_fd);
// Makes the segments of writers that have died ours. Answers their ids.
std::vector<uint32_t> adopt(const std::string& directory, const std::string& folder);
// Tells the owners of these slots, which are in other folders, that the pages of these generations (none is 0) shall go.
void ask(const std::string& directory, const std::string& folder, const std::vector<Change>& slots);
void set_wants(const std::string& directory, const std::string& folder, bool wanted);

// ---- for work on a folder of ours ----

struct Writer {
  std::string path;    // of its folder, as its ring of changes is known by
  std::string folder;
  UniqueFd owner;
  std::shared_ptr<ChangeRing> ring;
  uint64_t serial = 0;
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable idle;
  int busy = 0;
};
using WriterRef = std::shared_ptr<Writer>;

// Closing waits for it (not for ever), and it does not begin once closing has.
class Work {
 public:
  Work(const std::string& directory, const std::string& folder);
  ~Work();
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  Writer& writer() const { return *writer_; }
  // Throws ECANCELED when the writer is being closed.
  void check() const;

 private:
  const WriterRef writer_;
};

// Tells who follows us that whole segments have changed. What cannot be told is found out at the next open.
void tell_whole(const Writer& writer, const std::vector<uint32_t>& ids);

}  // namespace hicache::segments
