#include "segments/writers.h"

#include <fcntl.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <map>

#include "segments/dead_writers.h"
#include "segments/owner_lock.h"
#include "segments/segment_files.h"
#include "segments/segment_names.h"
#include "segments/segment_reader.h"
#include "segments/store_folder.h"

namespace hicache::segments {
namespace {

using std::chrono::milliseconds;

struct Writers {
  std::mutex mutex;
  std::map<std::string, WriterRef> by_path;
};
Writers& writers() {
  static Writers* const the_writers = new Writers;  // never destroyed: threads may outlive main()
  return *the_writers;
}

WriterRef find_writer(const std::string& directory, const std::string& folder) {
  std::lock_guard lock(writers().mutex);
  const auto found = writers().by_path.find(folder_path(directory, folder));
  return found == writers().by_path.end() ? nullptr : found->second;
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

}  // namespace

Work::Work(const std::string& directory, const std::string& folder) : writer_(find_writer(directory, folder)) {
  if (writer_ == nullptr) throw Failure{EBADF, "the writer's folder " + folder + " is not open"};
  std::lock_guard lock(writer_->mutex);
  if (writer_->stopping) throw Failure{ECANCELED, "the writer's folder " + folder + " is closing"};
  writer_->busy++;
}

Work::~Work() {
  std::lock_guard lock(writer_->mutex);
  if (--writer_->busy == 0) writer_->idle.notify_all();
}

void Work::check() const {
  if (writer_->stopping) throw Failure{ECANCELED, "the writer's folder " + writer_->folder + " is closing"};
}

void tell_whole(const Writer& writer, const std::vector<uint32_t>& ids) {
  std::vector<Change> changes;
  for (const uint32_t id : ids) changes.push_back({id, whole_segment});
  if (!changes.empty()) writer.ring->append(changes.data(), changes.size());
}

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

// ---- what the others are told ----

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
