// Writers' folders below `<directory>/segments`: who owns one, what is in it, and space. Everything here blocks, and throws segments::Failure.
// lib/transfer/native-binding.ts (NativeSegments) is the contract, docs/formats.md has the files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "segments/change_ring.h"
#include "segments/segment_io.h"
#include "segments/segment_reader.h"

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

struct GrantOptions {
  uint64_t data_bytes = 0;
  uint32_t extent_bytes = 0;
  uint64_t capacity = 0, keep_free_bytes = 0;
  bool direct = false;
};
struct Granted {
  uint32_t id = 0;
  const char* refused = "";
  uint64_t data_bytes = 0;
  uint32_t slots = 0;
  uint64_t used_bytes = 0, free_bytes = 0;
};
Granted grant(const std::string& directory, const std::string& folder, const GrantOptions& options);

struct Reassigned {
  uint32_t slots = 0;
  uint64_t data_bytes = 0;
};
Reassigned reassign(const std::string& directory, const std::string& folder, uint32_t id, uint32_t extent_bytes);
void release(const std::string& directory, const std::string& folder, uint32_t id);
std::vector<uint32_t> adopt(const std::string& directory, const std::string& folder);
// Tells the owners of these slots, which are in other folders, that the pages of these generations (none is 0) shall go.
void ask(const std::string& directory, const std::string& folder, const std::vector<Change>& slots);
void set_wants(const std::string& directory, const std::string& folder, bool wanted);
std::string records(const std::string& directory, const std::string& folder, uint32_t id);

struct Usage {
  uint64_t used_bytes = 0;
  uint32_t writers = 0;
};
Usage usage(const std::string& directory);

}  // namespace hicache::segments
