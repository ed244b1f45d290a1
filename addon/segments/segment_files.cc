#include "segments/segment_files.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "segments/segment_io.h"
#include "segments/segment_names.h"
#include "util/aligned_buffer.h"

namespace hicache::segments {

FolderFiles files_of(int folder, const std::string& name) {
  std::vector<std::string> entries;
  must(list(folder, entries, name.c_str()), "listing " + name);
  FolderFiles files;
  for (const std::string& entry : entries) {
    uint32_t id = 0;
    switch (file_kind(entry, id)) {
      case FileKind::data: files.data.insert(id); break;
      case FileKind::index: files.index.insert(id); break;
      case FileKind::preparing: files.preparing.push_back(entry); break;
      case FileKind::none: break;
    }
  }
  return files;
}

void remove_file(int folder, const std::string& folder_name, const std::string& file) {
  const std::string name = folder_name + "/" + file;
  if (file_io::unlink_at(folder, file.c_str(), name.c_str()) == -EISDIR) remove_folder(folder, file.c_str(), name.c_str());
}

int64_t write_zeros(int fd, uint64_t from, uint64_t to, const char* name) {
  const AlignedBuffer zeros(std::clamp<uint64_t>(to > from ? to - from : 0, block_bytes, chunk_bytes));
  std::memset(zeros.data(), 0, zeros.size());
  while (from < to) {
    const iovec iov{zeros.data(), static_cast<size_t>(std::min<uint64_t>(zeros.size(), to - from))};
    if (const int64_t moved = file_io::write_all(fd, &iov, 1, from, false, name); moved < 0) return moved;
    from += iov.iov_len;
  }
  return 0;
}

int64_t write_header(int fd, const IndexHeader& header, const char* name) {
  uint8_t block[block_bytes];
  encode_header(block, header);
  const iovec iov{block, sizeof(block)};
  return file_io::write_all(fd, &iov, 1, 0, false, name);
}

namespace {

enum class PairState : uint8_t { usable, useless, leave };

// Are both files of a segment what they say? Repairs what a cut file needs so that its slots can be written again.
PairState repair(int folder, const std::string& folder_name, uint32_t id) {
  const std::string index = index_name(id), data = data_name(id), index_path = folder_name + "/" + index, data_path = folder_name + "/" + data;
  const auto no_file = [](int error) { return error == -ENOENT || error == -EISDIR || error == -EINVAL || error == -ELOOP || error == -ENXIO; };
  struct stat index_status, data_status;
  const UniqueFd index_fd(open_file(folder, index.c_str(), O_RDWR, index_path.c_str(), &index_status));
  if (!index_fd) return no_file(index_fd.get()) ? PairState::useless : PairState::leave;
  const UniqueFd data_fd(open_file(folder, data.c_str(), O_RDWR, data_path.c_str(), &data_status));
  if (!data_fd) return no_file(data_fd.get()) ? PairState::useless : PairState::leave;
  uint8_t block[block_bytes];
  const iovec iov{block, sizeof(block)};
  const int64_t moved = file_io::read_all(index_fd.get(), &iov, 1, 0, false, index_path.c_str());
  if (moved < 0) return PairState::leave;
  IndexHeader header;
  const HeaderState state = moved < static_cast<int64_t>(sizeof(block)) ? HeaderState::damaged : decode_header(block, id, header);
  if (state == HeaderState::newer) return PairState::leave;
  if (state == HeaderState::damaged) return PairState::useless;
  const auto data_bytes = static_cast<uint64_t>(data_status.st_size);
  if (data_bytes > header.data_bytes && truncate(data_fd.get(), header.data_bytes, data_path.c_str()) < 0) return PairState::leave;
  if (data_bytes < header.data_bytes) {
    header.data_bytes = round_down(data_bytes);
    header.slots = static_cast<uint32_t>(header.data_bytes / header.extent_bytes);
    if (header.slots == 0) return PairState::useless;
    if (write_header(index_fd.get(), header, index_path.c_str()) < 0) return PairState::leave;
  }
  const bool whole = write_zeros(index_fd.get(), static_cast<uint64_t>(index_status.st_size), slot_record::place_of(header.slots), index_path.c_str()) >= 0;
  return whole ? PairState::usable : PairState::useless;
}

}  // namespace

std::set<uint32_t> tidy(int folder, const std::string& name, bool* left_alone) {
  const FolderFiles files = files_of(folder, name);
  for (const std::string& file : files.preparing) remove_file(folder, name, file);
  std::set<uint32_t> ids;
  for (const uint32_t id : files.data) {
    if (files.index.count(id) == 0) remove_file(folder, name, data_name(id));
  }
  for (const uint32_t id : files.index) {
    const PairState state = files.data.count(id) == 0 ? PairState::useless : repair(folder, name, id);
    if (state == PairState::usable) ids.insert(id);
    if (state == PairState::leave && left_alone != nullptr) *left_alone = true;
    if (state != PairState::useless) continue;
    // The index first: without it nobody takes the data for pages.
    remove_file(folder, name, index_name(id));
    remove_file(folder, name, data_name(id));
  }
  return ids;
}

}  // namespace hicache::segments
