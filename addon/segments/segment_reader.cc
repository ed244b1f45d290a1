#include "segments/segment_reader.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "pool/file_io.h"
#include "segments/segment_io.h"
#include "segments/segment_names.h"
#include "util/crc64.h"

namespace hicache::segments {
namespace {

namespace at = slot_record::at;

constexpr char index_magic[8] = {'H', 'C', 'N', 'X', 'S', 'E', 'G', 'M'};
constexpr uint32_t index_version = 1;
constexpr size_t header_bytes = slot_record::index_header_bytes, header_crc_at = header_bytes - 8;
constexpr size_t record_bytes = slot_record::bytes;
// Beyond it a double does not hold every whole number.
constexpr uint64_t safe_max = (uint64_t{1} << 53) - 1;

template <typename Number>
inline Number take(const uint8_t* from, size_t offset) {
  Number value;
  std::memcpy(&value, from + offset, sizeof(value));
  if constexpr (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) return slot_record::take<Number>(from, offset);
  return value;
}

template <typename Number>
inline void put_row(uint8_t* row, size_t offset, Number value) {
  std::memcpy(row + offset, &value, sizeof(value));
}

bool is_zero(const uint8_t* bytes, size_t length) {
  return bytes[0] == 0 && std::memcmp(bytes, bytes + 1, length - 1) == 0;
}

// The file is not to blame.
bool is_shortage(int error) { return error == EMFILE || error == ENFILE || error == ENOMEM || error == EINTR; }

// Calls `each(record, slot)` for `count` slots from `first` on. A part that cannot be read is skipped; answers how many slots were.
template <typename Each>
uint64_t read_records(int fd, const char* name, const AlignedBuffer& buffer, uint32_t first, uint32_t count, Each&& each) {
  uint64_t missed = 0;
  const uint32_t most = static_cast<uint32_t>(buffer.size() / record_bytes);
  for (uint32_t done = 0; done < count;) {
    uint32_t part = std::min(count - done, most);
    const iovec iov{buffer.data(), part * record_bytes};
    int64_t moved = file_io::read_all(fd, &iov, 1, slot_record::place_of(first + done), false, name);
    if (moved < 0) {
      // One bad sector costs the records of its block, not the whole chunk.
      part = std::min(part, static_cast<uint32_t>(block_bytes / record_bytes));
      const iovec block{buffer.data(), part * record_bytes};
      moved = file_io::read_all(fd, &block, 1, slot_record::place_of(first + done), false, name);
    }
    const uint32_t whole = moved < 0 ? 0 : static_cast<uint32_t>(static_cast<uint64_t>(moved) / record_bytes);
    for (uint32_t i = 0; i < whole; i++) each(buffer.data() + i * record_bytes, first + done + i);
    missed += part - whole;
    done += part;
  }
  return missed;
}

}  // namespace

// ---- headers ----

void encode_header(uint8_t* block, const IndexHeader& header) {
  std::memset(block, 0, header_bytes);
  std::memcpy(block, index_magic, sizeof(index_magic));
  slot_record::put<uint32_t>(block, 8, index_version);
  slot_record::put<uint32_t>(block, 12, header.id);
  slot_record::put<uint64_t>(block, 16, header.data_bytes);
  slot_record::put<uint32_t>(block, 24, header.extent_bytes);
  slot_record::put<uint32_t>(block, 28, header.slots);
  slot_record::put<uint64_t>(block, header_crc_at, crc64(block, header_crc_at));
}

HeaderState decode_header(const uint8_t* block, uint32_t id, IndexHeader& header) {
  if (std::memcmp(block, index_magic, sizeof(index_magic)) != 0) return HeaderState::damaged;
  if (take<uint64_t>(block, header_crc_at) != crc64(block, header_crc_at)) return HeaderState::damaged;
  if (take<uint32_t>(block, 8) > index_version) return HeaderState::newer;
  header = {take<uint32_t>(block, 12), take<uint64_t>(block, 16), take<uint32_t>(block, 24), take<uint32_t>(block, 28)};
  const bool right = header.id == id && header.extent_bytes >= block_bytes && header.extent_bytes % block_bytes == 0 && header.slots > 0 &&
                     header.data_bytes <= safe_max && header.slots == header.data_bytes / header.extent_bytes;
  return right ? HeaderState::whole : HeaderState::damaged;
}

IndexState open_index(int folder, const std::string& folder_name, uint32_t id, OpenIndex& out) {
  const std::string index = index_name(id), index_path = folder_name + "/" + index;
  struct stat status;
  const int opened = open_file(folder, index.c_str(), O_RDONLY, index_path.c_str(), &status);
  if (is_shortage(-opened)) throw Failure{-opened, "opening " + index_path};
  if (opened < 0) return opened == -ENOENT ? IndexState::absent : IndexState::damaged;
  out.fd = UniqueFd(opened);
  out.index_bytes = static_cast<uint64_t>(status.st_size);
  uint8_t block[header_bytes];
  const iovec iov{block, sizeof(block)};
  if (file_io::read_all(opened, &iov, 1, 0, false, index_path.c_str()) != static_cast<int64_t>(sizeof(block))) return IndexState::damaged;
  if (decode_header(block, id, out.header) != HeaderState::whole) return IndexState::damaged;
  const std::string data = data_name(id), data_path = folder_name + "/" + data;
  if (file_io::stat_at(folder, data.c_str(), &status, data_path.c_str()) < 0 || !S_ISREG(status.st_mode)) {
    // Given back while we looked?
    struct stat again;
    return file_io::stat(opened, &again, index_path.c_str()) == 0 && again.st_nlink == 0 ? IndexState::absent : IndexState::damaged;
  }
  out.data_bytes = std::min(out.header.data_bytes, static_cast<uint64_t>(status.st_size));
  const uint64_t by_index = out.index_bytes < header_bytes ? 0 : (out.index_bytes - header_bytes) / record_bytes;
  out.slots = static_cast<uint32_t>(std::min<uint64_t>(out.header.slots, by_index));
  return IndexState::open;
}

RecordVerdict judge(const uint8_t* record, const OpenIndex& index, uint32_t slot) {
  if (take<uint32_t>(record, at::magic) == 0 && is_zero(record, record_bytes)) return RecordVerdict::unused;
  if (!slot_record::valid(record)) return RecordVerdict::damaged;
  if (take<uint32_t>(record, at::segment) != index.header.id || take<uint32_t>(record, at::slot) != slot) return RecordVerdict::damaged;
  if (take<uint64_t>(record, at::generation) > safe_max || take<uint64_t>(record, at::written_at) > safe_max) return RecordVerdict::damaged;
  if (record[at::state] == slot_record::state::evicted) return RecordVerdict::good;
  const uint64_t offset = take<uint64_t>(record, at::file_offset), length = take<uint64_t>(record, at::length);
  const bool fits = take<uint16_t>(record, at::key_length) > 0 && offset == uint64_t{slot} * index.header.extent_bytes && length <= index.header.extent_bytes &&
                    offset + length <= index.data_bytes;
  return fits ? RecordVerdict::good : RecordVerdict::damaged;
}

// ---- rows ----

void Rows::reserve(size_t rows) {
  const size_t wanted = bytes_ + rows * row_bytes;
  if (wanted <= capacity_) return;
  void* const grown = std::realloc(data_, wanted);
  if (grown == nullptr) throw std::bad_alloc();
  data_ = static_cast<uint8_t*>(grown);
  capacity_ = wanted;
}

uint8_t* Rows::append() {
  if (bytes_ + row_bytes > capacity_) reserve(std::max<size_t>(64, bytes_ / row_bytes));
  uint8_t* const row = data_ + bytes_;
  bytes_ += row_bytes;
  return row;
}

uint8_t* Rows::release() {
  if (bytes_ == 0) {
    std::free(data_);
    data_ = nullptr;
  } else if (bytes_ < capacity_) {
    void* const fitting = std::realloc(data_, bytes_);
    if (fitting != nullptr) data_ = static_cast<uint8_t*>(fitting);
  }
  bytes_ = capacity_ = 0;
  return std::exchange(data_, nullptr);
}

uint32_t Loader::Names::number_of(std::string_view name) {
  if (last < list.size() && list[last] == name) return last;
  const auto [found, added] = numbers.try_emplace(std::string(name), static_cast<uint32_t>(list.size()));
  if (added) list.emplace_back(name);
  return last = found->second;
}

void Loader::add_record(const uint8_t* record, const OpenIndex& index, uint32_t slot) {
  const RecordVerdict verdict = judge(record, index, slot);
  if (verdict == RecordVerdict::damaged) out_.damaged++;
  if (verdict != RecordVerdict::good) return;
  uint8_t* const row = out_.rows.append();
  std::memset(row, 0, row_bytes);
  put_row(row, 16, index.header.id);
  put_row(row, 20, slot);
  put_row(row, 24, static_cast<double>(take<uint64_t>(record, at::generation)));
  put_row(row, 32, static_cast<double>(take<uint64_t>(record, at::written_at)));
  put_row(row, 68, uint32_t{record[at::state]});
  if (record[at::state] == slot_record::state::evicted) return;
  const size_t key_length = take<uint16_t>(record, at::key_length), meta_length = take<uint16_t>(record, at::meta_length);
  uint32_t hash[8], digest[4];
  hash_words(record + at::key, key_length, hash);
  page_digest(seed_, hash, record + at::scope, digest);
  std::memcpy(row, digest, sizeof(digest));
  put_row(row, 40, static_cast<double>(take<uint64_t>(record, at::file_offset)));
  put_row(row, 48, static_cast<double>(take<uint64_t>(record, at::length)));
  put_row(row, 56, take<uint32_t>(record, at::payload_crc));
  put_row(row, 60, take<uint32_t>(record, at::payload_crc + 4));
  const auto text = [&](size_t offset, size_t length) { return std::string_view(reinterpret_cast<const char*>(record) + offset, length); };
  put_row(row, 64, metas_.number_of(text(at::key + key_length, meta_length)));
  put_row(row, 72, namespaces_.number_of(text(at::name_space, slot_record::digest_bytes)));
}

bool Loader::open(int folder, const std::string& folder_name, uint32_t id, OpenIndex& index) {
  const IndexState state = open_index(folder, folder_name, id, index);
  if (state == IndexState::damaged) out_.damaged++;
  if (state != IndexState::open) return false;
  out_.segments.push_back({id, index.data_bytes, index.header.extent_bytes, std::min(index.slots, static_cast<uint32_t>(index.data_bytes / index.header.extent_bytes))});
  return true;
}

bool Loader::add_segment(int folder, const std::string& folder_name, uint32_t id) {
  OpenIndex index;
  if (!open(folder, folder_name, id, index)) return false;
  const std::string name = folder_name + "/" + index_name(id);
  ::posix_fadvise(index.fd.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  out_.rows.reserve(index.slots);
  out_.damaged += read_records(index.fd.get(), name.c_str(), buffer_, 0, index.slots,
                               [&](const uint8_t* record, uint32_t slot) { add_record(record, index, slot); });
  return true;
}

bool Loader::add_slots(int folder, const std::string& folder_name, uint32_t id, const std::vector<uint32_t>& slots) {
  OpenIndex index;
  if (!open(folder, folder_name, id, index)) return false;
  const std::string name = folder_name + "/" + index_name(id);
  // One read for slots that lie near each other.
  constexpr uint32_t near = 16;
  for (size_t from = 0; from < slots.size();) {
    if (slots[from] >= index.slots) break;
    size_t to = from + 1;
    while (to < slots.size() && slots[to] < index.slots && slots[to] - slots[to - 1] <= near) to++;
    size_t next = from;
    out_.damaged += read_records(index.fd.get(), name.c_str(), buffer_, slots[from], slots[to - 1] - slots[from] + 1, [&](const uint8_t* record, uint32_t slot) {
      while (next < to && slots[next] < slot) next++;
      if (next < to && slots[next] == slot) add_record(record, index, slot);
    });
    from = to;
  }
  return true;
}

std::string page_records(int folder, const std::string& folder_name, uint32_t id) {
  std::string out;
  OpenIndex index;
  if (open_index(folder, folder_name, id, index) != IndexState::open) return out;
  const AlignedBuffer buffer(chunk_bytes);
  const std::string name = folder_name + "/" + index_name(id);
  read_records(index.fd.get(), name.c_str(), buffer, 0, index.slots, [&](const uint8_t* record, uint32_t slot) {
    if (judge(record, index, slot) == RecordVerdict::good && record[at::state] == slot_record::state::page) {
      out.append(reinterpret_cast<const char*>(record), record_bytes);
    }
  });
  return out;
}

// ---- changes ----

namespace {

// Entries of a ring from a sequence on, in one read up to where the ring turns.
class RingFile {
 public:
  RingFile(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}

  bool holds() {
    uint8_t header[ChangeRing::header_bytes];
    const iovec iov{header, sizeof(header)};
    return file_io::read_all(fd_, &iov, 1, 0, false, name_.c_str()) == static_cast<int64_t>(sizeof(header)) && ChangeRing::valid_header(header);
  }
  // How many were read: 0 at the end of a file that was cut, or when it cannot be read.
  size_t read(uint64_t sequence, size_t most) {
    const size_t count = std::min<uint64_t>(most, ChangeRing::entries - sequence % ChangeRing::entries);
    buffer_.resize(count * ChangeRing::entry_bytes);
    const iovec iov{buffer_.data(), buffer_.size()};
    const int64_t moved = file_io::read_all(fd_, &iov, 1, ChangeRing::place_of(sequence), false, name_.c_str());
    return moved < 0 ? 0 : static_cast<size_t>(moved) / ChangeRing::entry_bytes;
  }
  bool entry(size_t i, uint64_t& sequence, Change& change) const { return ChangeRing::decode(buffer_.data() + i * ChangeRing::entry_bytes, sequence, change); }

 private:
  const int fd_;
  const std::string name_;
  std::vector<uint8_t> buffer_;
};

// Was something written behind an entry that does not hold? Then that one is damaged, and not the end. It is looked at once more after that: the writer goes on while we
// read, and whoever sees the next entry sees the one before it, if it looks then.
bool is_hole(RingFile& ring, uint64_t sequence) {
  constexpr uint64_t enough = 64;
  const auto holds = [&](size_t i, uint64_t expected) {
    uint64_t found;
    Change ignored;
    return ring.entry(i, found, ignored) && found == expected;
  };
  for (uint64_t seen = 1; seen <= enough;) {
    const size_t count = ring.read(sequence + seen, enough);
    if (count == 0) return false;
    for (size_t i = 0; i < count; i++) {
      if (holds(i, sequence + seen + i)) return ring.read(sequence, 1) == 0 || !holds(0, sequence);
    }
    seen += count;
  }
  return false;
}

}  // namespace

RingTail read_changes(int folder, const std::string& folder_name, uint64_t sequence) {
  RingTail tail;
  tail.sequence = sequence;
  const std::string name = folder_name + "/" + ChangeRing::file_name;
  const int opened = open_file(folder, ChangeRing::file_name, O_RDONLY, name.c_str());
  if (is_shortage(-opened)) throw Failure{-opened, "opening " + name};
  if (opened < 0) return tail;
  const UniqueFd fd(opened);
  RingFile ring(opened, name);
  if (!ring.holds()) return tail;
  const auto lapped = [&] {
    tail.lapped = true;
    tail.changes.clear();
    tail.sequence = sequence;
  };
  if (sequence == 0) {
    // Whoever read before there was a ring knows nothing of where it begins.
    uint64_t head = 0;
    if (ChangeRing::greatest_of(opened, name.c_str(), head) == 0 && head > 0) lapped();
    return tail;
  }
  size_t most = 64;
  for (uint64_t from = sequence;;) {
    const size_t count = ring.read(from, most);
    if (count == 0) {
      // Cut off before what was read already.
      if (from == sequence) lapped();
      return tail;
    }
    for (size_t i = 0; i < count; i++) {
      const uint64_t expected = from + i;
      uint64_t found = 0;
      Change change;
      const bool whole = ring.entry(i, found, change);
      if (whole && found == expected) {
        if (expected == sequence) continue;  // the last one of the time before
        tail.sequence = expected;
        if (change.segment != no_segment) tail.changes.push_back(change);
        continue;
      }
      // The last one of the time before is not there: the ring was made anew. A later one is: everything was overwritten meanwhile.
      if (expected == sequence || (whole && found > expected) || is_hole(ring, expected)) lapped();
      return tail;
    }
    from += count;
    most = 4096;
  }
}

uint64_t ring_head(int folder, const std::string& folder_name) {
  const std::string name = folder_name + "/" + ChangeRing::file_name;
  const int opened = open_file(folder, ChangeRing::file_name, O_RDONLY, name.c_str());
  if (is_shortage(-opened)) throw Failure{-opened, "opening " + name};
  if (opened < 0) return 0;
  const UniqueFd fd(opened);
  uint64_t head = 0;
  return ChangeRing::greatest_of(opened, name.c_str(), head) == 0 ? head : 0;
}

}  // namespace hicache::segments
