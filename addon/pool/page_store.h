// One storage directory: pages as files of their own, each whole or not there. Every call blocks, so every call belongs on a pool thread; all of them
// may run at once. Knows files, records and opaque names; no keys, no engines, no JavaScript.
#pragma once

#include <sys/stat.h>
#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "agent/protocol.h"
#include "pool/record.h"
#include "util/aligned_buffer.h"
#include "util/gate.h"
#include "util/unique_fd.h"

namespace hicache {

// Everything that begins with this is ours and no page: temporaries, the bench's folder.
inline constexpr std::string_view own_prefix = ".hicache-nixl-";
inline constexpr std::string_view temporary_prefix = ".hicache-nixl-tmp-";
// Where temporaries lie, below the storage directory: one folder to sweep, however many pages there are.
inline constexpr std::string_view temporary_folder = ".hicache-nixl-tmp";

struct Outcome {
  Status status = Status::error;
  int error = 0;
  uint64_t length = 0;
  size_t meta_length = 0;
  uint8_t meta[meta_bytes_max] = {};

  static Outcome of(Status status, uint64_t length = 0) {
    Outcome outcome;
    outcome.status = status;
    outcome.length = length;
    return outcome;
  }
  static Outcome failed(int error) {
    Outcome outcome;
    outcome.error = error;
    return outcome;
  }
  void set_meta(std::string_view from);
};

// Which page: its name relative to the directory (NUL-terminated, checked by valid_name), and whose it must be.
struct PageName {
  const char* name = "";
  std::string_view identity;
};
// Relative, not empty, no component that is empty, "." or "..", none longer than 255 bytes, and not one of our own names.
bool valid_name(std::string_view name);
// The same for a folder, where "" is the directory itself.
bool valid_folder(std::string_view folder);

struct Memory {
  uint8_t* data = nullptr;
  size_t length = 0;
  Gate* gate = nullptr;  // nullptr: memory of our own

  template <typename Call>
  bool touch(Call&& call) const {
    if (gate != nullptr) return gate->touch(call);
    call();
    return true;
  }
};

// Moves the bytes of a new file in place of plain system calls: all of them, or -errno. Blocks.
using Mover = std::function<int64_t(int fd, const iovec* iov, int count)>;

// A read between open() and verify(): whoever moves the bytes (preadv, or an engine) fills the vectors from offset 0.
struct PageRead {
  PageName page;
  uint32_t flags = 0;
  Memory memory;

  UniqueFd fd;
  bool direct = false;
  // The bytes go to the memory of a GPU: what the record says was looked at when the file was opened, `judged` is the answer when all bytes have come, and nobody here
  // can vouch for them.
  bool to_device = false;
  bool record_expected = false;  // false: the size is the payload's, a file without a record
  AlignedBuffer scratch;         // the payload's last, partial block and the record block
  iovec iov[2] = {};
  int iov_count = 0;
  uint64_t wanted = 0;  // bytes that must arrive
  dev_t device = 0;
  ino_t inode = 0;
  Outcome judged;     // of a device's
  bool drop = false;  // out of verify(): the file is ours and damaged, and the caller asked to be rid of it: call drop()
};

struct ListedFile {
  std::string name;
  uint64_t size = 0, allocated = 0;
  double accessed_ms = 0, modified_ms = 0;
  bool has_record = false;  // the fields below are filled
  RecordState record = RecordState::none;
  uint64_t payload_length = 0;
  std::string identity, meta;
};

class PageStore {
 public:
  // Opens nothing yet: that could block.
  PageStore(std::string path, bool direct) : path_(std::move(path)), direct_(direct) {}

  const std::string& path() const { return path_; }
  bool direct() const { return direct_; }
  // tmpfs and the like; known once the directory was opened.
  bool in_memory() const { return in_memory_.load(std::memory_order_relaxed); }

  // `given_up` is asked right before the page becomes visible: a caller that was told "timeout" must not find its page stored long after.
  // `mover`: who moves the bytes; none: plain system calls.
  Outcome write(const PageName&, std::string_view meta, const Memory&, uint32_t flags, const std::function<bool()>& given_up = {}, const Mover& mover = {});

  // True: the read goes on, move the bytes and verify. False: `outcome` is the answer already.
  bool open(PageRead&, Outcome& outcome);
  // `moved`: the bytes that arrived, or -errno. Closes the file, and never blocks on the file system otherwise.
  Outcome verify(PageRead&, int64_t moved);
  // Removes the file, if its name still means the one that was read.
  void drop(const PageRead&);
  // Moves the bytes by plain system calls; what verify() takes.
  int64_t fill(const PageRead&);
  // open(), fill(), verify(), drop().
  Outcome read(PageRead&);

  Outcome check(const PageName&, uint32_t flags);
  Outcome remove(const PageName&, uint32_t flags);
  Outcome touch(const PageName&);

  // An existing file, for extents. -errno on failure.
  int open_extent_file(const char* name, bool writable, bool direct);

  // 0 or errno.
  int list(std::string_view folder, bool records, std::vector<ListedFile>& out);
  // Removes leftovers of dead writers; `removed` says how many. 0 or errno.
  int sweep(std::string_view folder, size_t& removed);

 private:
  struct Folder {
    UniqueFd fd;
  };
  using FolderRef = std::shared_ptr<Folder>;
  // A name, taken apart: its folder, opened, and the last component.
  struct Place {
    FolderRef folder;
    const char* base = "";
  };

  int root(FolderRef& out);
  int folder(std::string_view name, bool create, const char* for_name, FolderRef& out);
  int place(const char* name, bool create, Place& out);
  // After ENOENT: true when a folder we hold open has been removed meanwhile, and is forgotten now, so that it is worth another try. With the folder
  // that was used, one look at that one tells.
  bool forget_removed_folders(const FolderRef& used = nullptr);

  int open_page(const char* name, int flags, UniqueFd& fd, struct stat& status, Place* where = nullptr);
  bool open_for_device(PageRead&, uint64_t size, Outcome& outcome);
  int read_record_block(int fd, uint64_t size, bool direct, const char* name, uint8_t* block);
  // What a write carries to its end.
  struct Content {
    const PageName& page;
    const Memory& memory;
    const uint8_t* last = nullptr;  // the payload's partial block, padded, and the record block
    size_t last_bytes = 0;
    const std::function<bool()>& given_up;
    const Mover& mover;

    bool wanted() const { return !given_up || !given_up(); }
  };
  int write_once(const Content&, bool exists);
  int link_or_replace(int fd, const Place&, bool exists, const char* name);
  int replace_with(int fd, const Place&, const char* name);
  int write_named(const Content&, const Place&);
  int open_new(const Place&, const char* path, int flags, const Memory&, const char* name, bool& direct);
  static int write_content(int fd, bool direct, const Content&);

  const std::string path_;
  const bool direct_;
  std::atomic<bool> in_memory_{false};
  std::atomic<bool> tmpfile_{true};
  std::mutex mutex_;
  FolderRef root_;
  uid_t owner_ = 0;
  std::unordered_map<std::string, FolderRef> folders_;
};

}  // namespace hicache
