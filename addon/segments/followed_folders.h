// What is in writers' folders, ours and others', and what changes there. Everything here blocks, and throws segments::Failure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "segments/change_ring.h"
#include "segments/segment_reader.h"

namespace hicache::segments {

// `ids`: nullptr = all.
void load(const std::string& directory, const std::string& folder, const DigestSeed& seed, const std::vector<uint32_t>* ids, Loaded& out);

struct PolledFolder {
  std::string name;
  bool live = false, wants = false, same_machine = false;
};
struct Followed {
  std::string folder;
  uint64_t sequence = 0;
};
struct FolderChanges {
  std::string folder;
  uint64_t sequence = 0;
  bool lapped = false, gone = false;
  bool any = false;  // `loaded` says something
  Loaded loaded;
  std::vector<uint32_t> whole;
  // Slots of other folders' segments: this one's writer asks their owner to give up the pages that had these generations.
  std::vector<Change> asked;
};
struct Polled {
  std::vector<PolledFolder> folders;
  std::vector<FolderChanges> changes;
};
Polled poll(const std::string& directory, const std::string& own_folder, const std::vector<Followed>& followed, const DigestSeed& seed);

// The page records of a segment, 512 bytes each.
std::string records(const std::string& directory, const std::string& folder, uint32_t id);

struct Usage {
  uint64_t used_bytes = 0;
  uint32_t writers = 0;
};
Usage usage(const std::string& directory);

}  // namespace hicache::segments
