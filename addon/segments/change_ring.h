// The ring of changes of a writer's folder: which slot records were rewritten lately, so that other processes need not read them all again. A file of a 4096-byte
// header (8 bytes magic, u32 version, u32 entries, zeros) and 65536 entries of 32 bytes (u64 sequence from 1 on, u32 segment, u32 slot, u64 generation, u64 CRC of these
// 24 bytes); the entry with sequence S lies at index S % 65536.
//
// Writing is by the folder's owner alone: one ring a folder and process, found by the folder's path from whatever agent writes there.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "util/unique_fd.h"

namespace hicache {

struct Change {
  uint32_t segment = 0, slot = 0;
  // 0: a record of this folder was rewritten. Else the slot is another writer's, who is asked to give up the page whose record has this generation.
  uint64_t generation = 0;
};

class ChangeRing {
 public:
  static constexpr const char* file_name = "changes";
  static constexpr char magic[8] = {'H', 'C', 'N', 'X', 'C', 'H', 'N', 'G'};
  static constexpr uint32_t version = 1, entries = 65536;
  static constexpr size_t header_bytes = 4096, entry_bytes = 32, file_bytes = header_bytes + size_t{entries} * entry_bytes;
  static constexpr uint64_t place_of(uint64_t sequence) { return header_bytes + sequence % entries * entry_bytes; }

  static void encode(uint8_t* entry, uint64_t sequence, const Change&);
  // False when the entry is torn, damaged or was never written.
  static bool decode(const uint8_t* entry, uint64_t& sequence, Change&);
  // Is this the header of a ring that this version can read?
  static bool valid_header(const uint8_t* header);
  // Reads the whole file (`fd` is open for reading): the greatest sequence that is valid, 0 when none is; all entries are read in runs. 0 or errno; EBADMSG: this is
  // no ring of this version. `name` is for planned failures.
  static int greatest_of(int fd, const char* name, uint64_t& sequence);

  // ---- for the owner of a folder; the folder's path is the storage directory's, as agents are told it, + "/segments/" + the folder's name ----

  // Makes or checks the file `changes` of the folder, goes on after its greatest sequence, and makes the ring known to this process. Blocks. 0 or errno: EBUSY when this
  // process has a ring there already. A damaged file is made anew, with sequences that go on from `at_least`: a reader that has followed further sees it by that.
  static int open(const std::string& folder, std::shared_ptr<ChangeRing>& out, uint64_t at_least = 0);
  // nullptr when none is open there.
  static std::shared_ptr<ChangeRing> find(const std::string& folder);
  // Nothing is written to it any more once this has returned: append() answers EBADF to whoever still holds it. Waits for an append() under way.
  static void close(const std::string& folder);

  // Takes the disk space of all entries. A new ring has its full length, by which it counts, and no space: a writer that comes to a full store must not make it
  // larger than it may be, and has nothing to tell before it has a segment. 0 or errno.
  int reserve();

  // Any thread. One write for all of them (two where the ring turns). 0 or errno; on failure these changes are not told, and their sequences are never used.
  int append(const Change* changes, size_t count);
  // The sequence of the latest entry, 0 before the first.
  uint64_t head() const { return head_.load(std::memory_order_acquire); }
  bool closed() const { return closed_.load(std::memory_order_acquire); }

 private:
  ChangeRing(std::string name, UniqueFd fd, uint64_t head) : name_(std::move(name)), fd_(std::move(fd)), head_(head) {}

  const std::string name_;
  std::mutex mutex_;
  UniqueFd fd_;
  std::atomic<uint64_t> head_;
  std::atomic<bool> closed_{false};
};

}  // namespace hicache
