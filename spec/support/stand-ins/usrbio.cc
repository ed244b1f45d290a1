// A stand-in for 3FS's client library libhf3fs_api_shared.so (usrbio), for the tests only. It is our own and shares nothing with the real one but the binary interface,
// the layout of a ring's memory and the rules; it proves nothing about the real library, its speed or a cluster.
//
// A mount is an ordinary folder with a folder `3fs-virt/iovs` in it. The file system's side is a thread that is never given an address of the client: it knows the mount's
// path, finds shared memory through the links <mount>/3fs-virt/iovs/<id>..., maps it once more and reads requests out of the ring there. What a client did not share cannot
// reach it. Every rule of usrbio is enforced: by the error that the real library answers, or, where that would only corrupt silently, by an end of the process.
//
// -DNO_IORCREATE4 leaves that call out, as older versions do.
#include "stand_in.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <cstdarg>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

struct Iov {
  uint8_t* base;
  void* handle;
  uint8_t id[16];
  char mount_point[256];
  size_t size, block_size;
  int numa;
};
struct Ior {
  Iov iov;
  void* handle;
  char mount_point[256];
  bool for_read;
  int io_depth, priority, timeout;
  uint64_t flags;
};
struct Cqe {
  int32_t index, reserved;
  int64_t result;
  const void* userdata;
};
static_assert(sizeof(Iov) == 312 && sizeof(Ior) == 600 && sizeof(Cqe) == 24);

// As they lie in a ring's memory, behind four 32-bit marks: the head and the tail of what was asked, the head and the tail of what was answered.
struct Args {
  uint8_t iov_id[16];
  uint64_t iov_offset, file_inode, file_offset, length;
  const void* userdata;
};
struct Sqe {
  int32_t index;
  const void* userdata;
};
static_assert(sizeof(Args) + sizeof(Cqe) + sizeof(Sqe) == 96 && sizeof(sem_t) == 32);

constexpr size_t marks_bytes = 16, spare_bytes = 4096;
constexpr size_t ring_bytes(int entries) { return marks_bytes + sizeof(sem_t) + 96 * (static_cast<size_t>(entries) + 1) + spare_bytes; }

// One side's view of a ring: the client and the file system's side have one each, at different addresses.
struct RingView {
  RingView(uint8_t* memory, size_t size) : base(memory), places(static_cast<int>((size - marks_bytes - sizeof(sem_t) - spare_bytes) / 96)) {}
  std::atomic_ref<int32_t> mark(int which) const { return std::atomic_ref<int32_t>(reinterpret_cast<int32_t*>(base)[which]); }
  std::atomic_ref<int32_t> asked_head() const { return mark(0); }
  std::atomic_ref<int32_t> asked_tail() const { return mark(1); }
  std::atomic_ref<int32_t> answered_head() const { return mark(2); }
  std::atomic_ref<int32_t> answered_tail() const { return mark(3); }
  Args* args() const { return reinterpret_cast<Args*>(base + marks_bytes); }
  Cqe* cqes() const { return reinterpret_cast<Cqe*>(args() + places); }
  Sqe* sqes() const { return reinterpret_cast<Sqe*>(cqes() + places); }
  sem_t* semaphore() const { return reinterpret_cast<sem_t*>(sqes() + places); }
  int next(int at) const { return (at + 1) % places; }

  uint8_t* base;
  int places;  // one more than there can be requests, to tell full from empty
};

stand_in::Control& control() {
  static auto* const the_control = new stand_in::Control(
      "usrbio.", {"fault.short", "fault.fail", "fault.nothing", "fault.hang", "fault.hold", "fault.wake_early", "fault.prep_again", "fault.prep_fail", "fault.submit_fail",
                  "fault.wait_fail", "fault.ring_create", "fault.iov_create", "fault.reg", "fault.damage", "fault.twice",
                  // The errno of the failing ones (0: EIO); every request is delayed by up to so many microseconds; what is held goes on once this is not 0.
                  "param.errno", "param.delay_us", "param.release",
                  "count.preps", "count.submits", "count.waits", "count.reads", "count.writes", "count.bytes", "count.prep_again", "count.past_deadlines", "count.crossed", "count.held",
                  "count.hung", "count.dropped", "count.most_at_once", "count.rings_made", "count.rings4_made", "count.rings", "count.iovs", "count.fds", "count.regs", "count.leaked"});
  return *the_control;
}

[[noreturn]] __attribute__((format(printf, 1, 2))) void broken(const char* format, ...) {
  va_list values;
  va_start(values, format);
  std::fputs("stand-in usrbio: a rule was broken: ", stderr);
  std::vfprintf(stderr, format, values);
  std::fputc('\n', stderr);
  va_end(values);
  std::abort();
}

int planned_errno() {
  const auto error = static_cast<int>(control().param("param.errno"));
  return error != 0 ? error : EIO;
}

std::string hex(const uint8_t* id) {
  std::string text;
  for (int i = 0; i < 16; i++) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", id[i]);
    text += two;
  }
  return text;
}

constexpr char memory_prefix[] = "/dev/shm/hicache-stand-in-iov-";

int64_t now_us() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000LL + now.tv_nsec / 1000;
}

// ---- what a kernel would know ----
// Registered files, by inode, for the file system's side. It holds descriptors of its own.
struct File {
  ~File() { ::close(own); }
  int number = -1, own = -1, mode = 0;
  dev_t device = 0;
  ino_t inode = 0;
};

struct Shared {
  std::mutex mutex;
  std::condition_variable bell, seen;
  std::set<std::string> mounts;
  uint64_t rung = 0, looked = 0;
  std::map<int, std::shared_ptr<File>> files;  // by number
  std::set<std::string> links, memories;       // made and not yet removed by this process
  bool started = false;
};
Shared& shared() {
  static auto* const the_shared = new Shared;
  return *the_shared;
}

// ---- the file system's side ----
class FileSystemSide {
 public:
  void run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    for (;;) {
      std::set<std::string> mounts;
      uint64_t rung;
      {
        std::unique_lock lock(shared().mutex);
        const int64_t left = next_due_ - now_us();
        const auto heard = [&] { return shared().rung != shared().looked; };
        if (next_due_ == INT64_MAX) shared().bell.wait(lock, heard);
        else shared().bell.wait_for(lock, std::chrono::microseconds(std::max<int64_t>(left, 0)), heard);
        mounts = shared().mounts;
        rung = shared().rung;
      }
      look_for_memory(mounts);
      take_requests();
      answer();
      std::lock_guard lock(shared().mutex);
      shared().looked = rung;
      shared().seen.notify_all();
    }
  }

 private:
  struct Memory {
    std::string path;  // of the link
    uint8_t* base = nullptr;
    size_t size = 0, block_size = 0;
    bool ring = false, for_read = false, there = true;
    int under_way = 0;
  };
  struct Request {
    std::string ring;
    int index = 0;
    Args args{};
    std::vector<std::shared_ptr<File>> files;
    int64_t due = 0;
    bool held = false, hung = false;
  };

  void look_for_memory(const std::set<std::string>& mounts) {
    for (auto& [id, memory] : memories_) memory.there = false;
    for (const std::string& mount : mounts) {
      const std::string folder = mount + "/3fs-virt/iovs";
      DIR* const list = ::opendir(folder.c_str());
      if (list == nullptr) continue;
      while (const dirent* const entry = ::readdir(list)) {
        const std::string name = entry->d_name;
        if (name.size() < 32 || name[0] == '.') continue;
        look_at_link(folder + "/" + name, name);
      }
      ::closedir(list);
    }
    for (auto at = memories_.begin(); at != memories_.end();) {
      if (at->second.there) {
        ++at;
        continue;
      }
      if (at->second.ring) {
        // Nothing of a ring that is gone is carried out any more.
        std::erase_if(requests_, [&](const Request& request) {
          if (request.ring != at->first) return false;
          if (const auto memory = memories_.find(hex(request.args.iov_id)); memory != memories_.end()) memory->second.under_way--;
          control().count("count.dropped");
          return true;
        });
      }
      gone_.push_back(at->first);
      ++at;
    }
    // After all rings: memory may go together with the ring that used it.
    for (const std::string& id : gone_) {
      const Memory& memory = memories_[id];
      if (memory.under_way > 0) broken("an iov was destroyed while %d requests into it were under way", memory.under_way);
      ::munmap(memory.base, memory.size);
      memories_.erase(id);
    }
    gone_.clear();
  }

  void look_at_link(const std::string& path, const std::string& name) {
    const std::string id = name.substr(0, 32);
    if (const auto known = memories_.find(id); known != memories_.end()) {
      known->second.there = true;
      return;
    }
    char target[PATH_MAX];
    const ssize_t length = ::readlink(path.c_str(), target, sizeof target - 1);
    if (length <= 0) return;
    target[length] = '\0';
    // Another process's has a file system's side there.
    const std::string own = memory_prefix + std::to_string(getpid()) + "-";
    if (std::strncmp(target, own.c_str(), own.size()) != 0) return;
    const int fd = ::open(target, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    struct stat status;
    Memory memory;
    if (::fstat(fd, &status) == 0 && status.st_size > 0) {
      memory.path = path;
      memory.size = static_cast<size_t>(status.st_size);
      void* const base = ::mmap(nullptr, memory.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      memory.base = base == MAP_FAILED ? nullptr : static_cast<uint8_t*>(base);
    }
    ::close(fd);
    if (memory.base == nullptr) return;
    for (size_t at = 32; at < name.size();) {
      const size_t end = std::min(name.find('.', at + 1), name.size());
      const std::string part = name.substr(at + 1, end - at - 1);
      if (part[0] == 'b') memory.block_size = std::stoull(part.substr(1));
      if (part[0] == 'r' || part[0] == 'w') {
        memory.ring = true;
        memory.for_read = part[0] == 'r';
      }
      at = end;
    }
    memories_[id] = memory;
  }

  void take_requests() {
    for (auto& [id, memory] : memories_) {
      if (!memory.ring) continue;
      const RingView ring(memory.base, memory.size);
      int tail = ring.asked_tail().load();
      while (tail != ring.asked_head().load()) {
        const Sqe sqe = ring.sqes()[tail];
        Request request;
        request.ring = id;
        request.index = sqe.index;
        request.args = ring.args()[sqe.index];
        if (request.args.userdata != sqe.userdata) broken("the ring's memory was overwritten");
        tail = ring.next(tail);
        ring.asked_tail().store(tail);
        {
          std::lock_guard lock(shared().mutex);
          for (const auto& [number, file] : shared().files) {
            if (file->inode == request.args.file_inode) request.files.push_back(file);
          }
        }
        if (const auto found = memories_.find(hex(request.args.iov_id)); found != memories_.end()) found->second.under_way++;
        request.hung = control().strikes("fault.hang");
        if (request.hung) control().count("count.hung");
        request.held = !request.hung && control().strikes("fault.hold");
        if (request.held) control().count("count.held");
        const int64_t delay = control().param("param.delay_us");
        request.due = now_us() + (delay > 0 ? static_cast<int64_t>(random_() % static_cast<uint64_t>(delay + 1)) : 0);
        requests_.push_back(std::move(request));
      }
    }
    control().raise_to("count.most_at_once", static_cast<int64_t>(requests_.size()));
  }

  void answer() {
    const int64_t now = now_us();
    const bool released = control().param("param.release") != 0;
    std::vector<Request> due;
    next_due_ = INT64_MAX;
    std::erase_if(requests_, [&](Request& request) {
      if (request.hung) return false;
      if (request.held && !released) {
        // Nobody tells when it is released.
        next_due_ = std::min(next_due_, now + 1000);
        return false;
      }
      if (request.due > now) {
        next_due_ = std::min(next_due_, request.due);
        return false;
      }
      due.push_back(std::move(request));
      return true;
    });
    std::shuffle(due.begin(), due.end(), random_);
    for (Request& request : due) {
      const int64_t result = carry_out(request);
      if (const auto memory = memories_.find(hex(request.args.iov_id)); memory != memories_.end()) memory->second.under_way--;
      const RingView ring(memories_[request.ring].base, memories_[request.ring].size);
      put(ring, {request.index, 0, result, request.args.userdata});
    }
  }

  void put(const RingView& ring, const Cqe& cqe) {
    const int head = ring.answered_head().load();
    if (ring.next(head) == ring.answered_tail().load()) broken("more answers than requests");
    ring.cqes()[head] = cqe;
    ring.answered_head().store(ring.next(head));
    ::sem_post(ring.semaphore());
  }

  int64_t carry_out(const Request& request) {
    const Args& args = request.args;
    const Memory& ring = memories_[request.ring];
    const auto found = memories_.find(hex(args.iov_id));
    if (found == memories_.end() || found->second.ring) return -EFAULT;
    const Memory& memory = found->second;
    if (args.iov_offset > memory.size || args.length > memory.size - args.iov_offset) return -EINVAL;
    if (memory.block_size != 0 && args.iov_offset / memory.block_size != (args.iov_offset + args.length - 1) / memory.block_size) {
      control().count("count.crossed");
      return -EINVAL;
    }
    const File* file = nullptr;
    for (const auto& one : request.files) {
      if (one->mode == O_RDWR || one->mode == (ring.for_read ? O_RDONLY : O_WRONLY)) file = one.get();
    }
    if (file == nullptr) return -EBADF;
    uint8_t* const bytes = memory.base + args.iov_offset;
    control().count(ring.for_read ? "count.reads" : "count.writes");
    if (control().strikes("fault.fail")) {
      // A read that failed may have left anything behind.
      if (ring.for_read) std::memset(bytes, 0xA5, args.length);
      return -planned_errno();
    }
    if (control().strikes("fault.nothing")) return 0;
    if (control().strikes("fault.damage")) return static_cast<int64_t>(args.length) + 1;
    uint64_t length = args.length;
    if (length > 1 && control().strikes("fault.short")) length = 1 + random_() % (length - 1);
    uint64_t moved = 0;
    while (moved < length) {
      const auto at = static_cast<off_t>(args.file_offset + moved);
      const ssize_t part = ring.for_read ? ::pread(file->own, bytes + moved, length - moved, at) : ::pwrite(file->own, bytes + moved, length - moved, at);
      if (part < 0 && errno == EINTR) continue;
      if (part < 0) return -errno;
      if (part == 0) break;
      moved += static_cast<uint64_t>(part);
    }
    control().count("count.bytes", static_cast<int64_t>(moved));
    return static_cast<int64_t>(moved);
  }

  std::map<std::string, Memory> memories_;  // by id
  std::vector<Request> requests_;
  std::vector<std::string> gone_;
  std::mt19937_64 random_{std::random_device{}()};
  int64_t next_due_ = INT64_MAX;
};

// ---- the client's side ----
void ring_the_bell() {
  std::lock_guard lock(shared().mutex);
  shared().rung++;
  shared().bell.notify_one();
}

// Until the file system's side has looked at the links as they are now.
void wait_until_seen() {
  std::unique_lock lock(shared().mutex);
  const uint64_t mine = ++shared().rung;
  shared().bell.notify_one();
  shared().seen.wait(lock, [&] { return shared().looked >= mine; });
}

bool is_of_the_dead(const char* memory) {
  if (std::strncmp(memory, memory_prefix, sizeof memory_prefix - 1) != 0) return false;
  const auto process = static_cast<pid_t>(std::atol(memory + sizeof memory_prefix - 1));
  return process > 0 && ::kill(process, 0) != 0 && errno == ESRCH;
}

template <typename Look>
void each_entry(const std::string& folder, Look&& look) {
  DIR* const list = ::opendir(folder.c_str());
  if (list == nullptr) return;
  while (const dirent* const entry = ::readdir(list)) look(folder + "/" + entry->d_name);
  ::closedir(list);
}

// What processes that are dead have left goes, as the real one sees to it: links in the mount, and memory whose mount has gone before.
void remove_of_the_dead(const std::string& folder) {
  each_entry(folder, [](const std::string& path) {
    char target[PATH_MAX];
    const ssize_t length = ::readlink(path.c_str(), target, sizeof target - 1);
    if (length <= 0) return;
    target[length] = '\0';
    if (is_of_the_dead(target)) ::unlink(path.c_str());
  });
  each_entry("/dev/shm", [](const std::string& path) {
    if (is_of_the_dead(path.c_str())) ::unlink(path.c_str());
  });
}

bool start_for(const std::string& mount) {
  const std::string folder = mount + "/3fs-virt/iovs";
  struct stat status;
  if (::stat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) return false;
  bool start = false, fresh = false;
  {
    std::lock_guard lock(shared().mutex);
    fresh = shared().mounts.insert(mount).second;
    start = !shared().started;
    shared().started = true;
  }
  if (fresh) remove_of_the_dead(folder);
  if (start) std::thread([] { (new FileSystemSide)->run(); }).detach();
  return true;
}

struct Share {
  std::string link, memory;
};

int make_iov(Iov* iov, const char* mount, size_t size, size_t block_size, int numa, const std::string& suffix) {
  if (iov == nullptr || mount == nullptr || *mount == '\0' || std::strlen(mount) >= sizeof(iov->mount_point) || size == 0) return -EINVAL;
  if (!start_for(mount)) return -ENOENT;
  static std::atomic<uint64_t> number{0};
  uint8_t id[16] = {};
  const uint64_t own[2] = {static_cast<uint64_t>(getpid()), ++number};
  std::memcpy(id, own, sizeof id);
  auto share = std::make_unique<Share>();
  share->memory = memory_prefix + std::to_string(getpid()) + "-" + hex(id);
  share->link = std::string(mount) + "/3fs-virt/iovs/" + hex(id) + (block_size != 0 ? ".b" + std::to_string(block_size) : "") + suffix;
  // What has this name already was left by a process that had our number before.
  ::unlink(share->memory.c_str());
  const int fd = ::open(share->memory.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return -EIO;
  void* base = MAP_FAILED;
  if (::ftruncate(fd, static_cast<off_t>(size)) == 0) base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (base == MAP_FAILED || ::symlink(share->memory.c_str(), share->link.c_str()) != 0) {
    const int error = base == MAP_FAILED ? EIO : errno;
    if (base != MAP_FAILED) ::munmap(base, size);
    ::unlink(share->memory.c_str());
    return -error;
  }
  {
    std::lock_guard lock(shared().mutex);
    shared().links.insert(share->link);
    shared().memories.insert(share->memory);
  }
  *iov = {};
  iov->base = static_cast<uint8_t*>(base);
  std::memcpy(iov->id, id, sizeof id);
  std::snprintf(iov->mount_point, sizeof iov->mount_point, "%s", mount);
  iov->size = size;
  iov->block_size = block_size;
  iov->numa = numa;
  iov->handle = share.release();
  return 0;
}

void end_iov(Iov* iov) {
  const std::unique_ptr<Share> share(static_cast<Share*>(iov->handle));
  iov->handle = nullptr;
  if (::unlink(share->link.c_str()) != 0) broken("the link of an iov is gone: %s", share->link.c_str());
  // From the return on nobody else reads or writes the memory.
  wait_until_seen();
  ::munmap(iov->base, iov->size);
  ::unlink(share->memory.c_str());
  std::lock_guard lock(shared().mutex);
  shared().links.erase(share->link);
  shared().memories.erase(share->memory);
}

struct Handle {
  Handle(uint8_t* base, size_t size) : view(base, size) {
    for (int i = view.places - 2; i >= 0; i--) free.push_back(i);
  }
  RingView view;
  std::mutex mutex;
  std::vector<int> free;
  std::atomic<long> asks{0}, waits{0};  // the threads
  std::mt19937 random{7};
};

void only_one(std::atomic<long>& thread, const char* what) {
  const long own = ::syscall(SYS_gettid);
  long first = 0;
  if (!thread.compare_exchange_strong(first, own) && first != own) broken("two threads %s one ring", what);
}

int make_ring(Ior* ring, const char* mount, int entries, bool for_read, int io_depth, int priority, int timeout, int numa, uint64_t flags) {
  if (ring == nullptr || mount == nullptr || *mount == '\0' || entries <= 0 || timeout < 0) return -EINVAL;
  if (control().strikes("fault.ring_create")) return -planned_errno();
  std::string suffix = std::string(for_read ? ".r" : ".w") + std::to_string(io_depth);
  if (priority != 0) suffix += priority < 0 ? ".ph" : ".pl";
  suffix += ".t" + std::to_string(timeout);
  if (flags != 0) suffix += ".f" + std::to_string(flags);
  Iov iov{};
  if (const int failed = make_iov(&iov, mount, ring_bytes(entries), 0, numa, suffix); failed != 0) return failed;
  *ring = {};
  ring->iov = iov;
  auto handle = std::make_unique<Handle>(iov.base, iov.size);
  ::sem_init(handle->view.semaphore(), 1, 0);
  ring->handle = handle.release();
  std::snprintf(ring->mount_point, sizeof ring->mount_point, "%s", mount);
  ring->for_read = for_read;
  ring->io_depth = io_depth;
  ring->priority = priority;
  ring->timeout = timeout;
  ring->flags = flags;
  control().count("count.rings");
  control().count("count.rings_made");
  wait_until_seen();
  return 0;
}

bool is_mount(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_directory(path / "3fs-virt", error);
}

std::filesystem::path mount_above(std::filesystem::path path) {
  for (;; path = path.parent_path()) {
    if (is_mount(path)) return path;
    if (path == path.parent_path()) return {};
  }
}

bool same_file(const File& file, int fd) {
  struct stat status;
  return ::fstat(fd, &status) == 0 && status.st_dev == file.device && status.st_ino == file.inode;
}

// What is left when the process ends was forgotten.
__attribute__((destructor)) void count_what_is_left() {
  std::lock_guard lock(shared().mutex);
  const size_t left = shared().links.size() + shared().files.size();
  for (const std::string& link : shared().links) ::unlink(link.c_str());
  for (const std::string& memory : shared().memories) ::unlink(memory.c_str());
  if (left > 0) control().count("count.leaked", static_cast<int64_t>(left));
}

}  // namespace

EXPORTED bool hf3fs_is_hf3fs(int fd) {
  char path[PATH_MAX];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = ::readlink(link.c_str(), path, sizeof path - 1);
  if (length <= 0) return false;
  path[length] = '\0';
  return path[0] == '/' && !mount_above(path).empty();
}

EXPORTED int hf3fs_extract_mount_point(char* out, int size, const char* path) {
  // Throws where the path does not exist, as the real one does.
  const std::filesystem::path mount = mount_above(std::filesystem::canonical(path));
  if (mount.empty()) return -1;
  const std::string text = mount.string();
  if (static_cast<int>(text.size()) < size) std::memcpy(out, text.c_str(), text.size() + 1);
  return static_cast<int>(text.size()) + 1;
}

EXPORTED int hf3fs_iovcreate(Iov* iov, const char* mount, size_t size, size_t block_size, int numa) {
  if (control().strikes("fault.iov_create")) return -planned_errno();
  const int failed = make_iov(iov, mount, size, block_size, numa, "");
  if (failed == 0) control().count("count.iovs");
  return failed;
}

EXPORTED int hf3fs_iovopen(Iov* iov, const uint8_t id[16], const char* mount, size_t size, size_t block_size, int numa) {
  const std::string link = std::string(mount) + "/3fs-virt/iovs/" + hex(id) + (block_size != 0 ? ".b" + std::to_string(block_size) : "");
  const int fd = ::open(link.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return -errno;
  void* const base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (base == MAP_FAILED) return -EIO;
  *iov = {};
  iov->base = static_cast<uint8_t*>(base);
  std::memcpy(iov->id, id, sizeof iov->id);
  std::snprintf(iov->mount_point, sizeof iov->mount_point, "%s", mount);
  iov->size = size;
  iov->block_size = block_size;
  iov->numa = numa;
  return 0;
}

EXPORTED void hf3fs_iovunlink(Iov* iov) {
  if (iov == nullptr || iov->handle == nullptr) return;
  ::unlink(static_cast<Share*>(iov->handle)->memory.c_str());
}

EXPORTED void hf3fs_iovdestroy(Iov* iov) {
  if (iov == nullptr || iov->handle == nullptr) return;
  end_iov(iov);
  control().count("count.iovs", -1);
}

EXPORTED int hf3fs_iovwrap(Iov* iov, void* base, const uint8_t id[16], const char* mount, size_t size, size_t block_size, int numa) {
  if (iov == nullptr || mount == nullptr || std::strlen(mount) >= sizeof(iov->mount_point)) return -EINVAL;
  *iov = {};
  iov->base = static_cast<uint8_t*>(base);
  std::memcpy(iov->id, id, sizeof iov->id);
  std::snprintf(iov->mount_point, sizeof iov->mount_point, "%s", mount);
  iov->size = size;
  iov->block_size = block_size;
  iov->numa = numa;
  return 0;
}

EXPORTED size_t hf3fs_ior_size(int entries) { return ring_bytes(entries); }

EXPORTED int hf3fs_iorcreate(Ior* ring, const char* mount, int entries, bool for_read, int io_depth, int numa) {
  return make_ring(ring, mount, entries, for_read, io_depth, 0, 0, numa, 0);
}

EXPORTED int hf3fs_iorcreate2(Ior* ring, const char* mount, int entries, bool for_read, int io_depth, int priority, int numa) {
  return make_ring(ring, mount, entries, for_read, io_depth, priority, 0, numa, 0);
}

EXPORTED int hf3fs_iorcreate3(Ior* ring, const char* mount, int entries, bool for_read, int io_depth, int priority, int timeout, int numa) {
  return make_ring(ring, mount, entries, for_read, io_depth, priority, timeout, numa, 0);
}

#if !defined(NO_IORCREATE4)
EXPORTED int hf3fs_iorcreate4(Ior* ring, const char* mount, int entries, bool for_read, int io_depth, int timeout, int numa, uint64_t flags) {
  const int failed = make_ring(ring, mount, entries, for_read, io_depth, 0, timeout, numa, flags);
  if (failed == 0) control().count("count.rings4_made");
  return failed;
}
#endif

EXPORTED void hf3fs_iordestroy(Ior* ring) {
  if (ring == nullptr || ring->handle == nullptr) return;
  const std::unique_ptr<Handle> handle(static_cast<Handle*>(ring->handle));
  ring->handle = nullptr;
  end_iov(&ring->iov);
  control().count("count.rings", -1);
}

EXPORTED int hf3fs_reg_fd(int fd, uint64_t) {
  struct stat status;
  if (!hf3fs_is_hf3fs(fd) || ::fstat(fd, &status) != 0) return EBADF;
  if (control().strikes("fault.reg")) return planned_errno();
  std::lock_guard lock(shared().mutex);
  if (const auto found = shared().files.find(fd); found != shared().files.end()) {
    if (!same_file(*found->second, fd)) broken("descriptor %d was closed before it was taken out of the registry", fd);
    return EINVAL;
  }
  const int own = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return errno;
  auto file = std::make_shared<File>();
  file->number = fd;
  file->own = own;
  file->mode = ::fcntl(fd, F_GETFL) & O_ACCMODE;
  file->device = status.st_dev;
  file->inode = status.st_ino;
  shared().files[fd] = std::move(file);
  control().count("count.fds");
  control().count("count.regs");
  return -own;
}

EXPORTED void hf3fs_dereg_fd(int fd) {
  std::lock_guard lock(shared().mutex);
  const auto found = shared().files.find(fd);
  if (found == shared().files.end()) return;
  if (!same_file(*found->second, fd)) broken("descriptor %d was closed before it was taken out of the registry", fd);
  shared().files.erase(found);
  control().count("count.fds", -1);
}

EXPORTED int hf3fs_io_entries(const Ior* ring) { return static_cast<int>((ring->iov.size - marks_bytes - sizeof(sem_t) - spare_bytes) / 96) - 1; }

EXPORTED int hf3fs_prep_io(const Ior* ring, const Iov* iov, bool read, void* ptr, int fd, size_t offset, uint64_t length, const void* userdata) {
  if (ring == nullptr || ring->handle == nullptr || iov == nullptr || iov->base == nullptr || ptr == nullptr || read != ring->for_read || length == 0) return -EINVAL;
  auto& handle = *static_cast<Handle*>(ring->handle);
  only_one(handle.asks, "prepare and submit on");
  const auto base = reinterpret_cast<uintptr_t>(iov->base), address = reinterpret_cast<uintptr_t>(ptr);
  if (address < base || address - base > iov->size || length > iov->size - (address - base)) return -EINVAL;
  std::shared_ptr<File> file;
  {
    std::lock_guard lock(shared().mutex);
    const auto found = shared().files.find(fd);
    if (found == shared().files.end()) return -EBADF;
    file = found->second;
  }
  if (!same_file(*file, fd)) broken("descriptor %d was closed before it was taken out of the registry", fd);
  if (file->mode == (read ? O_WRONLY : O_RDONLY)) return -EACCES;
  if (control().strikes("fault.prep_fail")) return -planned_errno();
  control().count("count.preps");
  int index;
  {
    std::lock_guard lock(handle.mutex);
    if (handle.free.empty() || control().strikes("fault.prep_again")) {
      control().count("count.prep_again");
      return -EAGAIN;
    }
    index = handle.free.back();
    handle.free.pop_back();
  }
  const RingView& view = handle.view;
  Args& args = view.args()[index];
  std::memcpy(args.iov_id, iov->id, sizeof args.iov_id);
  args.iov_offset = address - base;
  args.file_inode = file->inode;
  args.file_offset = offset;
  args.length = length;
  args.userdata = userdata;
  const int head = view.asked_head().load();
  view.sqes()[head] = {index, userdata};
  view.asked_head().store(view.next(head));
  // It may begin before it is submitted.
  if (handle.random() % 4 == 0) ring_the_bell();
  return index;
}

EXPORTED int hf3fs_submit_ios(const Ior* ring) {
  if (ring == nullptr || ring->handle == nullptr) return -EINVAL;
  only_one(static_cast<Handle*>(ring->handle)->asks, "prepare and submit on");
  if (control().strikes("fault.submit_fail")) return -planned_errno();
  control().count("count.submits");
  ring_the_bell();
  return 0;
}

EXPORTED int hf3fs_wait_for_ios(const Ior* ring, Cqe* cqes, int count, int min, const timespec* absolute) {
  if (ring == nullptr || ring->handle == nullptr || count <= 0) return -EINVAL;
  auto& handle = *static_cast<Handle*>(ring->handle);
  only_one(handle.waits, "wait on");
  control().count("count.waits");
  if (control().strikes("fault.wait_fail")) return -planned_errno();
  if (absolute != nullptr) {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (absolute->tv_sec < now.tv_sec - 3600) broken("the deadline is no time of CLOCK_REALTIME");
    if (absolute->tv_sec < now.tv_sec || (absolute->tv_sec == now.tv_sec && absolute->tv_nsec <= now.tv_nsec)) control().count("count.past_deadlines");
  }
  const RingView& view = handle.view;
  int filled = 0;
  while (filled < count) {
    const int tail = view.answered_tail().load();
    if (tail != view.answered_head().load()) {
      cqes[filled] = view.cqes()[tail];
      view.answered_tail().store(view.next(tail));
      std::lock_guard lock(handle.mutex);
      handle.free.push_back(cqes[filled].index);
      filled++;
      continue;
    }
    if (filled >= min || control().strikes("fault.wake_early")) break;
    if (absolute == nullptr) {
      ::sem_wait(view.semaphore());
    } else if (::sem_timedwait(view.semaphore(), absolute) != 0 && errno == ETIMEDOUT) {
      if (view.answered_tail().load() == view.answered_head().load()) break;
    }
  }
  // An answer that nobody asked for, or asked for long ago.
  if (filled > 0 && filled < count && control().strikes("fault.twice")) {
    cqes[filled] = cqes[filled - 1];
    filled++;
  }
  // Reads may come in any order.
  return filled;
}
