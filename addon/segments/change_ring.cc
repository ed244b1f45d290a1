#include "segments/change_ring.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "pool/file_io.h"
#include "util/crc64.h"
#include "util/little_endian.h"
#include "util/recorder.h"

namespace hicache {
namespace {

using little_endian::put;
using little_endian::take;

struct Rings {
  std::mutex mutex;
  std::unordered_map<std::string, std::shared_ptr<ChangeRing>> by_folder;
};
Rings& rings() {
  static Rings* const the_rings = new Rings;  // never destroyed: pool threads may outlive main()
  return *the_rings;
}

// "/a//b/" and "/a/b" are one folder.
std::string plain(const std::string& folder) {
  std::string path;
  path.reserve(folder.size());
  for (const char c : folder) {
    if (c != '/' || path.empty() || path.back() != '/') path += c;
  }
  if (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// `length`: of the file as it is. One that is made takes the space of its header only, until reserve(); what lies in an old one must go.
int write_new(int fd, off_t length, const char* name) {
  std::vector<uint8_t> content(length == 0 ? ChangeRing::header_bytes : ChangeRing::file_bytes);
  std::memcpy(content.data(), ChangeRing::magic, sizeof(ChangeRing::magic));
  put<uint32_t>(content.data(), 8, ChangeRing::version);
  put<uint32_t>(content.data(), 12, ChangeRing::entries);
  const iovec iov{content.data(), content.size()};
  const int64_t moved = file_io::write_all(fd, &iov, 1, 0, false, name);
  if (moved < 0) return static_cast<int>(-moved);
  return recorded::ftruncate(fd, ChangeRing::file_bytes) == 0 ? 0 : errno;
}

}  // namespace

void ChangeRing::encode(uint8_t* entry, uint64_t sequence, const Change& change) {
  put<uint64_t>(entry, 0, sequence);
  put<uint32_t>(entry, 8, change.segment);
  put<uint32_t>(entry, 12, change.slot);
  put<uint64_t>(entry, 16, change.generation);
  put<uint64_t>(entry, 24, crc64(entry, 24));
}

bool ChangeRing::decode(const uint8_t* entry, uint64_t& sequence, Change& change) {
  sequence = take<uint64_t>(entry, 0);
  if (sequence == 0 || take<uint64_t>(entry, 24) != crc64(entry, 24)) return false;
  change = {take<uint32_t>(entry, 8), take<uint32_t>(entry, 12), take<uint64_t>(entry, 16)};
  return true;
}

bool ChangeRing::valid_header(const uint8_t* header) {
  return std::memcmp(header, magic, sizeof(magic)) == 0 && take<uint32_t>(header, 8) == version && take<uint32_t>(header, 12) == entries;
}

int ChangeRing::greatest_of(int fd, const char* name, uint64_t& sequence) {
  sequence = 0;
  std::vector<uint8_t> content(file_bytes);
  const iovec iov{content.data(), content.size()};
  const int64_t moved = file_io::read_all(fd, &iov, 1, 0, false, name);
  if (moved < 0) return static_cast<int>(-moved);
  if (moved < static_cast<int64_t>(file_bytes) || !valid_header(content.data())) return EBADMSG;
  for (uint32_t i = 0; i < entries; i++) {
    uint64_t found;
    Change ignored;
    // One that lies where its sequence does not belong is damage, however right its checksum.
    if (decode(content.data() + header_bytes + i * entry_bytes, found, ignored) && found % entries == i) sequence = std::max(sequence, found);
  }
  return 0;
}

int ChangeRing::open(const std::string& folder, std::shared_ptr<ChangeRing>& out, uint64_t at_least) {
  const std::string path = plain(folder), file = path + "/" + file_name;
  Rings& all = rings();
  {
    std::lock_guard lock(all.mutex);
    if (all.by_folder.count(path) != 0) return EBUSY;
  }
  const int opened = file_io::open_at(AT_FDCWD, file.c_str(), O_RDWR | O_CREAT, 0600, file.c_str());
  if (opened < 0) return -opened;
  UniqueFd fd(opened);
  struct stat status;
  if (const int error = file_io::stat(fd.get(), &status, file.c_str()); error < 0) return -error;
  if (!S_ISREG(status.st_mode)) return EINVAL;
  uint64_t head = 0;
  int error = status.st_size == 0 ? EBADMSG : greatest_of(fd.get(), file.c_str(), head);
  if (error == EBADMSG) error = write_new(fd.get(), status.st_size, file.c_str());
  if (error != 0) return error;
  std::shared_ptr<ChangeRing> ring(new ChangeRing(file, std::move(fd), std::max(head, at_least)));
  std::lock_guard lock(all.mutex);
  if (!all.by_folder.emplace(path, ring).second) return EBUSY;
  out = std::move(ring);
  return 0;
}

std::shared_ptr<ChangeRing> ChangeRing::find(const std::string& folder) {
  Rings& all = rings();
  const std::string path = plain(folder);
  std::lock_guard lock(all.mutex);
  const auto found = all.by_folder.find(path);
  return found == all.by_folder.end() ? nullptr : found->second;
}

void ChangeRing::close(const std::string& folder) {
  Rings& all = rings();
  std::shared_ptr<ChangeRing> ring;
  {
    const std::string path = plain(folder);
    std::lock_guard lock(all.mutex);
    const auto found = all.by_folder.find(path);
    if (found == all.by_folder.end()) return;
    ring = std::move(found->second);
    all.by_folder.erase(found);
  }
  std::lock_guard lock(ring->mutex_);
  ring->closed_.store(true, std::memory_order_release);
  ring->fd_.reset();
}

int ChangeRing::reserve() {
  std::lock_guard lock(mutex_);
  if (closed()) return EBADF;
  if (recorded::fallocate(fd_.get(), 0, 0, file_bytes) == 0 || errno == EOPNOTSUPP || errno == ENOSYS) return 0;
  return errno;
}

int ChangeRing::append(const Change* changes, size_t count) {
  std::lock_guard lock(mutex_);
  if (closed()) return EBADF;
  // A stack buffer serves groups of up to 64; more goes in as many rounds.
  uint8_t buffer[64 * entry_bytes];
  uint64_t sequence = head();
  for (size_t done = 0; done < count;) {
    const uint64_t until_turn = entries - (sequence + 1) % entries;
    const size_t part = std::min({count - done, sizeof(buffer) / entry_bytes, static_cast<size_t>(until_turn)});
    for (size_t i = 0; i < part; i++) encode(buffer + i * entry_bytes, sequence + 1 + i, changes[done + i]);
    const iovec iov{buffer, part * entry_bytes};
    const int64_t moved = file_io::write_all(fd_.get(), &iov, 1, place_of(sequence + 1), false, name_.c_str());
    done += part;
    sequence += part;
    // Also when it failed: part of it may have been written, and a reader have gone on from there. The hole that stays makes readers load the folder anew.
    head_.store(sequence, std::memory_order_release);
    if (moved < 0) return static_cast<int>(-moved);
  }
  return 0;
}

}  // namespace hicache
