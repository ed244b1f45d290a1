// A stand-in for NVIDIA's cuFile (libcufile.so.0), for tests: our own code, never shipped. It moves bytes between files and the device memory of the stand-in for the CUDA
// driver, or host memory; enforces the rules of the real one as they are known to us, and has its traps. It proves our logic, and nothing about the real library.
// What would go unnoticed there, and lose or spoil bytes, ends the process here: a file that was closed before its handle was deregistered, a request on memory of a device that is gone.
//
//   fault.open            cuFileDriverOpen answers param.code       fault.open_hang         it never returns
//   fault.open_closes     it closes descriptor 0                     fault.handle_register   param.code, 0: 5027, as where udev knows nothing of the block device
//   fault.buffer_register param.code, 0: 5036                        fault.read_errno, fault.write_errno   -1, errno = param.errno (0: EIO)
//   fault.read_code, fault.write_code   -param.code (0: 5030)        fault.short             at most param.short bytes (0: half)
//   fault.nothing         0 bytes                                    fault.too_many          more bytes than were asked for
//   fault.batch_setup, fault.batch_submit, fault.batch_status, fault.batch_cancel   that call answers param.code (0: 5030)
//   fault.event_failed (param.status instead of FAILED), fault.event_negative (COMPLETE with -EIO)    that event; nothing is moved
//   fault.event_waiting   an event that says PENDING first           fault.event_twice, fault.event_unknown   an event again, or one that nobody asked for
//   fault.partial_status  one event at a time
//   param.hold            requests wait while it is not 0            param.batch_max         entries of a batch at most, 0: 128
//   param.version         0: 1150                                    param.tmpfs             files of a tmpfs are taken
// With -DNO_OPTIONAL: without the symbols that older ones lack; with -DNO_BATCH: without a mandatory one.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "stand_in.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

struct Error {
  int32_t code, cuda;
};
static_assert(sizeof(Error) == 8);
struct Description {
  int32_t type;
  int32_t padding;
  union {
    int fd;
    void* whole;
  };
  const void* operations;
};
static_assert(sizeof(Description) == 24 && offsetof(Description, fd) == 8 && offsetof(Description, operations) == 16);
struct Parameters {
  int32_t mode;
  void* base;
  off_t file_offset, buffer_offset;
  size_t size;
  void* handle;
  int32_t operation;
  void* cookie;
};
static_assert(sizeof(Parameters) == 64 && offsetof(Parameters, base) == 8 && offsetof(Parameters, file_offset) == 16 && offsetof(Parameters, buffer_offset) == 24 &&
              offsetof(Parameters, size) == 32 && offsetof(Parameters, handle) == 40 && offsetof(Parameters, operation) == 48 && offsetof(Parameters, cookie) == 56);
struct Event {
  void* cookie;
  int32_t status;
  int64_t count;
};
static_assert(sizeof(Event) == 24 && offsetof(Event, status) == 8 && offsetof(Event, count) == 16);

enum Status : int32_t { waiting = 1, pending = 2, invalid_entry = 4, canceled = 8, complete = 0x10, timed_out = 0x20, failed = 0x40 };
enum Code : int32_t {
  ok = 0, not_open = 5001, file_system = 5008, cuda_error = 5011, memory_type = 5013, invalid = 5022, already_registered = 5023, already_open = 5026, not_registered = 5027, internal = 5030,
  no_cuda = 5033, pin = 5036, batch_full = 5037
};
constexpr int cuda_invalid_context = 201;
constexpr long tmpfs_magic = 0x01021994;
constexpr unsigned threads_of_batches = 4;
constexpr unsigned batch_max_default = 128;
constexpr time_t longest_timeout_s = 3600;

Error answer(int code, int cuda = 0) { return {code, cuda}; }

stand_in::Control& control() {
  static auto* const the_control = new stand_in::Control(
      "cufile.", {"fault.open",         "fault.open_hang",      "fault.open_closes", "fault.handle_register", "fault.buffer_register", "fault.read_errno",    "fault.write_errno",   "fault.read_code",
                  "fault.write_code",   "fault.short",          "fault.nothing",     "fault.too_many",        "fault.batch_setup",     "fault.batch_submit",  "fault.batch_status",  "fault.batch_cancel",
                  "fault.event_failed", "fault.event_negative", "fault.event_waiting", "fault.event_twice",   "fault.event_unknown",   "fault.partial_status", "param.code",         "param.errno",
                  "param.short",        "param.status",         "param.hold",        "param.batch_max",       "param.version",         "param.tmpfs",         "count.open",          "count.hanging",
                  "count.handles",      "count.buffers",        "count.in_flight",   "count.in_flight_max",   "count.requests",        "count.bytes",         "count.batches",       "count.batches_made",
                  "count.batch_entries", "count.buffer_offsets", "count.canceled",   "count.host_requests",   "count.batches_in_use_max"});
  return *the_control;
}

[[noreturn]] void broken(const char* what) {
  std::fprintf(stderr, "stand-in cufile: %s\n", what);
  std::abort();
}

int code_or(int fallback) {
  const int64_t code = control().param("param.code");
  return code == 0 ? fallback : static_cast<int>(code);
}

struct File {
  int fd = -1;
  int plain = -1;  // the same file without O_DIRECT: this one takes any place and length, as the real one does
  bool direct = false;
  dev_t device = 0;
  ino_t inode = 0;
};
struct Batch;
struct Entry {
  enum class Stage { waiting, running, ended, told } stage = Stage::waiting;
  Parameters parameters{};
  Batch* batch = nullptr;
  int device = -1;
  Status status = complete;
  int64_t count = 0;
  bool told_pending = false;
};
struct Batch {
  unsigned capacity = 0;
  std::deque<Entry> entries;
  size_t outstanding() const {
    return static_cast<size_t>(std::count_if(entries.begin(), entries.end(), [](const Entry& entry) { return entry.stage != Entry::Stage::told; }));
  }
};

struct State {
  std::mutex mutex;
  std::condition_variable to_do, ended;
  bool open = false;
  std::map<int, File*> by_fd;
  std::set<File*> files;
  std::map<char*, size_t> buffers;
  std::set<Batch*> batches;
  std::deque<Entry*> queue;
  unsigned threads = 0;
};
State& state() {
  static State* const the_state = new State;
  return *the_state;
}

using Backing = int (*)(uint64_t, size_t, void**, int*);
using CurrentDevice = int (*)();
struct Cuda {
  Backing backing = nullptr;
  CurrentDevice current_device = nullptr;
};
const Cuda& cuda() {
  static const Cuda the_cuda = [] {
    const char* const path = std::getenv("HICACHE_NIXL_CUDA_PATH");
    void* library = path == nullptr || *path == '\0' ? nullptr : ::dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) library = RTLD_DEFAULT;
    return Cuda{reinterpret_cast<Backing>(::dlsym(library, "hicache_stand_in_cuda_backing")), reinterpret_cast<CurrentDevice>(::dlsym(library, "hicache_stand_in_cuda_current_device"))};
  }();
  return the_cuda;
}

// Where the bytes are. 0, or a code; `device` is -1 for host memory.
int resolve(void* base, int64_t offset, size_t size, char*& memory, int& device) {
  char* const address = static_cast<char*>(base) + offset;
  void* shadow = nullptr;
  device = -1;
  memory = address;
  if (cuda().backing == nullptr) return ok;
  switch (cuda().backing(reinterpret_cast<uint64_t>(address), size, &shadow, &device)) {
    case 0: memory = static_cast<char*>(shadow); return ok;
    case 1: return ok;
    default: return invalid;
  }
}

void check_open(const File& file) {
  struct stat status;
  if (::fstat(file.fd, &status) != 0 || status.st_ino != file.inode || status.st_dev != file.device) broken("a file was closed before its handle was deregistered");
}

// Bytes, or -errno. At most half in the case of fault.short.
int64_t move(const File& file, char* memory, size_t size, off_t offset, bool writing) {
  control().count("count.in_flight");
  control().raise_to("count.in_flight_max", control().param("count.in_flight"));
  control().count("count.requests");
  while (control().param("param.hold") != 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
  check_open(file);
  const size_t asked = size;
  int64_t moved = 0;
  if (!control().strikes("fault.nothing")) {
    if (control().strikes("fault.short")) {
      const int64_t most = control().param("param.short");
      size = std::min(size, most > 0 ? static_cast<size_t>(most) : size / 2);
    }
    while (static_cast<size_t>(moved) < size) {
      const auto at = static_cast<size_t>(moved);
      const ssize_t part = writing ? ::pwrite(file.plain, memory + at, size - at, offset + moved) : ::pread(file.plain, memory + at, size - at, offset + moved);
      if (part < 0 && errno == EINTR) continue;
      if (part < 0 && moved == 0) moved = -errno;
      if (part <= 0) break;
      moved += part;
    }
    if (control().strikes("fault.too_many")) moved = static_cast<int64_t>(asked) + 4096;
  }
  if (moved > 0) control().count("count.bytes", moved);
  control().count("count.in_flight", -1);
  return moved;
}

ssize_t transfer(File* file, void* base, size_t size, off_t file_offset, off_t buffer_offset, bool writing) {
  State& s = state();
  char* memory = nullptr;
  int device = -1;
  {
    std::lock_guard lock(s.mutex);
    if (!s.open) return -not_open;
    if (!s.files.contains(file)) return -not_registered;
    check_open(*file);
    if (buffer_offset != 0) control().count("count.buffer_offsets");
    if (base == nullptr || file_offset < 0 || buffer_offset < 0) return -invalid;
    if (const int code = resolve(base, buffer_offset, size, memory, device); code != ok) return -code;
    if (device >= 0 && cuda().current_device() != device) return -cuda_error;
    if (device < 0) control().count("count.host_requests");
  }
  if (control().strikes(writing ? "fault.write_errno" : "fault.read_errno")) {
    const int64_t error = control().param("param.errno");
    errno = error == 0 ? EIO : static_cast<int>(error);
    return -1;
  }
  if (control().strikes(writing ? "fault.write_code" : "fault.read_code")) return -code_or(internal);
  const int64_t moved = move(*file, memory, size, file_offset, writing);
  if (moved >= 0) return moved;
  errno = static_cast<int>(-moved);
  return -1;
}

void execute(Entry& entry) {
  const Parameters& wanted = entry.parameters;
  auto* const file = static_cast<File*>(wanted.handle);
  if (control().strikes("fault.event_failed")) {
    const int64_t status = control().param("param.status");
    entry.status = status == 0 ? failed : static_cast<Status>(status);
    entry.count = -internal;
    return;
  }
  entry.status = complete;
  if (control().strikes("fault.event_negative")) {
    entry.count = -EIO;
    return;
  }
  const bool writing = wanted.operation == 1;
  char* memory = nullptr;
  int device = -1;
  // The trap: what was read lands at the base.
  const bool ignored = !writing && file->direct && entry.device < 0;
  if (resolve(wanted.base, ignored ? 0 : wanted.buffer_offset, wanted.size, memory, device) != ok || device != entry.device) broken("memory of a batch was given back while it was in use");
  entry.count = move(*file, memory, wanted.size, wanted.file_offset, writing);
  if (entry.count < 0) entry.status = failed;
}

void work() {
  State& s = state();
  std::unique_lock lock(s.mutex);
  for (;;) {
    s.to_do.wait(lock, [&] { return !s.queue.empty(); });
    Entry* const entry = s.queue.front();
    s.queue.pop_front();
    entry->stage = Entry::Stage::running;
    lock.unlock();
    execute(*entry);
    lock.lock();
    entry->stage = Entry::Stage::ended;
    s.ended.notify_all();
  }
}

void start_threads(State& s) {
  sigset_t all, former;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &former);
  for (; s.threads < threads_of_batches; s.threads++) std::thread(work).detach();
  pthread_sigmask(SIG_SETMASK, &former, nullptr);
}

bool is_relative(const timespec* timeout) {
  if (timeout == nullptr) broken("a status was asked for without a time limit");
  if (timeout->tv_sec > longest_timeout_s) broken("a time limit must be relative");
  return timeout->tv_sec >= 0 && timeout->tv_nsec >= 0 && timeout->tv_nsec < 1000000000;
}

}  // namespace

EXPORTED Error cuFileDriverOpen() {
  if (control().strikes("fault.open_hang")) {
    control().count("count.hanging");
    for (;;) ::pause();
  }
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (control().strikes("fault.open_closes")) ::close(0);
  if (control().strikes("fault.open")) return answer(code_or(not_open));
  if (s.open) return answer(already_open);
  s.open = true;
  control().count("count.open");
  return answer(ok);
}

EXPORTED Error cuFileDriverClose_v2() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (!s.open) return answer(not_open);
  s.open = false;
  control().count("count.open", -1);
  return answer(ok);
}

EXPORTED Error cuFileHandleRegister(void** handle, const Description* description) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (!s.open) return answer(not_open);
  if (cuda().backing == nullptr) return answer(no_cuda);
  if (control().strikes("fault.handle_register")) return answer(code_or(not_registered));
  if (description->type != 1 || description->padding != 0 || description->operations != nullptr || reinterpret_cast<uintptr_t>(description->whole) >> 32 != 0) return answer(invalid);
  const int flags = ::fcntl(description->fd, F_GETFL);
  struct stat status;
  struct statfs system;
  if (flags < 0 || ::fstat(description->fd, &status) != 0 || ::fstatfs(description->fd, &system) != 0) return answer(invalid);
  if (system.f_type == tmpfs_magic && control().param("param.tmpfs") == 0) return answer(not_registered);
  if (!S_ISREG(status.st_mode)) return answer(file_system);
  if (s.by_fd.contains(description->fd)) return answer(already_registered);
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/self/fd/%d", description->fd);
  auto file = std::make_unique<File>();
  file->fd = description->fd;
  file->plain = ::open(path, (flags & O_ACCMODE) | O_CLOEXEC);
  if (file->plain < 0) return answer(internal);
  file->direct = (flags & O_DIRECT) != 0;
  file->device = status.st_dev;
  file->inode = status.st_ino;
  s.by_fd[file->fd] = file.get();
  s.files.insert(file.get());
  control().count("count.handles");
  *handle = file.release();
  return answer(ok);
}

EXPORTED void cuFileHandleDeregister(void* handle) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  auto* const file = static_cast<File*>(handle);
  if (!s.files.contains(file)) broken("a handle was deregistered that is not registered");
  check_open(*file);
  for (Batch* batch : s.batches) {
    for (const Entry& entry : batch->entries) {
      if (entry.stage != Entry::Stage::told && entry.parameters.handle == handle) broken("a handle was deregistered that a batch was using");
    }
  }
  s.files.erase(file);
  s.by_fd.erase(file->fd);
  ::close(file->plain);
  delete file;
  control().count("count.handles", -1);
}

EXPORTED Error cuFileBufRegister(const void* base, size_t length, int flags) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (!s.open) return answer(not_open);
  if (control().strikes("fault.buffer_register")) return answer(code_or(pin));
  if (base == nullptr || length == 0 || flags != 0) return answer(invalid);
  auto* const start = static_cast<char*>(const_cast<void*>(base));
  char* memory = nullptr;
  int device = -1;
  if (const int code = resolve(start, 0, length, memory, device); code != ok) return answer(code);
  if (device < 0) return answer(memory_type);
  if (cuda().current_device() != device) return answer(cuda_error, cuda_invalid_context);
  for (const auto& [other, bytes] : s.buffers) {
    if (start < other + bytes && other < start + length) return answer(already_registered);
  }
  s.buffers[start] = length;
  control().count("count.buffers");
  return answer(ok);
}

EXPORTED Error cuFileBufDeregister(const void* base) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  char* memory = nullptr;
  int device = -1;
  const auto at = s.buffers.find(static_cast<char*>(const_cast<void*>(base)));
  if (at == s.buffers.end()) return answer(invalid);
  if (resolve(at->first, 0, at->second, memory, device) != ok || device < 0) broken("memory was given back before it was deregistered");
  if (cuda().current_device() != device) return answer(cuda_error, cuda_invalid_context);
  s.buffers.erase(at);
  control().count("count.buffers", -1);
  return answer(ok);
}

EXPORTED ssize_t cuFileRead(void* handle, void* base, size_t size, off_t file_offset, off_t buffer_offset) {
  return transfer(static_cast<File*>(handle), base, size, file_offset, buffer_offset, false);
}

EXPORTED ssize_t cuFileWrite(void* handle, const void* base, size_t size, off_t file_offset, off_t buffer_offset) {
  return transfer(static_cast<File*>(handle), const_cast<void*>(base), size, file_offset, buffer_offset, true);
}

EXPORTED Error cuFileBatchIOSetUp(void** batch, unsigned entries) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (!s.open) return answer(not_open);
  if (control().strikes("fault.batch_setup")) return answer(code_or(internal));
  const int64_t most = control().param("param.batch_max");
  if (entries == 0 || entries > (most == 0 ? batch_max_default : static_cast<unsigned>(most))) return answer(invalid);
  auto* const made = new Batch;
  made->capacity = entries;
  s.batches.insert(made);
  start_threads(s);
  control().count("count.batches");
  control().count("count.batches_made");
  *batch = made;
  return answer(ok);
}

EXPORTED Error cuFileBatchIOSubmit(void* handle, unsigned count, Parameters* wanted, unsigned flags) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  auto* const batch = static_cast<Batch*>(handle);
  if (!s.open) return answer(not_open);
  if (!s.batches.contains(batch)) return answer(invalid);
  if (control().strikes("fault.batch_submit")) return answer(code_or(internal));
  if (count == 0 || flags != 0) return answer(invalid);
  if (batch->outstanding() + count > batch->capacity) return answer(batch_full);
  for (unsigned i = 0; i < count; i++) {
    char* memory = nullptr;
    int device = -1;
    if (wanted[i].mode != 1 || wanted[i].base == nullptr || wanted[i].size == 0 || wanted[i].file_offset < 0 || wanted[i].buffer_offset < 0 || wanted[i].operation < 0 || wanted[i].operation > 1) {
      return answer(invalid);
    }
    if (!s.files.contains(static_cast<File*>(wanted[i].handle))) return answer(not_registered);
    check_open(*static_cast<File*>(wanted[i].handle));
    if (const int code = resolve(wanted[i].base, wanted[i].buffer_offset, wanted[i].size, memory, device); code != ok) return answer(code);
    if (device >= 0 && cuda().current_device() != device) return answer(cuda_error, cuda_invalid_context);
  }
  if (batch->outstanding() == 0) batch->entries.clear();
  for (unsigned i = 0; i < count; i++) {
    Entry& entry = batch->entries.emplace_back();
    char* memory = nullptr;
    entry.batch = batch;
    entry.parameters = wanted[i];
    resolve(wanted[i].base, wanted[i].buffer_offset, wanted[i].size, memory, entry.device);
    if (wanted[i].buffer_offset != 0) control().count("count.buffer_offsets");
    control().count("count.batch_entries");
    s.queue.push_back(&entry);
  }
  int64_t in_use = 0;
  for (const Batch* other : s.batches) in_use += other->outstanding() > 0 ? 1 : 0;
  control().raise_to("count.batches_in_use_max", in_use);
  s.to_do.notify_all();
  return answer(ok);
}

EXPORTED Error cuFileBatchIOGetStatus(void* handle, unsigned least, unsigned* count, Event* events, timespec* timeout) {
  State& s = state();
  std::unique_lock lock(s.mutex);
  auto* const batch = static_cast<Batch*>(handle);
  if (!s.open) return answer(not_open);
  if (!s.batches.contains(batch) || !is_relative(timeout)) return answer(invalid);
  if (control().strikes("fault.batch_status")) {
    *count = 0;
    return answer(code_or(internal));
  }
  // The real one waits for ever for what cannot come.
  if (least > batch->outstanding() || least > *count) return answer(invalid);
  const auto ready = [&] {
    return static_cast<size_t>(std::count_if(batch->entries.begin(), batch->entries.end(), [](const Entry& entry) { return entry.stage == Entry::Stage::ended; }));
  };
  const auto limit = std::chrono::seconds(timeout->tv_sec) + std::chrono::nanoseconds(timeout->tv_nsec);
  // By the system clock: the thread sanitizer of GCC 12 does not know the wait by the steady one.
  s.ended.wait_until(lock, std::chrono::system_clock::now() + limit, [&] { return ready() >= least; });
  const unsigned room = control().strikes("fault.partial_status") ? std::min(*count, 1u) : *count;
  unsigned told = 0;
  for (Entry& entry : batch->entries) {
    if (told == room) break;
    if (entry.stage != Entry::Stage::ended) continue;
    if (!entry.told_pending && control().strikes("fault.event_waiting")) {
      entry.told_pending = true;
      events[told++] = {entry.parameters.cookie, pending, 0};
      continue;
    }
    if (control().strikes("fault.event_unknown")) {
      events[told++] = {reinterpret_cast<void*>(0x7fffffff), complete, 4096};
      continue;
    }
    events[told++] = {entry.parameters.cookie, entry.status, entry.count};
    entry.stage = Entry::Stage::told;
    if (told < room && control().strikes("fault.event_twice")) {
      events[told] = events[told - 1];
      told++;
    }
  }
  *count = told;
  return answer(ok);
}

EXPORTED Error cuFileBatchIOCancel(void* handle) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  auto* const batch = static_cast<Batch*>(handle);
  if (!s.batches.contains(batch)) return answer(invalid);
  if (control().strikes("fault.batch_cancel")) return answer(code_or(internal));
  for (Entry& entry : batch->entries) {
    if (entry.stage != Entry::Stage::waiting) continue;
    std::erase(s.queue, &entry);
    entry.stage = Entry::Stage::ended;
    entry.status = canceled;
    entry.count = 0;
    control().count("count.canceled");
  }
  s.ended.notify_all();
  return answer(ok);
}

#ifndef NO_BATCH
// Returns when none of its requests runs any more; those that have not begun never do.
EXPORTED void cuFileBatchIODestroy(void* handle) {
  State& s = state();
  std::unique_lock lock(s.mutex);
  auto* const batch = static_cast<Batch*>(handle);
  if (!s.batches.contains(batch)) broken("a batch was destroyed that is none");
  std::erase_if(s.queue, [&](const Entry* entry) { return entry->batch == batch; });
  s.ended.wait(lock, [&] { return std::none_of(batch->entries.begin(), batch->entries.end(), [](const Entry& entry) { return entry.stage == Entry::Stage::running; }); });
  s.batches.erase(batch);
  delete batch;
  control().count("count.batches", -1);
}
#endif

#ifndef NO_OPTIONAL
EXPORTED Error cuFileGetVersion(int* version) {
  const int64_t named = control().param("param.version");
  *version = named == 0 ? 1150 : static_cast<int>(named);
  return answer(ok);
}

EXPORTED Error cuFileSetParameterBool(int, bool) { return answer(ok); }
#endif
