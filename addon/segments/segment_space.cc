#include "segments/segment_space.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <set>

#include "segments/segment_files.h"
#include "segments/segment_names.h"
#include "segments/store_folder.h"
#include "segments/writers.h"
#include "util/aligned_buffer.h"
#include "util/recorder.h"

namespace hicache::segments {
namespace {

constexpr size_t prefill_bytes = size_t{1} << 20;
// What a segment may take beyond its two files' bytes: blocks in which the file system says where they lie, and the folder's growth.
constexpr uint64_t slack_bytes = 64 << 10;

uint64_t index_bytes_of(uint64_t slots) { return round_up(slot_record::place_of(slots)); }
uint64_t needed_for(uint64_t data_bytes, uint32_t extent_bytes) { return data_bytes + index_bytes_of(data_bytes / extent_bytes) + slack_bytes; }

// As much of `wanted` as fits into `available`, 0 when that is too little to be worth a segment.
uint64_t fitting(uint64_t wanted, uint32_t extent_bytes, uint64_t available) {
  if (needed_for(wanted, extent_bytes) <= available) return wanted;
  const uint64_t fixed = slack_bytes + 2 * block_bytes;
  const uint64_t slots = available > fixed ? (available - fixed) / (extent_bytes + slot_record::bytes) : 0;
  const uint64_t data_bytes = std::min(wanted / extent_bytes, slots) * extent_bytes;
  return data_bytes >= std::max<uint64_t>(extent_bytes, wanted / 4) ? data_bytes : 0;
}

uint64_t free_of(const Store& store) {
  struct statfs status;
  must(file_system_of(store.fd.get(), &status, store.name.c_str()), "statfs of " + store.name);
  return static_cast<uint64_t>(status.f_bavail) * static_cast<uint64_t>(status.f_bsize);
}

bool is_full(int error) { return error == ENOSPC || error == EDQUOT || error == EFBIG; }

// Ids are never used again while anybody may know them: none that is in any folder.
uint32_t new_id(const Store& store) {
  std::set<uint32_t> taken;
  for (const std::string& name : folders_of(store)) {
    const UniqueFd folder(open_folder(store.fd.get(), name.c_str(), store.named(name).c_str()));
    std::vector<std::string> entries;
    if (!folder || list(folder.get(), entries, store.named(name).c_str()) != 0) continue;
    for (const std::string& entry : entries) {
      uint32_t id;
      if (file_kind(entry, id) != FileKind::none) taken.insert(id);
    }
  }
  while (true) {
    const uint32_t id = random_id();
    if (taken.count(id) == 0) return id;
  }
}

// A segment that is being prepared; removed again unless it is finished.
class Preparation {
 public:
  Preparation(int folder, std::string folder_name, uint32_t id) : folder_(folder), name_(std::move(folder_name)), id_(id) {}
  ~Preparation() {
    if (done_) return;
    for (const UniqueFd* fd : {&data_, &index_}) {
      // Another process may be counting: the space is free at once, not when the last descriptor goes.
      if (*fd && recorded::ftruncate(fd->get(), 0) != 0) continue;
    }
    remove_file(folder_, name_, new_data_name(id_));
    remove_file(folder_, name_, new_index_name(id_));
  }

  // Under the directory's lock: the space is taken, and counted, when this returns.
  void reserve(uint64_t data_bytes, uint64_t index_bytes, bool direct) {
    const std::string path = name_ + "/" + new_data_name(id_);
    int fd = open_file(folder_, new_data_name(id_).c_str(), O_RDWR | O_CREAT | O_EXCL | (direct ? O_DIRECT : 0), path.c_str());
    // Where O_DIRECT is refused, the file may have been made all the same.
    if (fd == -EINVAL && direct) fd = open_file(folder_, new_data_name(id_).c_str(), O_RDWR | O_CREAT, path.c_str());
    data_ = UniqueFd(must(fd, "making " + path));
    reserve_one(data_.get(), data_bytes, path);
    const std::string index_path = name_ + "/" + new_index_name(id_);
    index_ = UniqueFd(must(open_file(folder_, new_index_name(id_).c_str(), O_RDWR | O_CREAT | O_EXCL, index_path.c_str()), "making " + index_path));
    reserve_one(index_.get(), index_bytes, index_path);
  }
  uint64_t taken() const {
    uint64_t bytes = 0;
    for (const UniqueFd* fd : {&data_, &index_}) {
      struct stat status;
      if (::fstat(fd->get(), &status) == 0) bytes += taken_bytes(status);
    }
    return bytes;
  }
  void fill(const IndexHeader& header, uint64_t index_bytes, bool prefill, const Work& work) {
    const std::string path = name_ + "/" + new_data_name(id_), index_path = name_ + "/" + new_index_name(id_);
    must(write_zeros(index_.get(), block_bytes, index_bytes, index_path.c_str()), "writing " + index_path);
    must(write_header(index_.get(), header, index_path.c_str()), "writing " + index_path);
    must(sync(index_.get(), false, index_path.c_str()), "fsync of " + index_path);
    if (!prefill) return;
    const AlignedBuffer zeros(prefill_bytes);
    std::memset(zeros.data(), 0, zeros.size());
    const bool direct = (::fcntl(data_.get(), F_GETFL) & O_DIRECT) != 0;
    for (uint64_t at = 0; at < header.data_bytes; at += prefill_bytes) {
      work.check();
      const iovec iov{zeros.data(), static_cast<size_t>(std::min<uint64_t>(prefill_bytes, header.data_bytes - at))};
      must(file_io::write_all(data_.get(), &iov, 1, at, direct, path.c_str()), "writing " + path);
    }
    must(sync(data_.get(), false, path.c_str()), "fsync of " + path);
  }
  // The data first: an index that can be seen has its data beside it. Under the directory's lock: who counts must find each file by one of its names.
  void finish(const Work& work) {
    work.check();
    const auto give = [&](const std::string& from, const std::string& to) {
      const std::string path = name_ + "/" + from;
      must(file_io::rename_at(folder_, from.c_str(), folder_, to.c_str(), path.c_str()), "renaming " + path);
    };
    give(new_data_name(id_), data_name(id_));
    try {
      give(new_index_name(id_), index_name(id_));
    } catch (...) {
      remove_file(folder_, name_, data_name(id_));
      throw;
    }
    done_ = true;
  }

 private:
  static void reserve_one(int fd, uint64_t bytes, const std::string& path) {
    const int result = allocate(fd, bytes, path.c_str());
    // Without fallocate the size is what others count (see taken_bytes), and the zeros are what takes the space.
    if (result == -EOPNOTSUPP || result == -ENOSYS) must(truncate(fd, bytes, path.c_str()), "setting the size of " + path);
    else must(result, "allocating " + path);
  }

  const int folder_;
  const std::string name_;
  const uint32_t id_;
  UniqueFd data_, index_;
  bool done_ = false;
};

}  // namespace

Granted grant(const std::string& directory, const std::string& folder_name, const GrantOptions& options) {
  const Work work(directory, folder_name);
  const Store store = open_store(directory, false);
  if (!store.fd) throw Failure{ENOENT, "opening " + store.name};
  const UniqueFd folder = open_below(store, folder_name);
  Granted granted;
  IndexHeader header;
  uint64_t index_bytes = 0;
  std::optional<Preparation> preparation;
  try {
    {
      const DirectoryLock lock(store);
      work.check();
      granted.used_bytes = taken_below(store.fd.get(), store.name);
      granted.free_bytes = free_of(store);
      const auto left = [](uint64_t of, uint64_t taken) { return of > taken ? of - taken : 0; };
      const uint64_t by_capacity = options.capacity == 0 ? UINT64_MAX : left(options.capacity, granted.used_bytes);
      const uint64_t by_disk = left(granted.free_bytes, options.keep_free_bytes);
      header.data_bytes = fitting(options.data_bytes, options.extent_bytes, std::min(by_capacity, by_disk));
      if (header.data_bytes == 0) {
        granted.refused = by_capacity <= by_disk ? "capacity" : "disk";
        return granted;
      }
      header.id = new_id(store);
      header.extent_bytes = options.extent_bytes;
      header.slots = static_cast<uint32_t>(header.data_bytes / options.extent_bytes);
      index_bytes = index_bytes_of(header.slots);
      preparation.emplace(folder.get(), store.named(folder_name), header.id);
      preparation->reserve(header.data_bytes, index_bytes, options.direct);
      if (preparation->taken() > by_capacity) {
        granted.refused = "capacity";
        return granted;
      }
      granted.used_bytes += preparation->taken();
      // Counted from the beginning, and taken now: no commit shall fail for want of it.
      must(-work.writer().ring->reserve(), "allocating the ring of changes of " + store.named(folder_name));
    }
    preparation->fill(header, index_bytes, options.prefill, work);
    {
      const DirectoryLock lock(store);
      preparation->finish(work);
    }
    // Without it a sync of the files themselves would be worth nothing after a loss of power.
    sync(folder.get(), false, store.named(folder_name).c_str());
  } catch (const Failure& failure) {
    if (!is_full(failure.error)) throw;
    granted.refused = "disk";
    return granted;
  }
  granted.id = header.id;
  granted.data_bytes = header.data_bytes;
  granted.slots = header.slots;
  granted.free_bytes = free_of(store);
  return granted;
}

Reassigned reassign(const std::string& directory, const std::string& folder_name, uint32_t id, uint32_t extent_bytes) {
  const Work work(directory, folder_name);
  const Store store = open_store(directory, false);
  if (!store.fd) throw Failure{ENOENT, "opening " + store.name};
  const UniqueFd folder = open_below(store, folder_name);
  const std::string name = store.named(folder_name), index_path = name + "/" + index_name(id), data_path = name + "/" + data_name(id);
  OpenIndex open;
  if (open_index(folder.get(), name, id, open) != IndexState::open) throw Failure{EBADMSG, "reading " + index_path};
  // The same files, in place: others have them open. And never more space than before: the data gives up what a longer index takes.
  const UniqueFd index(must(open_file(folder.get(), index_name(id).c_str(), O_RDWR, index_path.c_str()), "opening " + index_path));
  const UniqueFd data(must(open_file(folder.get(), data_name(id).c_str(), O_RDWR, data_path.c_str()), "opening " + data_path));
  IndexHeader header{id, open.data_bytes, extent_bytes, static_cast<uint32_t>(open.data_bytes / extent_bytes)};
  const uint64_t index_bytes = round_up(open.index_bytes), wanted = index_bytes_of(header.slots);
  if (wanted > index_bytes) {
    const uint64_t growth = wanted - index_bytes;
    header.data_bytes -= std::min(header.data_bytes, growth);
    header.slots = static_cast<uint32_t>(header.data_bytes / extent_bytes);
  }
  if (header.slots == 0) throw Failure{EINVAL, "extents of " + std::to_string(extent_bytes) + " bytes do not fit into " + data_path};
  // Who counts must not see the longer index and the shorter data, or the other way round.
  const DirectoryLock lock(store);
  work.check();
  // From here to the new header the segment is nobody's: an end in between costs an empty segment, which the next open gives back.
  uint8_t nothing[block_bytes] = {};
  const iovec iov{nothing, sizeof(nothing)};
  must(file_io::write_all(index.get(), &iov, 1, 0, false, index_path.c_str()), "writing " + index_path);
  must(sync(index.get(), true, index_path.c_str()), "fsync of " + index_path);
  if (header.data_bytes < open.header.data_bytes) must(truncate(data.get(), header.data_bytes, data_path.c_str()), "cutting " + data_path);
  must(write_zeros(index.get(), block_bytes, std::max(index_bytes, index_bytes_of(header.slots)), index_path.c_str()), "writing " + index_path);
  must(sync(index.get(), true, index_path.c_str()), "fsync of " + index_path);
  must(write_header(index.get(), header, index_path.c_str()), "writing " + index_path);
  must(sync(index.get(), true, index_path.c_str()), "fsync of " + index_path);
  tell_whole(work.writer(), {id});
  return {header.slots, header.data_bytes};
}

void release(const std::string& directory, const std::string& folder_name, uint32_t id) {
  const Work work(directory, folder_name);
  const Store store = open_store(directory, false);
  if (!store.fd) return;
  const UniqueFd folder = open_below(store, folder_name);
  const std::string name = store.named(folder_name);
  // The index first: data without one is removed at the next open. Cut to nothing, because a descriptor that is open somewhere would keep the space.
  for (const std::string& file : {index_name(id), data_name(id)}) {
    const std::string path = name + "/" + file;
    const UniqueFd fd(open_file(folder.get(), file.c_str(), O_RDWR, path.c_str()));
    const int removed = file_io::unlink_at(folder.get(), file.c_str(), path.c_str());
    if (removed < 0 && removed != -ENOENT) throw Failure{-removed, "removing " + path};
    if (fd) must(truncate(fd.get(), 0, path.c_str()), "emptying " + path);
  }
  tell_whole(work.writer(), {id});
}

}  // namespace hicache::segments
