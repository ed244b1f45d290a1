#include "pool/page_store.h"

#include <dirent.h>
#include <linux/magic.h>
#include <sys/random.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "pool/file_io.h"
#include "util/fault.h"

namespace hicache {
namespace {

// A file layout has 256 folders at most; a caller with more pays an open() per page instead of our descriptors growing without a bound.
constexpr size_t folders_max = 512;
constexpr int temporary_tries_max = 16;

std::string temporary_name() {
  uint8_t random[12];
  if (::getrandom(random, sizeof(random), 0) != sizeof(random)) {
    // Without entropy the name is only unlikely, not random; O_EXCL and linkat() still refuse one that is taken.
    static std::atomic<uint64_t> counter{0};
    const uint64_t values[2] = {counter++, static_cast<uint64_t>(::getpid())};
    std::memcpy(random, values, sizeof(random));
  }
  std::string name(temporary_prefix);
  for (const uint8_t byte : random) {
    constexpr char digits[] = "0123456789abcdef";
    name += digits[byte >> 4];
    name += digits[byte & 15];
  }
  return name;
}

bool valid_component(std::string_view component) {
  return !component.empty() && component.size() <= 255 && component != "." && component != "..";
}

bool valid_path(std::string_view path) {
  if (path.find('\0') != std::string_view::npos) return false;
  while (true) {
    const size_t slash = path.find('/');
    if (!valid_component(path.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

double milliseconds(const timespec& time) { return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6; }

}  // namespace

void Outcome::set_meta(std::string_view from) {
  meta_length = std::min(from.size(), meta_bytes_max);
  if (meta_length > 0) std::memcpy(meta, from.data(), meta_length);
}

bool valid_name(std::string_view name) {
  if (!valid_path(name)) return false;
  const size_t slash = name.rfind('/');
  const std::string_view base = slash == std::string_view::npos ? name : name.substr(slash + 1);
  return base.substr(0, temporary_prefix.size()) != temporary_prefix;
}

bool valid_folder(std::string_view folder) { return folder.empty() || valid_path(folder); }

// ---- folders ----
// Each component is opened by itself, relative to its parent and with O_NOFOLLOW: with names free of "." and ".." that confines a path as
// openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS) would, on every kernel and under every seccomp filter.

int PageStore::root(FolderRef& out) {
  std::lock_guard lock(mutex_);
  if (root_ == nullptr) {
    // The directory itself may be a link: it is the operator's, not a key's.
    UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd) return errno;
    struct stat status;
    if (::fstat(fd.get(), &status) != 0) return errno;
    // The directory vanished and another one took its place: if it is somebody else's, it is not ours to fill.
    if (owner_ != 0 && status.st_uid + 1 != owner_) return EPERM;
    owner_ = status.st_uid + 1;
    struct statfs file_system;
    in_memory_.store(::fstatfs(fd.get(), &file_system) == 0 && (file_system.f_type == TMPFS_MAGIC || file_system.f_type == RAMFS_MAGIC), std::memory_order_relaxed);
    root_ = std::make_shared<Folder>(Folder{std::move(fd)});
  }
  out = root_;
  return 0;
}

int PageStore::folder(std::string_view name, bool create, const char* for_name, FolderRef& out) {
  if (name.empty()) return root(out);
  std::string key(name);
  {
    std::lock_guard lock(mutex_);
    if (const auto found = folders_.find(key); found != folders_.end()) {
      out = found->second;
      return 0;
    }
  }
  const size_t slash = name.rfind('/');
  FolderRef parent;
  if (const int error = folder(slash == std::string_view::npos ? std::string_view() : name.substr(0, slash), create, for_name, parent)) return error;
  const std::string base(slash == std::string_view::npos ? name : name.substr(slash + 1));
  int fd = file_io::open_at(parent->fd.get(), base.c_str(), O_RDONLY | O_DIRECTORY, 0, for_name);
  if (fd == -ENOENT && create) {
    const int made = file_io::mkdir_at(parent->fd.get(), base.c_str(), for_name);
    if (made < 0 && made != -EEXIST) return -made;
    fd = file_io::open_at(parent->fd.get(), base.c_str(), O_RDONLY | O_DIRECTORY, 0, for_name);
  }
  if (fd < 0) return -fd;
  out = std::make_shared<Folder>(Folder{UniqueFd(fd)});
  std::lock_guard lock(mutex_);
  if (folders_.size() >= folders_max) folders_.clear();
  folders_[std::move(key)] = out;
  return 0;
}

int PageStore::place(const char* name, bool create, Place& out) {
  const char* slash = std::strrchr(name, '/');
  out.base = slash == nullptr ? name : slash + 1;
  return folder(slash == nullptr ? std::string_view() : std::string_view(name, static_cast<size_t>(slash - name)), create, name, out.folder);
}

bool PageStore::forget_removed_folders(const FolderRef& used) {
  const auto removed = [](const FolderRef& folder) {
    struct stat status;
    return folder != nullptr && ::fstat(folder->fd.get(), &status) == 0 && status.st_nlink == 0;
  };
  // A folder that is still there has all its parents. Every look-up of a page that is absent, and so every new page, ends here: asking all folders
  // would cost more than the rest of it.
  if (used != nullptr && !removed(used)) return false;
  std::lock_guard lock(mutex_);
  bool any = std::erase_if(folders_, [&](const auto& entry) { return removed(entry.second); }) > 0;
  if (removed(root_)) {
    root_ = nullptr;
    folders_.clear();
    any = true;
  }
  return any;
}

// ---- opening ----

int PageStore::open_page(const char* name, int flags, UniqueFd& fd, struct stat& status, Place* where) {
  for (int attempt = 0;; attempt++) {
    Place found;
    int error = place(name, false, found);
    if (error == 0) {
      // O_NONBLOCK: a FIFO under a page's name must not hang the thread.
      int opened = file_io::open_at(found.folder->fd.get(), found.base, flags | O_NONBLOCK, 0, name);
      if (opened == -EINVAL && (flags & O_DIRECT) != 0) opened = file_io::open_at(found.folder->fd.get(), found.base, (flags & ~O_DIRECT) | O_NONBLOCK, 0, name);
      if (opened >= 0) fd = UniqueFd(opened);
      error = opened < 0 ? -opened : 0;
    }
    if (error == ENOENT && attempt == 0 && forget_removed_folders(found.folder)) continue;
    if (error != 0) return error;
    if (const int failed = file_io::stat(fd.get(), &status, name); failed < 0) return -failed;
    if (!S_ISREG(status.st_mode)) return S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
    if (where != nullptr) *where = std::move(found);
    return 0;
  }
}

// Reads the last block. -ENODATA: the file cannot end with a record block.
int PageStore::read_record_block(int fd, uint64_t size, bool direct, const char* name, uint8_t* block) {
  if (size < record_bytes || size % block_bytes != 0) return -ENODATA;
  const iovec iov{block, record_bytes};
  const int64_t moved = file_io::read_all(fd, &iov, 1, size - record_bytes, direct, name);
  if (moved < 0) return static_cast<int>(moved);
  return moved == static_cast<int64_t>(record_bytes) ? 0 : -ENODATA;
}

// ---- writing ----
// A new file is written by plain blocking calls on a pool thread, never through an engine of the kernel's: writes that extend a file are synchronous in Linux AIO and
// handed to kernel threads by io_uring, so an engine costs a detour and gains nothing. Systems that have a data path of their own (3FS, NIXL) move the bytes by it: `mover`.

int PageStore::open_new(const Place& where, const char* path, int flags, const Memory& memory, const char* name, bool& direct) {
  direct = direct_ && is_aligned(memory.data);
  int fd = file_io::open_at(where.folder->fd.get(), path, flags | (direct ? O_DIRECT : 0), 0600, name);
  if (fd == -EINVAL && direct) {
    direct = false;
    fd = file_io::open_at(where.folder->fd.get(), path, flags, 0600, name);
  }
  return fd;
}

// `last`: the payload's partial block, padded, and the record block.
int PageStore::write_content(int fd, bool direct, const Content& content) {
  const Memory& memory = content.memory;
  const size_t whole = round_down(memory.length);
  const iovec both[2] = {{memory.data, whole}, {const_cast<uint8_t*>(content.last), content.last_bytes}};
  const iovec* const iov = whole == 0 ? both + 1 : both;
  const int count = whole == 0 ? 1 : 2;
  const int64_t moved = content.mover ? content.mover(fd, iov, count) : file_io::write_all(fd, iov, count, 0, direct, content.page.name, {.gate = memory.gate});
  return moved < 0 ? static_cast<int>(-moved) : 0;
}

// Over whatever is there: a second name first, then a rename, which is atomic. The lock tells sweepers that the name has a living owner.
int PageStore::replace_with(int fd, const Place& where, const char* name) {
  FolderRef temporaries;
  if (const int error = folder(temporary_folder, true, name, temporaries)) return error;
  const int from = temporaries->fd.get();
  if (const int locked = file_io::lock(fd, false, name); locked < 0) return -locked;
  for (int attempt = 0; attempt < temporary_tries_max; attempt++) {
    const std::string temporary = temporary_name();
    int result = file_io::link_descriptor(fd, from, temporary.c_str(), name);
    if (result == -EEXIST) continue;
    if (result < 0) return -result;
    result = file_io::rename_at(from, temporary.c_str(), where.folder->fd.get(), where.base, name);
    if (result == 0) return 0;
    ::unlinkat(from, temporary.c_str(), 0);
    return -result;
  }
  return EEXIST;
}

int PageStore::link_or_replace(int fd, const Place& where, bool exists, const char* name) {
  if (!exists) {
    const int result = file_io::link_descriptor(fd, where.folder->fd.get(), where.base, name);
    if (result != -EEXIST) return -result;
  }
  return replace_with(fd, where, name);
}

// For file systems without O_TMPFILE, or a system without /proc.
int PageStore::write_named(const Content& content, const Place& where) {
  const char* const name = content.page.name;
  FolderRef temporaries;
  if (const int error = folder(temporary_folder, true, name, temporaries)) return error;
  const int from = temporaries->fd.get();
  for (int attempt = 0; attempt < temporary_tries_max; attempt++) {
    const std::string temporary = temporary_name();
    bool direct;
    const int opened = open_new({temporaries, ""}, temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL, content.memory, name, direct);
    if (opened == -EEXIST) continue;
    if (opened < 0) return -opened;
    const UniqueFd fd(opened);
    struct stat status;
    int error = -file_io::lock(fd.get(), false, name);
    if (error == 0) error = -file_io::stat(fd.get(), &status, name);
    // Between its creation and the lock a sweeper may have taken the file for a leftover.
    if (error == 0 && status.st_nlink == 0) continue;
    if (error == 0) error = write_content(fd.get(), direct, content);
    if (error == 0 && !content.wanted()) error = ECANCELED;
    if (error == 0) error = -file_io::rename_at(from, temporary.c_str(), where.folder->fd.get(), where.base, name);
    if (error != 0) ::unlinkat(from, temporary.c_str(), 0);
    return error;
  }
  return EEXIST;
}

int PageStore::write_once(const Content& content, bool exists) {
  const char* const name = content.page.name;
  Place where;
  if (const int error = place(name, true, where)) return error;
  if (tmpfile_.load(std::memory_order_relaxed)) {
    bool direct;
    const int opened = open_new(where, ".", O_TMPFILE | O_WRONLY, content.memory, name, direct);
    if (opened >= 0) {
      const UniqueFd fd(opened);
      int error = write_content(fd.get(), direct, content);
      if (error == 0 && !content.wanted()) error = ECANCELED;
      if (error == 0) error = link_or_replace(fd.get(), where, exists, name);
      // ENOENT here is a folder that has just been removed (the caller tries again), or a system without /proc.
      if (error != ENOENT || ::access("/proc/self/fd", F_OK) == 0) return error;
      tmpfile_.store(false, std::memory_order_relaxed);
    } else if (opened == -EOPNOTSUPP || opened == -EISDIR || opened == -EINVAL) {
      tmpfile_.store(false, std::memory_order_relaxed);
    } else {
      return -opened;
    }
  }
  return write_named(content, where);
}

Outcome PageStore::write(const PageName& page, std::string_view meta, const Memory& memory, uint32_t flags, const std::function<bool()>& given_up, const Mover& mover) {
  thread_local const AlignedBuffer last(block_bytes + record_bytes);
  const size_t whole = round_down(memory.length), tail = memory.length - whole;
  uint64_t crc = 0;
  const bool touched = memory.touch([&] {
    crc = payload_crc(page.identity, memory.data, memory.length);
    if (tail > 0) std::memcpy(last.data(), memory.data + whole, tail);
  });
  if (!touched) return Outcome::failed(ECANCELED);
  uint8_t* block = last.data();
  if (tail > 0) {
    std::memset(block + tail, 0, block_bytes - tail);
    block += block_bytes;
  }

  // What is there already? It stays open until its successor has its name: the last close frees its blocks, and were that the rename's, it would happen with the
  // folder, and for a rename between folders the whole file system, locked against everybody else (measured: 2 to 5 ms instead of 35 us).
  bool exists = false;
  UniqueFd old;
  {
    struct stat status;
    const int error = open_page(page.name, O_RDONLY, old, status);
    // What cannot be opened or is no file is replaced, if the rename is allowed.
    exists = error == 0 || error == EACCES || error == EPERM || error == ELOOP || error == EINVAL || error == ENXIO;
    if (error != 0 && !exists && error != ENOENT) return Outcome::failed(error);
    if (error == 0) {
      Record record;
      const int result = read_record_block(old.get(), static_cast<uint64_t>(status.st_size), false, page.name, block);
      if (result < 0 && result != -ENODATA && result != -EIO) return Outcome::failed(-result);
      const RecordState state = result == 0 ? decode_record(block, record) : RecordState::none;
      if (state == RecordState::newer) return Outcome::failed(EPROTONOSUPPORT);
      if (state == RecordState::whole && (flags & flag::replace) == 0 && record.identity == page.identity && record.meta == meta &&
          record.payload_length == memory.length && record.payload_crc == crc &&
          static_cast<uint64_t>(status.st_size) == page_file_bytes(memory.length)) {
        return Outcome::of(Status::already_there, memory.length);
      }
    }
  }

  Record record;
  record.payload_length = memory.length;
  record.payload_crc = crc;
  record.identity = page.identity;
  record.meta = meta;
  encode_record(block, record);
  const Content content{page, memory, last.data(), static_cast<size_t>(block - last.data()) + record_bytes, given_up, mover};
  int error = write_once(content, exists);
  if (error == ENOENT && forget_removed_folders()) error = write_once(content, exists);
  return error == 0 ? Outcome::of(Status::ok, memory.length) : Outcome::failed(error);
}

// ---- reading ----

bool PageStore::open(PageRead& read, Outcome& outcome) {
  const size_t length = read.memory.length;
  const bool want_direct = direct_ && (read.to_device || is_aligned(read.memory.data));
  struct stat status;
  const int error = open_page(read.page.name, O_RDONLY | (want_direct ? O_DIRECT : 0), read.fd, status);
  if (error != 0) {
    outcome = error == ENOENT ? Outcome::of(Status::absent) : Outcome::failed(error);
    // A missing directory is no missing page.
    FolderRef unused;
    if (error == ENOENT && root(unused) != 0) outcome = Outcome::failed(ENOENT);
    return false;
  }
  read.device = status.st_dev;
  read.inode = status.st_ino;
  const auto size = static_cast<uint64_t>(status.st_size);
  const int open_flags = ::fcntl(read.fd.get(), F_GETFL);
  read.direct = open_flags >= 0 && (open_flags & O_DIRECT) != 0;
  // For io_uring O_NONBLOCK means "fail rather than wait", on regular files too.
  if (open_flags < 0 || ::fcntl(read.fd.get(), F_SETFL, open_flags & ~O_NONBLOCK) != 0) {
    outcome = Outcome::failed(errno);
    return false;
  }
  if (size == 0) {
    outcome = Outcome::of(Status::corrupt);
    return false;
  }

  if (read.to_device && (size == page_file_bytes(length) || (size == length && (read.flags & flag::accept_unverified) != 0))) return open_for_device(read, size, outcome);
  const size_t whole = round_down(length);
  if (size == page_file_bytes(length)) {
    read.record_expected = true;
    read.scratch = AlignedBuffer(length > whole ? block_bytes + record_bytes : record_bytes);
    read.wanted = size;
  } else if (size == length && (read.flags & flag::accept_unverified) != 0) {
    read.record_expected = false;
    if (length > whole) read.scratch = AlignedBuffer(block_bytes);
    read.wanted = length;
  } else {
    // Not what was asked for: the record block, if there is one, says what it is.
    const AlignedBuffer block(record_bytes);
    Record record;
    const int result = read_record_block(read.fd.get(), size, read.direct, read.page.name, block.data());
    const RecordState state = result == 0 ? decode_record(block.data(), record) : RecordState::none;
    if (result < 0 && result != -ENODATA) {
      outcome = Outcome::failed(-result);
    } else if (state == RecordState::newer) {
      outcome = Outcome::failed(EPROTONOSUPPORT);
    } else if (state == RecordState::none) {
      outcome = size == length ? Outcome::of(Status::corrupt, size) : Outcome::of(Status::length, size);
    } else if (state == RecordState::whole && record.identity != read.page.identity) {
      outcome = Outcome::of(Status::identity, record.payload_length);
    } else if (state == RecordState::whole && size == page_file_bytes(record.payload_length)) {
      outcome = Outcome::of(Status::length, record.payload_length);
    } else {
      outcome = Outcome::of(Status::corrupt);
      if ((read.flags & flag::drop_corrupt) != 0) drop(read);
    }
    return false;
  }
  if (read.memory.gate != nullptr && read.memory.gate->closed()) {
    outcome = Outcome::failed(ECANCELED);
    return false;
  }
  if (whole > 0) read.iov[read.iov_count++] = {read.memory.data, whole};
  if (read.scratch) read.iov[read.iov_count++] = {read.scratch.data(), read.scratch.size()};
  return true;
}

// The payload goes where no processor of ours looks, so all that can be judged is judged first, by the record alone.
bool PageStore::open_for_device(PageRead& read, uint64_t size, Outcome& outcome) {
  const size_t length = read.memory.length;
  read.judged = Outcome::of(Status::unverified, length);
  const AlignedBuffer block(record_bytes);
  Record record;
  const int result = read_record_block(read.fd.get(), size, read.direct, read.page.name, block.data());
  if (result < 0 && result != -ENODATA) {
    outcome = Outcome::failed(-result);
    return false;
  }
  const RecordState state = result == 0 ? decode_record(block.data(), record) : RecordState::none;
  if (state == RecordState::newer) {
    outcome = Outcome::failed(EPROTONOSUPPORT);
  } else if (state == RecordState::damaged || (state == RecordState::whole && page_file_bytes(record.payload_length) != size)) {
    outcome = Outcome::of(Status::corrupt);
    if ((read.flags & flag::drop_corrupt) != 0) drop(read);
  } else if (state == RecordState::none && size != length) {
    outcome = Outcome::of(Status::length, size);
  } else if (state == RecordState::whole && record.identity != read.page.identity) {
    outcome = Outcome::of(Status::identity, record.payload_length);
  } else if (state == RecordState::whole && record.payload_length != length) {
    outcome = Outcome::of(Status::length, record.payload_length);
  } else {
    if (state == RecordState::whole) {
      read.judged = Outcome::of(Status::ok, length);
      read.judged.set_meta(record.meta);
    }
    read.wanted = length;
    read.iov[read.iov_count++] = {read.memory.data, length};
    return true;
  }
  return false;
}

Outcome PageStore::verify(PageRead& read, int64_t moved) {
  if (read.to_device) {
    read.fd.reset();
    if (moved < 0) return Outcome::failed(static_cast<int>(-moved));
    return static_cast<uint64_t>(moved) < read.wanted ? Outcome::of(Status::corrupt) : read.judged;
  }
  Outcome outcome;
  bool ours = false;  // a record of ours that does not hold, so that it may be dropped
  const size_t whole = round_down(read.memory.length), tail = read.memory.length - whole;
  if (moved < 0) {
    outcome = Outcome::failed(static_cast<int>(-moved));
  } else if (static_cast<uint64_t>(moved) < read.wanted) {
    outcome = Outcome::of(Status::corrupt);  // it was cut short since we looked
  } else if (!read.memory.touch([&] {
               if (tail > 0) std::memcpy(read.memory.data + whole, read.scratch.data(), tail);
               Record record;
               if (!read.record_expected) {
                 // A page of ours is exactly this long when its payload is one block shorter.
                 const RecordState state = tail == 0 && whole >= record_bytes ? decode_record(read.memory.data + whole - record_bytes, record) : RecordState::none;
                 if (state == RecordState::none) {
                   outcome = Outcome::of(Status::unverified, read.memory.length);
                 } else if (state == RecordState::newer) {
                   outcome = Outcome::failed(EPROTONOSUPPORT);
                 } else if (state == RecordState::whole && page_file_bytes(record.payload_length) == read.memory.length) {
                   outcome = Outcome::of(record.identity == read.page.identity ? Status::length : Status::identity, record.payload_length);
                 } else {
                   outcome = Outcome::of(Status::corrupt);
                   ours = true;
                 }
                 return;
               }
               const uint8_t* block = read.scratch.data() + (tail > 0 ? block_bytes : 0);
               const RecordState state = decode_record(block, record);
               if (state == RecordState::newer) {
                 outcome = Outcome::failed(EPROTONOSUPPORT);
               } else if (state == RecordState::none) {
                 outcome = Outcome::of(Status::length, page_file_bytes(read.memory.length));
               } else if (state == RecordState::damaged || page_file_bytes(record.payload_length) != page_file_bytes(read.memory.length)) {
                 outcome = Outcome::of(Status::corrupt);
                 ours = true;
               } else if (record.identity != read.page.identity) {
                 outcome = Outcome::of(Status::identity, record.payload_length);
               } else if (record.payload_length != read.memory.length) {
                 outcome = Outcome::of(Status::length, record.payload_length);
               } else if ((read.flags & flag::skip_checksum) == 0 &&
                          payload_crc(read.page.identity, read.memory.data, read.memory.length) != record.payload_crc) {
                 outcome = Outcome::of(Status::corrupt);
                 ours = true;
               } else {
                 outcome = Outcome::of(Status::ok, record.payload_length);
                 outcome.set_meta(record.meta);
               }
             })) {
    outcome = Outcome::failed(ECANCELED);
  }
  read.drop = ours && (read.flags & flag::drop_corrupt) != 0;
  read.fd.reset();
  return outcome;
}

int64_t PageStore::fill(const PageRead& read) {
  return file_io::read_all(read.fd.get(), read.iov, read.iov_count, 0, read.direct, read.page.name, {read.memory.gate, !read.direct && !in_memory()});
}

Outcome PageStore::read(PageRead& read) {
  Outcome outcome;
  if (!open(read, outcome)) return outcome;
  outcome = verify(read, fill(read));
  if (read.drop) drop(read);
  return outcome;
}

void PageStore::drop(const PageRead& read) {
  Place where;
  struct stat status;
  if (place(read.page.name, false, where) != 0) return;
  if (file_io::stat_at(where.folder->fd.get(), where.base, &status, read.page.name) != 0) return;
  if (status.st_dev == read.device && status.st_ino == read.inode) file_io::unlink_at(where.folder->fd.get(), where.base, read.page.name);
}

// ---- the rest ----

Outcome PageStore::check(const PageName& page, uint32_t flags) {
  UniqueFd fd;
  struct stat status;
  if (const int error = open_page(page.name, O_RDONLY, fd, status)) {
    FolderRef unused;
    return error == ENOENT && root(unused) == 0 ? Outcome::of(Status::absent) : Outcome::failed(error);
  }
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size == 0) return Outcome::of(Status::corrupt);
  // One block is wanted, not what the kernel would read ahead.
  ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM);
  alignas(64) uint8_t block[record_bytes];
  Record record;
  const int result = read_record_block(fd.get(), size, false, page.name, block);
  if (result < 0 && result != -ENODATA) return Outcome::failed(-result);
  switch (result == 0 ? decode_record(block, record) : RecordState::none) {
    case RecordState::newer: return Outcome::failed(EPROTONOSUPPORT);
    case RecordState::damaged: return Outcome::of(Status::corrupt);
    case RecordState::none: return Outcome::of((flags & flag::accept_unverified) != 0 ? Status::unverified : Status::corrupt, size);
    case RecordState::whole: break;
  }
  if (size != page_file_bytes(record.payload_length)) return Outcome::of(Status::corrupt);
  Outcome outcome = Outcome::of(record.identity == page.identity ? Status::ok : Status::identity, record.payload_length);
  if (outcome.status == Status::ok) outcome.set_meta(record.meta);
  return outcome;
}

Outcome PageStore::remove(const PageName& page, uint32_t flags) {
  Place where;
  Outcome outcome = Outcome::of(Status::ok);
  if ((flags & flag::force) != 0) {
    int error = place(page.name, false, where);
    if (error == 0) error = -file_io::unlink_at(where.folder->fd.get(), where.base, page.name);
    if (error == ENOENT && forget_removed_folders()) {
      error = place(page.name, false, where);
      if (error == 0) error = -file_io::unlink_at(where.folder->fd.get(), where.base, page.name);
    }
    if (error == 0) return outcome;
    return error == ENOENT ? Outcome::of(Status::absent) : Outcome::failed(error);
  }
  UniqueFd fd;
  struct stat status, now;
  if (const int error = open_page(page.name, O_RDONLY, fd, status, &where)) return error == ENOENT ? Outcome::of(Status::absent) : Outcome::failed(error);
  alignas(64) uint8_t block[record_bytes];
  Record record;
  const int result = read_record_block(fd.get(), static_cast<uint64_t>(status.st_size), false, page.name, block);
  if (result < 0 && result != -ENODATA) return Outcome::failed(-result);
  const RecordState state = result == 0 ? decode_record(block, record) : RecordState::none;
  if (state == RecordState::newer) return Outcome::failed(EPROTONOSUPPORT);
  if (state == RecordState::whole && record.identity != page.identity) return Outcome::of(Status::identity, record.payload_length);
  outcome.length = state == RecordState::whole ? record.payload_length : static_cast<uint64_t>(status.st_size);
  // What has taken its place since is not what was judged.
  int error = -file_io::stat_at(where.folder->fd.get(), where.base, &now, page.name);
  if (error == 0 && (now.st_dev != status.st_dev || now.st_ino != status.st_ino)) error = ENOENT;
  if (error == 0) error = -file_io::unlink_at(where.folder->fd.get(), where.base, page.name);
  if (error == 0) return outcome;
  return error == ENOENT ? Outcome::of(Status::absent) : Outcome::failed(error);
}

Outcome PageStore::touch(const PageName& page) {
  for (int attempt = 0;; attempt++) {
    Place where;
    int error = place(page.name, false, where);
    if (error == 0) error = -file_io::touch_access_time(where.folder->fd.get(), where.base, page.name);
    if (error == ENOENT && attempt == 0 && forget_removed_folders(where.folder)) continue;
    if (error == 0) return Outcome::of(Status::ok);
    return error == ENOENT ? Outcome::of(Status::absent) : Outcome::failed(error);
  }
}

int PageStore::open_extent_file(const char* name, bool writable, bool direct) {
  UniqueFd fd;
  struct stat status;
  const int error = open_page(name, (writable ? O_RDWR : O_RDONLY) | (direct ? O_DIRECT : 0), fd, status);
  if (error != 0) return -error;
  const int open_flags = ::fcntl(fd.get(), F_GETFL);
  if (open_flags < 0 || ::fcntl(fd.get(), F_SETFL, open_flags & ~O_NONBLOCK) != 0) return -errno;
  return fd.release();
}

namespace {

struct DirectoryStream {
  DIR* stream = nullptr;
  ~DirectoryStream() {
    if (stream != nullptr) ::closedir(stream);
  }
  // Its own open file, because the position is shared by all users of one.
  int open(int folder) {
    UniqueFd fd(file_io::open_at(folder, ".", O_RDONLY | O_DIRECTORY, 0, ""));
    if (!fd) return ENOENT;
    stream = ::fdopendir(fd.get());
    if (stream == nullptr) return errno;
    fd.release();
    return 0;
  }
  dirent* next(int& error) {
    errno = 0;
    dirent* entry = ::readdir(stream);
    error = entry == nullptr ? errno : 0;
    return entry;
  }
};

}  // namespace

int PageStore::list(std::string_view folder_name, bool records, std::vector<ListedFile>& out) {
  const std::string label(folder_name);
  if (const fault::Strike strike = fault::ask("list", label.c_str()); strike.hit) {
    if (strike.hang) fault::wait_released(strike);
    if (strike.error != 0) return strike.error;
  }
  forget_removed_folders();
  FolderRef in;
  if (const int error = folder(folder_name, false, label.c_str(), in)) {
    FolderRef unused;
    return error == ENOENT && root(unused) == 0 ? 0 : error;
  }
  DirectoryStream directory;
  if (const int error = directory.open(in->fd.get())) return error;
  alignas(64) uint8_t block[record_bytes];
  int error = 0;
  while (dirent* entry = directory.next(error)) {
    const std::string_view name(entry->d_name);
    if (name.substr(0, own_prefix.size()) == own_prefix) continue;
    if (entry->d_type != DT_REG && entry->d_type != DT_UNKNOWN) continue;
    struct stat status;
    // It may be gone since: then it is no longer part of the listing.
    if (file_io::stat_at(in->fd.get(), entry->d_name, &status, entry->d_name) != 0 || !S_ISREG(status.st_mode)) continue;
    ListedFile file;
    file.name = name;
    file.size = static_cast<uint64_t>(status.st_size);
    file.allocated = static_cast<uint64_t>(status.st_blocks) * 512;
    file.accessed_ms = milliseconds(status.st_atim);
    file.modified_ms = milliseconds(status.st_mtim);
    if (records) {
      // A listing is no use of the pages: with their access times renewed, the cleaner could not tell any more which were read longest ago.
      int opened = file_io::open_at(in->fd.get(), entry->d_name, O_RDONLY | O_NONBLOCK | O_NOATIME, 0, entry->d_name);
      if (opened == -EPERM) opened = file_io::open_at(in->fd.get(), entry->d_name, O_RDONLY | O_NONBLOCK, 0, entry->d_name);
      const UniqueFd fd(std::max(-1, opened));
      if (!fd) continue;
      ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM);
      Record record;
      file.has_record = true;
      if (read_record_block(fd.get(), file.size, false, entry->d_name, block) == 0) file.record = decode_record(block, record);
      if (file.record == RecordState::whole && file.size != page_file_bytes(record.payload_length)) file.record = RecordState::damaged;
      if (file.record == RecordState::whole) {
        file.payload_length = record.payload_length;
        file.identity = record.identity;
        file.meta = record.meta;
      }
    }
    out.push_back(std::move(file));
  }
  return error;
}

int PageStore::sweep(std::string_view folder_name, size_t& removed) {
  const std::string label(folder_name);
  removed = 0;
  forget_removed_folders();
  FolderRef in;
  if (const int error = folder(folder_name, false, label.c_str(), in)) return error == ENOENT ? 0 : error;
  DirectoryStream directory;
  if (const int error = directory.open(in->fd.get())) return error;
  int error = 0;
  while (dirent* entry = directory.next(error)) {
    const std::string_view name(entry->d_name);
    if (name.substr(0, temporary_prefix.size()) != temporary_prefix) continue;
    const UniqueFd fd(std::max(-1, file_io::open_at(in->fd.get(), entry->d_name, O_RDONLY | O_NONBLOCK, 0, entry->d_name)));
    if (!fd || file_io::lock(fd.get(), true, entry->d_name) < 0) continue;
    // Its writer may have renamed it before we got the lock; then the name is gone, or somebody else's by now.
    struct stat held, named;
    if (::fstat(fd.get(), &held) != 0 || !S_ISREG(held.st_mode)) continue;
    if (file_io::stat_at(in->fd.get(), entry->d_name, &named, entry->d_name) != 0) continue;
    if (held.st_dev != named.st_dev || held.st_ino != named.st_ino) continue;
    if (file_io::unlink_at(in->fd.get(), entry->d_name, entry->d_name) == 0) removed++;
  }
  return error;
}

}  // namespace hicache
