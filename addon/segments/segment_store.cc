#include "segments/segment_store.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "segments/segment_names.h"
#include "util/clock.h"
#include "util/recorder.h"

namespace hicache::segments {
namespace {

using std::chrono::milliseconds;

constexpr auto lock_wait = std::chrono::seconds(5);
constexpr int64_t live_for_ns = 500'000'000;
constexpr size_t prefill_bytes = size_t{1} << 20;
// What a segment may take beyond its two files' bytes: blocks in which the file system says where they lie, and the folder's growth.
constexpr uint64_t slack_bytes = 64 << 10;

constexpr std::string_view format_prefix = "hicache-nixl segments ";
constexpr std::string_view format_text = "hicache-nixl segments 1\n";

// ---- this process's writers ----

struct Writer {
  std::string path;    // of its folder, as its ring of changes is known by
  std::string folder;
  UniqueFd owner;
  std::shared_ptr<ChangeRing> ring;
  uint64_t serial = 0;
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable idle;
  int busy = 0;
};
using WriterRef = std::shared_ptr<Writer>;

struct Writers {
  std::mutex mutex;
  std::map<std::string, WriterRef> by_path;
};
Writers& writers() {
  static Writers* const the_writers = new Writers;  // never destroyed: threads may outlive main()
  return *the_writers;
}

std::string folder_path(const std::string& directory, const std::string& folder) {
  std::string path;
  for (const char c : directory + "/" + store_folder + "/" + folder) {
    if (c != '/' || path.empty() || path.back() != '/') path += c;
  }
  return path;
}

WriterRef find_writer(const std::string& directory, const std::string& folder) {
  std::lock_guard lock(writers().mutex);
  const auto found = writers().by_path.find(folder_path(directory, folder));
  return found == writers().by_path.end() ? nullptr : found->second;
}

// Work on a folder of ours: closing waits for it (not for ever), and it does not begin once closing has.
class Work {
 public:
  Work(const std::string& directory, const std::string& folder) : writer_(find_writer(directory, folder)) {
    if (writer_ == nullptr) throw Failure{EBADF, "the writer's folder " + folder + " is not open"};
    std::lock_guard lock(writer_->mutex);
    if (writer_->stopping) throw Failure{ECANCELED, "the writer's folder " + folder + " is closing"};
    writer_->busy++;
  }
  ~Work() {
    std::lock_guard lock(writer_->mutex);
    if (--writer_->busy == 0) writer_->idle.notify_all();
  }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  Writer& writer() const { return *writer_; }
  void check() const {
    if (writer_->stopping) throw Failure{ECANCELED, "the writer's folder " + writer_->folder + " is closing"};
  }

 private:
  const WriterRef writer_;
};

// ---- the folder `segments` ----

struct Store {
  UniqueFd fd;  // not open: there is none
  std::string name = store_folder;
  std::string named(const std::string& below) const { return name + "/" + below; }
};

Store open_store(const std::string& directory, bool create) {
  const UniqueFd root(must(open_directory(directory), "opening " + directory));
  Store store;
  int fd = open_folder(root.get(), store_folder, store.name.c_str());
  if (fd == -ENOENT && create) {
    const int made = file_io::mkdir_at(root.get(), store_folder, store.name.c_str());
    if (made < 0 && made != -EEXIST) throw Failure{-made, "making " + store.name};
    if (made == 0) must(sync(root.get(), false, store.name.c_str()), "fsync of " + directory);
    fd = open_folder(root.get(), store_folder, store.name.c_str());
  }
  if (fd == -ENOENT && !create) return store;
  store.fd = UniqueFd(must(fd, "opening " + store.name));
  return store;
}

UniqueFd open_below(const Store& store, const std::string& folder) {
  return UniqueFd(must(open_folder(store.fd.get(), folder.c_str(), store.named(folder).c_str()), "opening " + store.named(folder)));
}

// False: there is no FORMAT yet (or what is left of one that was being written when the power failed). A newer one is refused before anything is touched.
bool check_format(const Store& store) {
  const std::string name = store.named(format_file);
  const int opened = open_file(store.fd.get(), format_file, O_RDONLY, name.c_str());
  if (opened == -ENOENT) return false;
  const UniqueFd fd(must(opened, "opening " + name));
  char text[64];
  const iovec iov{text, sizeof(text)};
  const auto length = static_cast<size_t>(must(file_io::read_all(opened, &iov, 1, 0, false, name.c_str()), "reading " + name));
  const std::string_view content(text, length);
  if (content == format_text) return true;
  if (content.substr(0, format_prefix.size()) == format_prefix) {
    const std::string_view number = content.substr(format_prefix.size());
    const size_t digits = std::min(number.find_first_not_of("0123456789"), number.size());
    if (digits > 0 && number.substr(0, digits) != "1" && number.substr(0, digits) != "0") {
      throw Failure{EPROTONOSUPPORT, name + " is of version " + std::string(number.substr(0, digits)) + ", newer than this program's 1; nothing was touched"};
    }
    if (digits > 0 && number.substr(0, digits) == "1") return true;
  }
  if (content.find_first_not_of('\0') == std::string_view::npos || content == format_text.substr(0, length)) return false;
  throw Failure{EBADMSG, name + " says no version (\"hicache-nixl segments 1\" is expected); if the folder is a store of ours, remove the file"};
}

void write_format(const Store& store) {
  const std::string temporary = std::string(format_file) + ".new", name = store.named(temporary);
  const UniqueFd fd(must(open_file(store.fd.get(), temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC, name.c_str()), "making " + name));
  const iovec iov{const_cast<char*>(format_text.data()), format_text.size()};
  must(file_io::write_all(fd.get(), &iov, 1, 0, false, name.c_str()), "writing " + name);
  must(sync(fd.get(), false, name.c_str()), "fsync of " + name);
  must(file_io::rename_at(store.fd.get(), temporary.c_str(), store.fd.get(), format_file, name.c_str()), "renaming " + name);
}

// The directory's lock, held while this lives. Others hold it for moments; one that does not give it back is reported.
class DirectoryLock {
 public:
  explicit DirectoryLock(const Store& store, std::chrono::milliseconds wait = lock_wait) {
    const std::string name = store.named(lock_file);
    fd_ = UniqueFd(must(open_file(store.fd.get(), lock_file, O_RDWR | O_CREAT, name.c_str()), "opening " + name));
    const auto until = std::chrono::steady_clock::now() + wait;
    for (auto pause = milliseconds(1);; pause = std::min(pause * 2, milliseconds(20))) {
      const int result = try_lock(fd_.get(), false, name.c_str());
      if (result == 0) return;
      if (result != -EWOULDBLOCK) throw Failure{-result, "locking " + name};
      if (std::chrono::steady_clock::now() >= until) throw Failure{EBUSY, name + " was held by others all the time"};
      std::this_thread::sleep_for(pause);
    }
  }

 private:
  UniqueFd fd_;
};

std::vector<std::string> folders_of(const Store& store) {
  std::vector<std::string> names;
  if (!store.fd) return names;
  must(list(store.fd.get(), names, store.name.c_str()), "listing " + store.name);
  std::erase_if(names, [](const std::string& name) { return !valid_folder_name(name); });
  std::sort(names.begin(), names.end());
  return names;
}

// ---- who lives ----

// Takes the owner's lock. -1: somebody has it, or it is not to be had. Somebody else may hold it for a moment only to see whether the owner lives.
int take_owner(const Store& store, const std::string& folder_name, int folder, bool create) {
  const std::string name = store.named(folder_name + "/" + owner_file);
  struct stat status;
  const int opened = open_file(folder, owner_file, O_RDWR | (create ? O_CREAT : 0), name.c_str(), &status);
  if (opened < 0) return opened;
  UniqueFd fd(opened);
  int result = 0;
  for (int attempt = 0; attempt < (create ? 200 : 3); attempt++) {
    if (attempt > 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
    result = try_lock(opened, false, name.c_str());
    if (result == 0) return fd.release();
    if (result != -EWOULDBLOCK) break;
  }
  return result;
}

bool ask_live(const Store& store, const std::string& folder_name, int folder) {
  const std::string name = store.named(folder_name + "/" + owner_file);
  const UniqueFd fd(open_file(folder, owner_file, O_RDONLY, name.c_str()));
  return fd && try_lock(fd.get(), true, name.c_str()) == -EWOULDBLOCK;
}

// Asking takes the lock for a moment, which is not to be done at every look.
bool is_live(const std::string& directory, const Store& store, const std::string& folder_name, int folder) {
  struct Asked {
    int64_t at;
    bool live;
  };
  static std::mutex mutex;
  static auto* const asked = new std::map<std::string, Asked>;
  const std::string path = folder_path(directory, folder_name);
  const int64_t now = now_ns();
  {
    std::lock_guard lock(mutex);
    const auto found = asked->find(path);
    if (found != asked->end() && now - found->second.at < live_for_ns) return found->second.live;
  }
  const bool live = ask_live(store, folder_name, folder);
  std::lock_guard lock(mutex);
  if (asked->size() > 1024) asked->clear();
  (*asked)[path] = {now, live};
  return live;
}

// A lock that can be had proves the owner dead where locks are the kernel's own. A network file system may have forgotten it, after another machine's or
// its own restart; only within one boot of this machine the kernel itself would know.
bool is_local(const Store& store) {
  struct statfs status;
  must(file_system_of(store.fd.get(), &status, store.name.c_str()), "statfs of " + store.name);
  switch (static_cast<uint32_t>(status.f_type)) {
    case EXT4_SUPER_MAGIC:
    case 0x58465342:  // xfs
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
    case 0xf2f52010:  // f2fs
    case 0x2fc12fc1:  // zfs
    case OVERLAYFS_SUPER_MAGIC: return true;
    default: return false;
  }
}

// ---- the files of a folder ----

struct FolderFiles {
  std::set<uint32_t> data, index;
  std::vector<std::string> preparing;
  bool any_segment() const { return !data.empty() || !index.empty(); }
};

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

// What cannot be removed stays: somebody looks again at the next open.
void remove_file(int folder, const std::string& folder_name, const std::string& file) {
  const std::string name = folder_name + "/" + file;
  if (file_io::unlink_at(folder, file.c_str(), name.c_str()) == -EISDIR) remove_folder(folder, file.c_str(), name.c_str());
}

// Both answer what file_io answers: less than 0 is an error.
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

// Removes what an end at any moment has left in a folder whose owner we are. Answers its segments, those that are left alone too.
std::set<uint32_t> tidy(int folder, const std::string& name, bool* left_alone = nullptr) {
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

// The last thing of a folder is its owner's file: as long as it is there, who has its lock is the owner.
bool remove_writer_folder(const Store& store, int folder, const std::string& folder_name) {
  const std::string name = store.named(folder_name);
  for (const char* file : {ChangeRing::file_name, wants_file, owner_file}) remove_file(folder, name, file);
  return remove_folder(store.fd.get(), folder_name.c_str(), name.c_str()) == 0;
}

// ---- taking over ----

struct Dead {
  std::string name;
  UniqueFd folder, owner;
};

// Folders of writers of this machine that are certainly dead, locked by us. Call it with the directory's lock.
std::vector<Dead> take_dead(const Store& store, const std::string& except) {
  std::vector<Dead> dead;
  const Host& host = this_host();
  std::optional<bool> local;
  for (const std::string& name : folders_of(store)) {
    if (name == except || machine_of(name) != host.machine) continue;
    if (boot_of(name) != host.boot) {
      if (!local) local = is_local(store);
      if (!*local) continue;
    }
    // Whatever cannot be opened is somebody else's, or broken: it stays.
    UniqueFd folder(open_folder(store.fd.get(), name.c_str(), store.named(name).c_str()));
    if (!folder) continue;
    int owner = take_owner(store, name, folder.get(), false);
    if (owner == -ENOENT) {
      // Made, or emptied, by somebody who died before it was done: both happen under the directory's lock, which is ours. Segments without an owner's file are a riddle: they stay.
      std::vector<std::string> entries;
      if (list(folder.get(), entries, store.named(name).c_str()) != 0) continue;
      uint32_t id;
      if (std::any_of(entries.begin(), entries.end(), [&](const std::string& entry) { return file_kind(entry, id) != FileKind::none; })) continue;
      owner = take_owner(store, name, folder.get(), true);
    }
    if (owner < 0) continue;
    dead.push_back({name, std::move(folder), UniqueFd(owner)});
  }
  return dead;
}

// A dead writer's segments become ours. The data first: an index that can be seen has its data beside it. In between, and after an end there, a segment is in two folders by halves, of
// which nobody makes a page; the next who owns a folder removes them.
std::vector<uint32_t> merge(const Store& store, Dead& dead, int own_folder, const std::string& own_name) {
  std::vector<uint32_t> merged;
  const std::string from = store.named(dead.name);
  bool left_alone = false;
  const FolderFiles ours = files_of(own_folder, store.named(own_name));
  for (const uint32_t id : tidy(dead.folder.get(), from, &left_alone)) {
    const std::string data = data_name(id), index = index_name(id);
    if (ours.data.count(id) != 0 || ours.index.count(id) != 0) {
      // Ids are random and never used again: this is a copy that somebody made. Which is the right one nobody knows; the space is certain.
      remove_file(dead.folder.get(), from, index);
      remove_file(dead.folder.get(), from, data);
      continue;
    }
    const std::string data_path = from + "/" + data, index_path = from + "/" + index;
    if (file_io::rename_at(dead.folder.get(), data.c_str(), own_folder, data.c_str(), data_path.c_str()) < 0 ||
        file_io::rename_at(dead.folder.get(), index.c_str(), own_folder, index.c_str(), index_path.c_str()) < 0) {
      left_alone = true;
      continue;
    }
    merged.push_back(id);
  }
  if (!merged.empty()) {
    sync(own_folder, false, store.named(own_name).c_str());
    sync(dead.folder.get(), false, from.c_str());
  }
  if (!left_alone) remove_writer_folder(store, dead.folder.get(), dead.name);
  return merged;
}

uint64_t now_us() {
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
}

// Opens the ring, tidies up, and makes the folder known to this process.
WriterRef make_writer(const std::string& directory, const Store& store, const std::string& folder_name, int folder, UniqueFd& owner) {
  const std::string name = store.named(folder_name);
  struct stat status;
  const std::string ring_name = name + "/" + ChangeRing::file_name;
  // A link or a FIFO has no business there.
  const int opened = open_file(folder, ChangeRing::file_name, O_RDONLY, ring_name.c_str(), &status);
  uint64_t head = 0;
  bool fresh = opened < 0;
  if (opened >= 0) {
    const UniqueFd fd(opened);
    const int error = ChangeRing::greatest_of(opened, ring_name.c_str(), head);
    if (error != 0 && error != EBADMSG) throw Failure{error, "reading " + ring_name};
    fresh = error == EBADMSG;
  } else if (opened != -ENOENT) {
    remove_file(folder, name, ChangeRing::file_name);
  }
  auto writer = std::make_shared<Writer>();
  writer->path = folder_path(directory, folder_name);
  writer->folder = folder_name;
  // A ring that is made anew goes on far behind what anybody may have followed.
  if (const int error = ChangeRing::open(writer->path, writer->ring, fresh ? now_us() : 0); error != 0) throw Failure{error, "opening " + ring_name};
  try {
    remove_file(folder, name, wants_file);
    tidy(folder, name);
    // Marks where the ring begins: only what is in it tells a reader.
    const Change mark{no_segment, whole_segment};
    if (const int error = writer->ring->append(&mark, 1); error != 0) throw Failure{error, "writing " + ring_name};
  } catch (...) {
    ChangeRing::close(writer->path);
    throw;
  }
  writer->owner = std::move(owner);
  return writer;
}

WriterRef make_new(const std::string& directory, const Store& store) {
  for (int attempt = 0;; attempt++) {
    const std::string folder_name = new_folder_name(this_host()), name = store.named(folder_name);
    const int made = file_io::mkdir_at(store.fd.get(), folder_name.c_str(), name.c_str());
    if (made == -EEXIST && attempt < 16) continue;
    must(made, "making " + name);
    UniqueFd folder;
    try {
      folder = open_below(store, folder_name);
      UniqueFd owner(must(take_owner(store, folder_name, folder.get(), true), "locking " + name + "/" + owner_file));
      const WriterRef writer = make_writer(directory, store, folder_name, folder.get(), owner);
      sync(folder.get(), false, name.c_str());
      return writer;
    } catch (...) {
      if (folder) remove_writer_folder(store, folder.get(), folder_name);
      else remove_folder(store.fd.get(), folder_name.c_str(), name.c_str());
      throw;
    }
  }
}

// Tells who follows us that whole segments have changed. What cannot be told is found out at the next open.
void tell_whole(const Writer& writer, const std::vector<uint32_t>& ids) {
  std::vector<Change> changes;
  for (const uint32_t id : ids) changes.push_back({id, whole_segment});
  if (!changes.empty()) writer.ring->append(changes.data(), changes.size());
}

}  // namespace

// ---- open and close ----

Opened open_writer(const std::string& directory) {
  const Store store = open_store(directory, true);
  check_format(store);
  const DirectoryLock lock(store);
  if (!check_format(store)) write_format(store);
  Opened opened;
  WriterRef writer;
  UniqueFd own_folder;
  try {
    std::vector<Dead> dead = take_dead(store, "");
    for (Dead& one : dead) {
      try {
        if (writer == nullptr) {
          writer = make_writer(directory, store, one.name, one.folder.get(), one.owner);
          own_folder = std::move(one.folder);
        } else {
          tell_whole(*writer, merge(store, one, own_folder.get(), writer->folder));
        }
        opened.adopted.push_back(one.name);
      } catch (const Failure& failure) {
        // Its ring is none, or is still open in this process: another folder will do. None will where there is no space.
        if (failure.error == ENOSPC || failure.error == EDQUOT || failure.error == EROFS) throw;
      }
    }
    if (writer == nullptr) writer = make_new(directory, store);
    sync(store.fd.get(), false, store.name.c_str());
    opened.used_bytes = taken_below(store.fd.get(), store.name);
  } catch (...) {
    if (writer != nullptr) ChangeRing::close(writer->path);
    throw;
  }
  opened.folder = writer->folder;
  opened.owner_fd = writer->owner.get();
  std::lock_guard known(writers().mutex);
  static uint64_t serials = 0;
  opened.serial = writer->serial = ++serials;
  const std::string path = writer->path;
  writers().by_path[path] = std::move(writer);
  return opened;
}

bool is_writer(const std::string& directory, const std::string& folder, int owner_fd) {
  const WriterRef writer = find_writer(directory, folder);
  return writer != nullptr && writer->owner.get() == owner_fd;
}

bool close_writer(const std::string& directory, const std::string& folder, int owner_fd, uint64_t serial) {
  WriterRef writer;
  {
    std::lock_guard known(writers().mutex);
    const auto found = writers().by_path.find(folder_path(directory, folder));
    if (found == writers().by_path.end() || found->second->owner.get() != owner_fd) return false;
    if (serial != 0 && found->second->serial != serial) return false;
    writer = std::move(found->second);
    writers().by_path.erase(found);
  }
  {
    std::unique_lock lock(writer->mutex);
    writer->stopping = true;
    // What hangs in the file system finds the segment it prepares gone when it comes back: whoever owns the folder next has removed it.
    writer->idle.wait_for(lock, lock_wait, [&] { return writer->busy == 0; });
  }
  ChangeRing::close(writer->path);
  try {
    // A folder that holds nothing would only be in the way.
    const Store store = open_store(directory, false);
    if (store.fd) {
      const DirectoryLock lock(store, milliseconds(500));
      const UniqueFd own = open_below(store, folder);
      const FolderFiles files = files_of(own.get(), store.named(folder));
      remove_file(own.get(), store.named(folder), wants_file);
      if (!files.any_segment() && files.preparing.empty()) remove_writer_folder(store, own.get(), folder);
    }
  } catch (const Failure&) {
    // The next owner does it.
  }
  writer->owner.reset();
  return true;
}

// ---- reading ----

void load(const std::string& directory, const std::string& folder, const DigestSeed& seed, const std::vector<uint32_t>* ids, Loaded& out) {
  const Store store = open_store(directory, false);
  if (!store.fd) return;
  const std::string name = store.named(folder);
  const int opened = open_folder(store.fd.get(), folder.c_str(), name.c_str());
  if (opened == -ENOENT) return;
  const UniqueFd fd(must(opened, "opening " + name));
  out.sequence = ring_head(fd.get(), name);
  Loader loader(seed, out);
  if (ids != nullptr) {
    for (const uint32_t id : *ids) loader.add_segment(fd.get(), name, id);
    return;
  }
  for (const uint32_t id : files_of(fd.get(), name).index) loader.add_segment(fd.get(), name, id);
}

std::string records(const std::string& directory, const std::string& folder, uint32_t id) {
  const Store store = open_store(directory, false);
  if (!store.fd) return "";
  const std::string name = store.named(folder);
  const int opened = open_folder(store.fd.get(), folder.c_str(), name.c_str());
  if (opened == -ENOENT) return "";
  const UniqueFd fd(must(opened, "opening " + name));
  return page_records(fd.get(), name, id);
}

namespace {

void follow(int folder, const std::string& name, const DigestSeed& seed, FolderChanges& out) {
  const RingTail tail = read_changes(folder, name, out.sequence);
  out.sequence = tail.sequence;
  out.lapped = tail.lapped;
  if (tail.changes.empty()) return;
  std::map<uint32_t, std::vector<uint32_t>> slots;
  std::set<uint32_t> whole;
  for (const Change& change : tail.changes) {
    if (change.generation != 0) out.asked.push_back(change);
    else if (change.slot == whole_segment) whole.insert(change.segment);
    else slots[change.segment].push_back(change.slot);
  }
  Loader loader(seed, out.loaded);
  for (const uint32_t id : whole) loader.add_segment(folder, name, id);
  for (auto& [id, list] : slots) {
    if (whole.count(id) != 0) continue;
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
    if (!loader.add_slots(folder, name, id, list)) whole.insert(id);
  }
  out.any = true;
  out.whole.assign(whole.begin(), whole.end());
  out.loaded.sequence = out.sequence;
}

}  // namespace

Polled poll(const std::string& directory, const std::string& own_folder, const std::vector<Followed>& followed, const DigestSeed& seed) {
  Polled polled;
  const Store store = open_store(directory, false);
  std::map<std::string, UniqueFd> open;
  for (const std::string& name : folders_of(store)) {
    if (name == own_folder) continue;
    const std::string path = store.named(name);
    UniqueFd folder(open_folder(store.fd.get(), name.c_str(), path.c_str()));
    // Gone meanwhile, or not for us to read.
    if (!folder) continue;
    struct stat status;
    const std::string wants_path = path + "/" + wants_file;
    polled.folders.push_back({name, is_live(directory, store, name, folder.get()), file_io::stat_at(folder.get(), wants_file, &status, wants_path.c_str()) == 0,
                              machine_of(name) == this_host().machine});
    open[name] = std::move(folder);
  }
  for (const Followed& one : followed) {
    FolderChanges changes;
    changes.folder = one.folder;
    changes.sequence = one.sequence;
    UniqueFd folder;
    if (const auto found = open.find(one.folder); found != open.end()) folder = std::move(found->second);
    else if (store.fd) folder = UniqueFd(open_folder(store.fd.get(), one.folder.c_str(), store.named(one.folder).c_str()));
    // Out of descriptors is no reason to forget somebody's pages.
    if (folder) follow(folder.get(), store.named(one.folder), seed, changes);
    else changes.gone = !store.fd || folder.get() == -ENOENT || folder.get() == -ENOTDIR;
    polled.changes.push_back(std::move(changes));
  }
  return polled;
}

Usage usage(const std::string& directory) {
  Usage out;
  const Store store = open_store(directory, false);
  if (!store.fd) return out;
  out.used_bytes = taken_below(store.fd.get(), store.name);
  for (const std::string& name : folders_of(store)) {
    const UniqueFd folder(open_folder(store.fd.get(), name.c_str(), store.named(name).c_str()));
    if (folder && is_live(directory, store, name, folder.get())) out.writers++;
  }
  return out;
}

// ---- space ----

namespace {

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
  void fill(const IndexHeader& header, uint64_t index_bytes, const Work& work) {
    const std::string path = name_ + "/" + new_data_name(id_), index_path = name_ + "/" + new_index_name(id_);
    must(write_zeros(index_.get(), block_bytes, index_bytes, index_path.c_str()), "writing " + index_path);
    must(write_header(index_.get(), header, index_path.c_str()), "writing " + index_path);
    must(sync(index_.get(), false, index_path.c_str()), "fsync of " + index_path);
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
    preparation->fill(header, index_bytes, work);
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

std::vector<uint32_t> adopt(const std::string& directory, const std::string& folder_name) {
  const Work work(directory, folder_name);
  const Store store = open_store(directory, false);
  if (!store.fd) return {};
  const UniqueFd folder = open_below(store, folder_name);
  const DirectoryLock lock(store);
  work.check();
  std::vector<uint32_t> ids;
  for (Dead& dead : take_dead(store, folder_name)) {
    const std::vector<uint32_t> merged = merge(store, dead, folder.get(), folder_name);
    ids.insert(ids.end(), merged.begin(), merged.end());
  }
  tell_whole(work.writer(), ids);
  return ids;
}

void ask(const std::string& directory, const std::string& folder, const std::vector<Change>& slots) {
  const std::shared_ptr<ChangeRing> ring = ChangeRing::find(directory + "/segments/" + folder);
  if (ring == nullptr) throw Failure{EBADF, "asking for slots of others"};
  const int error = ring->append(slots.data(), slots.size());
  if (error != 0) throw Failure{error, "asking for slots of others"};
}

void set_wants(const std::string& directory, const std::string& folder_name, bool wanted) {
  const Work work(directory, folder_name);
  const Store store = open_store(directory, false);
  if (!store.fd) throw Failure{ENOENT, "opening " + store.name};
  const UniqueFd folder = open_below(store, folder_name);
  const std::string path = store.named(folder_name) + "/" + wants_file;
  if (wanted) {
    const UniqueFd fd(must(open_file(folder.get(), wants_file, O_RDWR | O_CREAT, path.c_str()), "making " + path));
    return;
  }
  const int removed = file_io::unlink_at(folder.get(), wants_file, path.c_str());
  if (removed < 0 && removed != -ENOENT) throw Failure{-removed, "removing " + path};
}

}  // namespace hicache::segments
