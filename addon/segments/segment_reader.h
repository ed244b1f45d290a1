// Reads the index files of writers' folders, ours and others', into rows for the index in memory. Believes nothing: what does not hold is counted and
// skipped, whoever wrote it and whatever happens to the files meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "segments/change_ring.h"
#include "segments/page_digest.h"
#include "segments/slot_record.h"
#include "util/aligned_buffer.h"
#include "util/unique_fd.h"

namespace hicache::segments {

// What an index file begins with.
struct IndexHeader {
  uint32_t id = 0;
  uint64_t data_bytes = 0;
  uint32_t extent_bytes = 0, slots = 0;
};
enum class HeaderState : uint8_t { whole, newer, damaged };
// `block`: 4096 bytes.
void encode_header(uint8_t* block, const IndexHeader& header);
HeaderState decode_header(const uint8_t* block, uint32_t id, IndexHeader& header);

// An index file and how much its data file really has.
struct OpenIndex {
  UniqueFd fd;
  IndexHeader header;
  uint64_t index_bytes = 0;  // of the file
  uint64_t data_bytes = 0;   // that are there: at most the header's
  uint32_t slots = 0;        // that both files have
};
enum class IndexState : uint8_t { open, absent, damaged };
// `folder_name` as in `segments/<folder>`. Throws a Failure only for what says nothing about the file (descriptors, memory).
IndexState open_index(int folder, const std::string& folder_name, uint32_t id, OpenIndex& out);

// ---- rows ----

inline constexpr size_t row_bytes = 80;
inline constexpr size_t chunk_bytes = size_t{1} << 20;

// Grows without being cleared or copied where the allocator can; given away to JavaScript as it is.
class Rows {
 public:
  Rows() = default;
  Rows(Rows&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)), capacity_(std::exchange(other.capacity_, 0)) {}
  Rows& operator=(Rows&&) = delete;
  ~Rows() { std::free(data_); }

  void reserve(size_t rows);
  uint8_t* append();
  size_t bytes() const { return bytes_; }
  const uint8_t* data() const { return data_; }
  // Returns what was never used; the caller frees the result with std::free (nullptr when there are no rows).
  uint8_t* release();

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0, capacity_ = 0;
};

struct LoadedSegment {
  uint32_t id;
  uint64_t data_bytes;
  uint32_t extent_bytes, slots;
};
struct Loaded {
  uint64_t sequence = 0;
  std::vector<LoadedSegment> segments;
  Rows rows;
  std::vector<std::string> metas, namespaces;
  uint64_t damaged = 0;
};

enum class RecordVerdict : uint8_t { unused, good, damaged };
// Is this what the slot of this segment may hold?
RecordVerdict judge(const uint8_t* record, const OpenIndex& index, uint32_t slot);

class Loader {
 public:
  Loader(const DigestSeed& seed, Loaded& out) : seed_(seed), out_(out), buffer_(chunk_bytes) {}

  // All records of a segment. False: it is not there.
  bool add_segment(int folder, const std::string& folder_name, uint32_t id);
  // Those of some slots, in ascending order without repetition.
  bool add_slots(int folder, const std::string& folder_name, uint32_t id, const std::vector<uint32_t>& slots);

 private:
  // Distinct strings by number; nearly always it is the one of last time.
  struct Names {
    std::vector<std::string>& list;
    std::unordered_map<std::string, uint32_t> numbers{};
    uint32_t last = 0;
    uint32_t number_of(std::string_view name);
  };

  bool open(int folder, const std::string& folder_name, uint32_t id, OpenIndex& index);
  void add_record(const uint8_t* record, const OpenIndex& index, uint32_t slot);

  const DigestSeed seed_;
  Loaded& out_;
  AlignedBuffer buffer_;
  Names metas_{out_.metas}, namespaces_{out_.namespaces};
};

// The page records of a segment, 512 bytes each.
std::string page_records(int folder, const std::string& folder_name, uint32_t id);

// ---- changes ----

// In a change, the whole of a segment; as a segment, nothing (an entry that only marks where a ring begins).
inline constexpr uint32_t whole_segment = UINT32_MAX, no_segment = UINT32_MAX;

struct RingTail {
  uint64_t sequence = 0;
  bool lapped = false;
  std::vector<Change> changes;
};
// What the ring says since `sequence`. A ring that is not there or damaged says nothing.
RingTail read_changes(int folder, const std::string& folder_name, uint64_t sequence);
// The greatest sequence of a folder's ring, 0 when there is none.
uint64_t ring_head(int folder, const std::string& folder_name);

}  // namespace hicache::segments
