// A stand-in for NIXL's C library (libnixl_capi.so), for the tests alone: its binary interface, the rules of its callers and the faults of its plugins, as our notes on NIXL 1.4.0
// describe them. It moves the bytes of real files and keeps objects in memory. It is code of our own, never shipped, and proves nothing about the real library: neither that it
// behaves so, nor how fast it is.
//
// What would be a corruption of memory in the real one ends the process here: a handle that is used after its end, a request of POSIX released while it is in progress, two
// threads in one agent, memory deregistered under a transfer.
//
// Plugins: POSIX (use_uring, use_posix_aio; without them Linux AIO), GDS, GDS_MT, HF3FS, OBJ, and FANCY (of files) and BLOBS (of objects), which nobody knows. HICACHE_STAND_IN_NIXL_OBJECTS
// names a folder in which OBJ and BLOBS keep their objects, a file each, so that several processes see them. Built with -DSTUB it is the library that says of itself that it can do nothing.
//
//   fault.io_error       a descriptor fails with EIO                        fault.short_io       a descriptor moves half of what it should
//   fault.no_space       a write moves half and meets a full disk           fault.hang           a transfer never ends, until param.release is set
//   fault.create_agent, create_backend, plugin_params, register_file, register_memory, create_request, post     the call fails
//   fault.submit         Linux AIO: io_submit fails, and what was queued, other requests' too, is dropped and never ends
//   fault.partial_space  a write meets the limit after its half, without an error
//   fault.destroy_hangs  destroying an agent waits for param.release
//   fault.lost_write     an object is not stored, and the write says success    fault.torn_write   half of it is
//   fault.query          query_mem fails                                fault.query_hangs   it waits for param.release
//   param.strict_end     1: a read past the end of an object fails; else it brings what there is, and says success
//   param.shared         1: io_uring has one queue for all requests: an error goes to whoever asks, and the request that failed says success
//   param.late_end       1: the call that collects a request's last completion says that it is in progress; the next one says success
//   param.late_io        1: what an agent of io_uring or POSIX AIO has in flight when a request fails goes on, whatever becomes of the agent, once param.late_go is set;
//                        count.late_planned and count.late_done tell of its descriptors
//   param.polls          a transfer takes so many calls more                param.post_completes 1: small transfers are through when post returns
//   param.late_us        a failed request has others under way for so long: releasing it earlier ends the process
//   param.memcpy         1: no file is touched                              param.stub           1: says that it is a stub
//   param.plain_file     1: says success without having done anything       param.hide_posix     1: POSIX is not listed
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "stand_in.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

constexpr int success = 0, in_progress = 1, invalid_param = -1, backend_error = -2, invalid_state = -3, no_telemetry = -5;
constexpr int dram = 0, vram = 1, block_memory = 2, object = 3, file = 4;
constexpr size_t requests_a_call = 64, unreaped_max = 512;

[[noreturn]] void fatal(const std::string& what) {
  std::fprintf(stderr, "stand-in of libnixl_capi: %s\n", what.c_str());
  std::abort();
}

stand_in::Control& control() {
  static auto* const the_control = new stand_in::Control(
      "nixl.", {"fault.io_error", "fault.short_io", "fault.no_space", "fault.hang", "fault.create_agent", "fault.create_backend", "fault.plugin_params", "fault.register_file",
                "fault.register_memory", "fault.create_request", "fault.post", "fault.submit", "fault.partial_space", "fault.destroy_hangs", "param.shared", "param.late_end",
                "param.late_io", "param.late_go", "count.late_planned", "count.late_done", "param.polls", "param.post_completes", "param.late_us", "param.memcpy", "param.stub",
                "param.plain_file", "param.hide_posix", "param.release", "fault.lost_write", "fault.torn_write", "fault.query", "fault.query_hangs", "param.strict_end",
                "count.queries", "count.keys_asked", "count.agents", "count.agents_made", "count.backends", "count.requests", "count.requests_leaked",
                "count.in_flight", "count.in_flight_max", "count.polls", "count.posts", "count.descriptors", "count.registrations", "count.file_registrations",
                "count.mapped_over"});
  return *the_control;
}

int64_t now_ns() { return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// ---- time inside of this library, for those who measure what is outside ----

std::atomic<bool> measuring{false};
std::atomic<int64_t> measured_ns{0};

class Timed {
 public:
  Timed() : from_(measuring.load(std::memory_order_relaxed) ? now_ns() : 0) {}
  ~Timed() {
    if (from_ != 0) measured_ns.fetch_add(now_ns() - from_, std::memory_order_relaxed);
  }

 private:
  const int64_t from_;
};

// ---- handles ----

enum class Kind : int { agent, backend, opt, params, iterator, strings, memories, registration, transfer, request, responses };
constexpr const char* kind_names[] = {"agent", "backend", "opt_args", "params", "params iterator", "string list", "mem list", "reg dlist", "xfer dlist", "request", "query list"};

struct Live {
  std::mutex mutex;
  std::unordered_map<const void*, Kind> handles;
};
Live& live() {
  static Live* const the_live = new Live;
  return *the_live;
}

template <typename T>
T* enlist(T* handle) {
  std::lock_guard lock(live().mutex);
  live().handles[handle] = T::kind;
  return handle;
}
// False for nullptr, which the real library refuses, too.
template <typename T>
bool valid(const T* handle) {
  if (handle == nullptr) return false;
  std::lock_guard lock(live().mutex);
  const auto found = live().handles.find(handle);
  if (found != live().handles.end() && found->second == T::kind) return true;
  fatal(std::string("this is not a living handle of an ").append(kind_names[static_cast<int>(T::kind)]));
}
template <typename T>
int destroy(T* handle) {
  if (!valid(handle)) return invalid_param;
  {
    std::lock_guard lock(live().mutex);
    live().handles.erase(handle);
  }
  delete handle;
  return success;
}

struct Params {
  static constexpr Kind kind = Kind::params;
  std::map<std::string, std::string> values;
};
struct Iterator {
  static constexpr Kind kind = Kind::iterator;
  std::vector<std::pair<std::string, std::string>> values;
  size_t at = 0;
};
struct Strings {
  static constexpr Kind kind = Kind::strings;
  std::vector<std::string> texts;
};
struct Memories {
  static constexpr Kind kind = Kind::memories;
  std::vector<int> types;
};
struct RegDesc {
  uintptr_t address;
  size_t length;
  uint64_t device;
  std::string meta;
};
struct RegList {
  static constexpr Kind kind = Kind::registration;
  int type;
  std::vector<RegDesc> descs;
};
struct Desc {
  uintptr_t address;
  size_t length;
  uint64_t device;
};
struct XferList {
  static constexpr Kind kind = Kind::transfer;
  int type;
  std::vector<Desc> descs;
};
struct Response {
  bool has_value;
  std::map<std::string, std::string> values;
};
struct Responses {
  static constexpr Kind kind = Kind::responses;
  std::vector<Response> all;
};

enum class Way : int { uring, linux_aio, posix_aio, gds, hf3fs, obj, fancy };

// A backend's engine: lives as long as its agent.
struct Engine {
  std::string plugin;
  Way way = Way::linux_aio;
  bool maps_over = false;  // HF3FS in a mode without copies
  bool poisoned = false;
  bool stuck = false;
  size_t unreaped = 0;
};
struct Backend {
  static constexpr Kind kind = Kind::backend;
  Engine* engine;
};
struct OptArgs {
  static constexpr Kind kind = Kind::opt;
  std::vector<Engine*> engines;
};

struct Registration {
  Engine* engine;
  int type;
  RegDesc desc;
  int opened = -1;  // path mode
  size_t users = 0;
};

struct Request;

struct Agent {
  static constexpr Kind kind = Kind::agent;
  std::string name;
  int thread_sync;
  std::atomic<int> inside{0};
  std::vector<Engine*> engines;
  std::vector<Registration*> memories;
  std::unordered_multimap<uint64_t, Registration*> by_device;  // files and objects
  std::set<Request*> requests;
  std::vector<Request*> posted;  // in this order
};

enum class State : int { idle, posted, done, failed };

struct Request {
  static constexpr Kind kind = Kind::request;
  Agent* agent;
  Engine* engine;
  bool writing;
  int local_type, remote_type;
  std::vector<Desc> local, remote;
  std::vector<Registration*> used;  // local, remote, local, remote, ...
  State state = State::idle;
  size_t submitted = 0, completed = 0;
  int64_t polls_left = 0, failed_ns = 0;
  bool hangs = false, dropped = false, released = false, collected = false;
};

struct Config {
  bool prog, listen;
  int port, thread_sync;
  unsigned workers;
  uint64_t pthr_us, lthr_us;
  bool telemetry;
};
static_assert(sizeof(Config) == 40 && offsetof(Config, thread_sync) == 8 && offsetof(Config, pthr_us) == 16 && offsetof(Config, telemetry) == 32);

struct Telemetry {
  uint64_t start_us, post_us, xfer_us, total_bytes, desc_count;
};

// An agent with thread sync NONE has no lock at all.
class Enter {
 public:
  explicit Enter(Agent* agent) : agent_(agent) {
    if (agent_->inside.fetch_add(1) != 0 && agent_->thread_sync == 0) fatal("two threads are inside of agent " + agent_->name + ", whose thread sync is NONE");
  }
  ~Enter() { agent_->inside.fetch_sub(1); }

 private:
  Agent* const agent_;
};

// ---- objects ----

std::map<std::string, std::string>& objects() {
  static auto* const all = new std::map<std::string, std::string>;
  return *all;
}
std::mutex objects_mutex;

std::string object_path(const std::string& key) {
  const char* const folder = std::getenv("HICACHE_STAND_IN_NIXL_OBJECTS");
  if (folder == nullptr || *folder == '\0') return "";
  std::string name;
  for (const char character : key) {
    const bool plain = (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') || (character >= '0' && character <= '9') || character == '_' || character == '-';
    char digits[4];
    std::snprintf(digits, sizeof(digits), "%%%02x", static_cast<unsigned char>(character));
    name += plain ? std::string(1, character) : digits;
  }
  return std::string(folder) + "/" + name;
}

bool get_object(const std::string& key, std::string& content) {
  std::lock_guard lock(objects_mutex);
  const std::string path = object_path(key);
  if (path.empty()) {
    const auto found = objects().find(key);
    if (found == objects().end()) return false;
    content = found->second;
    return true;
  }
  FILE* const open = std::fopen(path.c_str(), "rb");
  if (open == nullptr) return false;
  content.clear();
  char part[65536];
  for (size_t count; (count = std::fread(part, 1, sizeof(part), open)) > 0;) content.append(part, count);
  std::fclose(open);
  return true;
}

bool put_object(const std::string& key, const std::string& content) {
  std::lock_guard lock(objects_mutex);
  const std::string path = object_path(key);
  if (path.empty()) {
    objects()[key] = content;
    return true;
  }
  const std::string draft = path + "." + std::to_string(::getpid());
  FILE* const open = std::fopen(draft.c_str(), "wb");
  if (open == nullptr) return false;
  const bool whole = std::fwrite(content.data(), 1, content.size(), open) == content.size();
  std::fclose(open);
  return whole && std::rename(draft.c_str(), path.c_str()) == 0;
}

// ---- moving bytes ----

// A GPU's memory may fault when the processor touches it: through the kernel it can be reached all the same.
bool move_device(bool to_device, uintptr_t address, char* bytes, size_t length) {
  static const int own_memory = ::open("/proc/self/mem", O_RDWR | O_CLOEXEC);
  size_t done = 0;
  while (done < length) {
    const auto at = static_cast<off_t>(address + done);
    const ssize_t part = to_device ? ::pwrite(own_memory, bytes + done, length - done, at) : ::pread(own_memory, bytes + done, length - done, at);
    if (part <= 0) return false;
    done += static_cast<size_t>(part);
  }
  return true;
}

struct Moved {
  size_t bytes = 0;
  int error = 0;
};

Moved move_file(const Request& request, const Desc& local, const Desc& remote, int fd, size_t length) {
  if (control().param("param.plain_file") != 0) return {length, 0};
  auto* bytes = reinterpret_cast<char*>(local.address);
  if (control().param("param.memcpy") != 0) {
    static char* const store = static_cast<char*>(std::calloc(1, 1 << 24));
    if (request.writing) std::memcpy(store, bytes, std::min<size_t>(length, 1 << 24));
    else std::memcpy(bytes, store, std::min<size_t>(length, 1 << 24));
    return {length, 0};
  }
  char* staged = nullptr;
  if (request.local_type == vram) {
    if (::posix_memalign(reinterpret_cast<void**>(&staged), 4096, (length + 4095) / 4096 * 4096) != 0) return {0, ENOMEM};
    if (request.writing && !move_device(false, local.address, staged, length)) fatal("memory that was registered as a GPU's cannot be read");
    bytes = staged;
  }
  Moved moved;
  const auto at = static_cast<off_t>(remote.address);
  const ssize_t count = request.writing ? ::pwrite(fd, bytes, length, at) : ::pread(fd, bytes, length, at);
  if (count < 0) moved.error = errno;
  else moved.bytes = static_cast<size_t>(count);
  if (staged != nullptr && !request.writing && moved.bytes > 0 && !move_device(true, local.address, staged, moved.bytes)) fatal("memory that was registered as a GPU's cannot be written");
  std::free(staged);
  return moved;
}

Moved move_object(const Request& request, const Desc& local, const Desc& remote, const std::string& key) {
  auto* const bytes = reinterpret_cast<char*>(local.address);
  if (request.writing && control().strikes("fault.lost_write")) return {local.length, 0};
  if (request.writing && control().strikes("fault.torn_write")) return {put_object(key, std::string(bytes, local.length / 2)) ? local.length : 0, 0};
  if (request.writing) return {put_object(key, std::string(bytes, local.length)) ? local.length : 0, 0};
  std::string content;
  if (!get_object(key, content)) return {0, ENOENT};
  // A range that begins behind the end is refused by every server.
  if (remote.address >= content.size()) return {0, ERANGE};
  if (control().param("param.strict_end") != 0 && remote.address + local.length > content.size()) return {0, ERANGE};
  if (control().strikes("fault.short_io")) content.resize(remote.address + std::min<size_t>(content.size() - remote.address, local.length) / 2);
  const size_t there = content.size() > remote.address ? content.size() - remote.address : 0, length = std::min(there, local.length);
  std::memcpy(bytes, content.data() + remote.address, length);
  return {length, 0};
}

// What the plugin makes of it. False: it reports an error.
bool judged(Engine& engine, [[maybe_unused]] bool writing, const Moved& moved, size_t asked) {
  const bool is_short = moved.error == 0 && moved.bytes < asked;
  if (moved.error == 0 && !is_short) return true;
  bool good = false, poisons = false;
  switch (engine.way) {
    case Way::uring:
      good = is_short;
      poisons = !good;
      break;
    // What fails after io_submit() has taken it is a success.
    case Way::linux_aio: good = moved.error != EBADF; break;
    case Way::posix_aio: poisons = true; break;
    case Way::gds: good = true; break;
    case Way::hf3fs:
    case Way::fancy:
    case Way::obj: good = is_short; break;
  }
  engine.poisoned |= poisons;
  return good;
}

bool move(Request& request, size_t i) {
  Engine& engine = *request.engine;
  if (engine.poisoned) return false;
  const Desc &local = request.local[i], &remote = request.remote[i];
  const Registration& registered = *request.used[2 * i + 1];
  if (control().strikes("fault.io_error")) return judged(engine, request.writing, {0, EIO}, local.length);
  if (request.remote_type == object) return judged(engine, request.writing, move_object(request, local, remote, registered.desc.meta), local.length);
  const int fd = registered.opened >= 0 ? registered.opened : static_cast<int>(remote.device);
  if (request.writing && control().strikes("fault.no_space")) {
    return judged(engine, true, {0, ENOSPC}, local.length);
  }
  if (request.writing && control().strikes("fault.partial_space")) {
    return judged(engine, true, move_file(request, local, remote, fd, local.length / 2 / 4096 * 4096), local.length);
  }
  if (control().strikes("fault.short_io")) {
    const Moved half = move_file(request, local, remote, fd, local.length / 2 / 4096 * 4096);
    return judged(engine, request.writing, half, local.length);
  }
  return judged(engine, request.writing, move_file(request, local, remote, fd, local.length), local.length);
}

void let_go(Request& request) {
  control().count("count.in_flight", -static_cast<int64_t>(request.local.size()));
  request.engine->unreaped -= request.submitted - request.completed;
  for (Registration* one : request.used) one->users--;
  request.used.clear();
  std::erase(request.agent->posted, &request);
}

int descriptor_of(const Request& request, size_t i) {
  const Registration& registered = *request.used[2 * i + 1];
  return registered.opened >= 0 ? registered.opened : static_cast<int>(request.remote[i].device);
}

// What is in flight goes on in the kernel, or in threads of libc, into memory that may belong to somebody else by then.
void goes_on(Agent& agent) {
  if (control().param("param.late_io") == 0) return;
  struct Late {
    bool writing;
    Desc local, remote;
    int fd;
  };
  std::vector<Late> all;
  for (const Request* request : agent.posted) {
    for (size_t i = request->completed; i < request->submitted; i++) all.push_back({request->writing, request->local[i], request->remote[i], ::dup(descriptor_of(*request, i))});
  }
  control().count("count.late_planned", static_cast<int64_t>(all.size()));
  std::thread([all] {
    while (control().param("param.late_go") == 0) ::usleep(1000);
    for (const Late& one : all) {
      auto* const bytes = reinterpret_cast<char*>(one.local.address);
      // Of what is read it is only of interest where it goes.
      if (one.writing) (void)!::pwrite(one.fd, bytes, one.local.length, static_cast<off_t>(one.remote.address));
      else std::memset(bytes, 0xdb, one.local.length);
      ::close(one.fd);
      control().count("count.late_done");
    }
  }).detach();
}

int end(Request& request, bool good) {
  if (request.state != State::posted) return good ? success : backend_error;
  request.state = good ? State::done : State::failed;
  request.failed_ns = request.completed < request.local.size() ? now_ns() : 0;
  if (!good && (request.engine->way == Way::uring || request.engine->way == Way::posix_aio)) goes_on(*request.agent);
  let_go(request);
  return good ? success : backend_error;
}

// Work goes on only inside of post and get_xfer_status.
int work(Request& request, bool posting) {
  Engine& engine = *request.engine;
  if (request.dropped || (request.hangs && control().param("param.release") == 0)) return in_progress;
  if (engine.way == Way::linux_aio && request.submitted < request.local.size() && control().strikes("fault.submit")) {
    for (Request* one : request.agent->posted) one->dropped |= one->completed < one->local.size();
    return end(request, false);
  }
  const bool all_at_once = posting && control().param("param.post_completes") != 0;
  for (bool again = true; again;) {
    const size_t fresh = std::min(requests_a_call, request.local.size() - request.submitted);
    const size_t complete_to = request.submitted;
    request.submitted += fresh;
    engine.unreaped += fresh;
    if (engine.way == Way::uring && engine.unreaped > unreaped_max) engine.stuck = true;
    if (engine.stuck) return in_progress;
    if (!all_at_once && (posting || request.polls_left-- > 0)) return in_progress;
    if (engine.way == Way::uring && control().param("param.shared") != 0) {
      const std::vector<Request*> posted = request.agent->posted;
      for (Request* one : posted) {
        while (one->completed < one->submitted) {
          const bool good = move(*one, one->completed);
          one->completed++;
          engine.unreaped--;
          if (!good) return end(request, false);
        }
      }
    }
    const size_t until = std::min(all_at_once ? request.submitted : complete_to, request.completed + requests_a_call);
    while (request.completed < until) {
      const bool good = move(request, request.completed);
      request.completed++;
      engine.unreaped--;
      if (!good) return end(request, false);
    }
    if (request.completed == request.local.size() && !posting && !request.collected && control().param("param.late_end") != 0) {
      request.collected = true;
      return in_progress;
    }
    if (request.completed == request.local.size()) return end(request, true);
    again = all_at_once;
  }
  return in_progress;
}

// ---- parameters ----

bool truth(const std::string& text, bool& value) {
  std::string low;
  for (const char character : text) low += static_cast<char>(character >= 'A' && character <= 'Z' ? character + 32 : character);
  for (const char* yes : {"y", "yes", "on", "1", "true", "enable"}) {
    if (low == yes) return value = true;
  }
  for (const char* no : {"n", "no", "off", "0", "false", "disable"}) {
    if (low != no) continue;
    value = false;
    return true;
  }
  return false;
}

struct Plugin {
  const char* name;
  std::vector<int> types;
  std::map<std::string, std::string> defaults;
  std::set<std::string> booleans, numbers;
};

const std::vector<Plugin>& plugins() {
  static const auto* const all = new std::vector<Plugin>{
      {"POSIX", {dram, file}, {{"use_aio", "true"}, {"use_uring", "false"}, {"use_posix_aio", "false"}}, {"use_aio", "use_uring", "use_posix_aio"}, {"ios_pool_size", "kernel_queue_size"}},
      {"GDS", {dram, vram, file}, {{"batch_pool_size", "16"}, {"batch_limit", "128"}, {"max_request_size", "16777216"}}, {}, {"batch_pool_size", "batch_limit", "max_request_size"}},
      {"GDS_MT", {dram, vram, file}, {{"thread_count", "8"}}, {}, {"thread_count"}},
      {"HF3FS", {dram, file}, {{"mem_config", "auto"}, {"iopool_size", "64"}}, {}, {"iopool_size"}},
      {"OBJ", {dram, object}, {}, {"use_virtual_addressing"}, {"crtMinLimit"}},
      {"BLOBS", {dram, object}, {{"shade", "green"}}, {}, {"depth"}},
      {"FANCY", {dram, file}, {{"colour", "blue"}, {"depth", "4"}}, {}, {"depth"}}};
  return *all;
}

const Plugin* plugin_named(const std::string& name) {
  for (const Plugin& plugin : plugins()) {
    if (name == plugin.name && !(name == "POSIX" && control().param("param.hide_posix") != 0)) return &plugin;
  }
  return nullptr;
}

bool fits(const Plugin& plugin, const std::map<std::string, std::string>& values, Engine& engine) {
  std::map<std::string, bool> flags;
  for (const auto& [key, value] : values) {
    bool flag = false;
    if (plugin.booleans.count(key) != 0 && !truth(value, flag)) return false;
    flags[key] = flag;
    if (plugin.numbers.count(key) != 0 && (value.empty() || value.find_first_not_of("0123456789") != std::string::npos)) return false;
    if (key == "mem_config" && std::string(plugin.name) == "HF3FS" && value != "dram" && value != "dram_zc" && value != "auto") return false;
  }
  engine.plugin = plugin.name;
  if (engine.plugin == "POSIX") engine.way = flags["use_aio"] ? Way::linux_aio : flags["use_uring"] ? Way::uring : flags["use_posix_aio"] ? Way::posix_aio : Way::linux_aio;
  else if (engine.plugin == "GDS" || engine.plugin == "GDS_MT") engine.way = Way::gds;
  else if (engine.plugin == "HF3FS") engine.way = Way::hf3fs;
  else engine.way = engine.plugin == "OBJ" ? Way::obj : Way::fancy;
  const auto mem_config = values.find("mem_config");
  engine.maps_over = engine.way == Way::hf3fs && (mem_config == values.end() || mem_config->second != "dram");
  return true;
}

bool supports(const Engine& engine, int type) {
  for (const Plugin& plugin : plugins()) {
    if (engine.plugin == plugin.name) return std::find(plugin.types.begin(), plugin.types.end(), type) != plugin.types.end();
  }
  return false;
}

// "ro|rw[,direct][,sync][,noatime][,create]:<path>". -1: it cannot be had; -2: it is not understood, and so not taken for a path.
int open_by_meta(const std::string& meta) {
  const size_t colon = meta.find(':');
  if (colon == std::string::npos) return -2;
  int flags = O_CLOEXEC;
  std::string words = meta.substr(0, colon) + ",";
  bool mode = false;
  for (size_t at = 0, comma; (comma = words.find(',', at)) != std::string::npos; at = comma + 1) {
    const std::string word = words.substr(at, comma - at);
    if (word == "ro" || word == "rw") mode = true, flags |= word == "ro" ? O_RDONLY : O_RDWR;
    else if (word == "direct") flags |= O_DIRECT;
    else if (word == "sync") flags |= O_SYNC;
    else if (word == "noatime") flags |= O_NOATIME;
    else if (word == "create") flags |= O_CREAT;
    else return -2;
  }
  return mode ? ::open(meta.c_str() + colon + 1, flags, 0600) : -2;
}

Registration* find_registration(Agent& agent, const Engine& engine, int type, const Desc& desc) {
  const auto holds = [&](const Registration& one) {
    if (one.engine != &engine || one.type != type || one.desc.device != desc.device) return false;
    if (one.desc.length == 0 && (type == file || type == object)) return true;
    return desc.address >= one.desc.address && desc.address + desc.length <= one.desc.address + one.desc.length;
  };
  if (type == file || type == object) {
    const auto [from, to] = agent.by_device.equal_range(desc.device);
    for (auto at = from; at != to; ++at) {
      if (holds(*at->second)) return at->second;
    }
    return nullptr;
  }
  for (Registration* one : agent.memories) {
    if (holds(*one)) return one;
  }
  return nullptr;
}

std::vector<Engine*> engines_of(Agent& agent, const OptArgs& opt) { return opt.engines.empty() ? agent.engines : opt.engines; }

void unregister(Agent& agent, Registration* one) {
  if (one->users > 0) fatal("memory of a transfer that is in progress is deregistered");
  if (one->opened >= 0) ::close(one->opened);
  std::erase(agent.memories, one);
  std::erase_if(agent.by_device, [&](const auto& entry) { return entry.second == one; });
  control().count("count.registrations", -1);
  if (one->type == file) control().count("count.file_registrations", -1);
  delete one;
}

}  // namespace

// ---- for those who measure ----

API void nixl_stand_in_measure(bool on) {
  measured_ns = 0;
  measuring = on;
}
API int64_t nixl_stand_in_ns() { return measured_ns; }

// ---- the interface ----

API bool nixl_capi_is_stub() {
#ifdef STUB
  return true;
#else
  return control().param("param.stub") != 0;
#endif
}

API int nixl_capi_create_configured_agent(const char* name, const Config* config, Agent** out) {
  const Timed timed;
#ifdef STUB
  return backend_error;
#endif
  if (name != nullptr && *name == '\0') return backend_error;
  if (name == nullptr || config == nullptr || out == nullptr || config->thread_sync < 0 || config->thread_sync > 2) return invalid_param;
  if (control().strikes("fault.create_agent")) return backend_error;
  auto* const agent = new Agent;
  agent->name = name;
  agent->thread_sync = config->thread_sync;
  *out = enlist(agent);
  control().count("count.agents");
  control().count("count.agents_made");
  return success;
}

API int nixl_capi_destroy_agent(Agent* agent) {
  const Timed timed;
  if (!valid(agent)) return invalid_param;
  {
    const Enter enter(agent);
    if (control().strikes("fault.destroy_hangs")) {
      while (control().param("param.release") == 0) ::usleep(1000);
    }
    for (Request* request : agent->requests) {
      if (request->state == State::posted && request->engine->way != Way::linux_aio) {
        fatal("agent " + agent->name + " is destroyed with a request in progress, whose bytes the kernel still moves");
      }
      // The kernel ends what was submitted, and only then this call returns.
      if (request->state == State::posted) {
        for (; !request->dropped && request->completed < request->submitted; request->completed++, request->engine->unreaped--) move(*request, request->completed);
        let_go(*request);
      }
      // In the real one the handles are lost.
      control().count("count.requests_leaked");
      control().count("count.requests", -1);
      destroy(request);
    }
    while (!agent->memories.empty()) unregister(*agent, agent->memories.back());
    while (!agent->by_device.empty()) unregister(*agent, agent->by_device.begin()->second);
    for (Engine* engine : agent->engines) delete engine;
  }
  control().count("count.agents", -1);
  return destroy(agent);
}

API int nixl_capi_get_available_plugins(Agent* agent, Strings** out) {
  const Timed timed;
  if (!valid(agent) || out == nullptr) return invalid_param;
  const Enter enter(agent);
  auto* const list = new Strings;
  for (const Plugin& plugin : plugins()) {
    if (plugin_named(plugin.name) != nullptr) list->texts.push_back(plugin.name);
  }
  *out = enlist(list);
  return success;
}

API int nixl_capi_string_list_size(Strings* list, size_t* size) {
  if (!valid(list) || size == nullptr) return invalid_param;
  *size = list->texts.size();
  return success;
}

API int nixl_capi_string_list_get(Strings* list, size_t at, const char** out) {
  if (!valid(list) || out == nullptr || at >= list->texts.size()) return invalid_param;
  *out = list->texts[at].c_str();
  return success;
}

API int nixl_capi_destroy_string_list(Strings* list) { return destroy(list); }

API int nixl_capi_get_plugin_params(Agent* agent, const char* name, Memories** types, Params** params) {
  const Timed timed;
  if (!valid(agent) || name == nullptr || types == nullptr || params == nullptr) return invalid_param;
  const Enter enter(agent);
  const Plugin* const plugin = plugin_named(name);
  if (plugin == nullptr || control().strikes("fault.plugin_params")) return backend_error;
  *types = enlist(new Memories{plugin->types});
  *params = enlist(new Params{plugin->defaults});
  return success;
}

API int nixl_capi_mem_list_size(Memories* list, size_t* size) {
  if (!valid(list) || size == nullptr) return invalid_param;
  *size = list->types.size();
  return success;
}

API int nixl_capi_mem_list_get(Memories* list, size_t at, int* out) {
  if (!valid(list) || out == nullptr || at >= list->types.size()) return invalid_param;
  *out = list->types[at];
  return success;
}

API int nixl_capi_destroy_mem_list(Memories* list) { return destroy(list); }

API int nixl_capi_create_params(Params** out) {
  if (out == nullptr) return invalid_param;
  *out = enlist(new Params);
  return success;
}

API int nixl_capi_params_add(Params* params, const char* key, const char* value) {
  if (!valid(params) || key == nullptr || value == nullptr) return invalid_param;
  params->values[key] = value;
  return success;
}

API int nixl_capi_destroy_params(Params* params) { return destroy(params); }

API int nixl_capi_params_is_empty(Params* params, bool* out) {
  if (!valid(params) || out == nullptr) return invalid_param;
  *out = params->values.empty();
  return success;
}

API int nixl_capi_params_create_iterator(Params* params, Iterator** out) {
  if (!valid(params) || out == nullptr) return invalid_param;
  auto* const iterator = new Iterator;
  iterator->values.assign(params->values.begin(), params->values.end());
  *out = enlist(iterator);
  return success;
}

API int nixl_capi_params_iterator_next(Iterator* iterator, const char** key, const char** value, bool* has_next) {
  if (!valid(iterator) || key == nullptr || value == nullptr || has_next == nullptr || iterator->at >= iterator->values.size()) return invalid_param;
  *key = iterator->values[iterator->at].first.c_str();
  *value = iterator->values[iterator->at].second.c_str();
  *has_next = ++iterator->at < iterator->values.size();
  return success;
}

API int nixl_capi_params_destroy_iterator(Iterator* iterator) { return destroy(iterator); }

API int nixl_capi_create_backend(Agent* agent, const char* name, Params* params, Backend** out) {
  const Timed timed;
  if (!valid(agent) || name == nullptr || !valid(params) || out == nullptr) return invalid_param;
  const Enter enter(agent);
  const Plugin* const plugin = plugin_named(name);
  if (plugin == nullptr || control().strikes("fault.create_backend")) return backend_error;
  for (const Engine* one : agent->engines) {
    const bool both = (one->plugin == "GDS" && std::string(name) == "GDS_MT") || (one->plugin == "GDS_MT" && std::string(name) == "GDS");
    if (one->plugin == name || both) return backend_error;
  }
  auto* const engine = new Engine;
  if (!fits(*plugin, params->values, *engine)) {
    delete engine;
    return backend_error;
  }
  agent->engines.push_back(engine);
  *out = enlist(new Backend{engine});
  control().count("count.backends");
  return success;
}

// The wrapper alone: the engine lives as long as the agent.
API int nixl_capi_destroy_backend(Backend* backend) {
  const int answer = destroy(backend);
  if (answer == success) control().count("count.backends", -1);
  return answer;
}

API int nixl_capi_create_opt_args(OptArgs** out) {
  if (out == nullptr) return invalid_param;
  *out = enlist(new OptArgs);
  return success;
}

API int nixl_capi_opt_args_add_backend(OptArgs* opt, Backend* backend) {
  if (!valid(opt) || !valid(backend)) return invalid_param;
  opt->engines.push_back(backend->engine);
  return success;
}

API int nixl_capi_destroy_opt_args(OptArgs* opt) { return destroy(opt); }

API int nixl_capi_create_reg_dlist(int type, RegList** out) {
  const Timed timed;
  if (out == nullptr || type < dram || type > file) return invalid_param;
  *out = enlist(new RegList{type, {}});
  return success;
}

API int nixl_capi_reg_dlist_add_desc(RegList* list, uintptr_t address, size_t length, uint64_t device, const void* meta, size_t meta_length) {
  const Timed timed;
  if (!valid(list) || (meta == nullptr && meta_length > 0)) return invalid_param;
  list->descs.push_back({address, length, device, meta == nullptr ? std::string() : std::string(static_cast<const char*>(meta), meta_length)});
  return success;
}

API int nixl_capi_destroy_reg_dlist(RegList* list) {
  const Timed timed;
  return destroy(list);
}

API int nixl_capi_register_mem(Agent* agent, RegList* list, OptArgs* opt) {
  const Timed timed;
  if (!valid(agent) || !valid(list) || !valid(opt) || list->descs.empty()) return invalid_param;
  const Enter enter(agent);
  if (control().strikes(list->type == file || list->type == object ? "fault.register_file" : "fault.register_memory")) return backend_error;
  std::vector<Registration*> made;
  for (Engine* engine : engines_of(*agent, *opt)) {
    for (const RegDesc& desc : list->descs) {
      bool good = supports(*engine, list->type);
      auto* const one = new Registration{engine, list->type, desc, -1, 0};
      if (good && list->type == file && desc.meta.empty()) good = ::fcntl(static_cast<int>(desc.device), F_GETFL) >= 0;
      else if (good && list->type == file) good = (one->opened = open_by_meta(desc.meta)) != -1;
      else if (good && list->type == object) good = !desc.meta.empty() && agent->by_device.count(desc.device) == 0;
      else if (good) good = desc.address != 0 && desc.length != 0;
      if (!good) {
        delete one;
        for (Registration* taken : made) unregister(*agent, taken);
        return backend_error;
      }
      if (list->type == file || list->type == object) agent->by_device.emplace(desc.device, one);
      else agent->memories.push_back(one);
      made.push_back(one);
      control().count("count.registrations");
      if (list->type == file) control().count("count.file_registrations");
      if (engine->maps_over && list->type == dram) control().count("count.mapped_over", static_cast<int64_t>(desc.length));
    }
  }
  return made.empty() ? backend_error : success;
}

API int nixl_capi_deregister_mem(Agent* agent, RegList* list, OptArgs* opt) {
  const Timed timed;
  if (!valid(agent) || !valid(list) || !valid(opt)) return invalid_param;
  const Enter enter(agent);
  bool all = true;
  for (Engine* engine : engines_of(*agent, *opt)) {
    for (const RegDesc& desc : list->descs) {
      Registration* const one = find_registration(*agent, *engine, list->type, {desc.address, desc.length, desc.device});
      if (one == nullptr || one->desc.address != desc.address || one->desc.length != desc.length) all = false;
      else unregister(*agent, one);
    }
  }
  return all ? success : backend_error;
}

API int nixl_capi_create_xfer_dlist(int type, XferList** out) {
  const Timed timed;
  if (out == nullptr || type < dram || type > file) return invalid_param;
  *out = enlist(new XferList{type, {}});
  return success;
}

API int nixl_capi_xfer_dlist_add_desc(XferList* list, uintptr_t address, size_t length, uint64_t device) {
  const Timed timed;
  if (!valid(list)) return invalid_param;
  list->descs.push_back({address, length, device});
  return success;
}

API int nixl_capi_destroy_xfer_dlist(XferList* list) {
  const Timed timed;
  return destroy(list);
}

API int nixl_capi_create_xfer_req(Agent* agent, int operation, XferList* local, XferList* remote, const char* remote_agent, Request** out, OptArgs* opt) {
  const Timed timed;
  if (!valid(agent) || operation < 0 || operation > 1 || !valid(local) || !valid(remote) || remote_agent == nullptr || out == nullptr || !valid(opt)) return invalid_param;
  const Enter enter(agent);
  if (control().strikes("fault.create_request")) return backend_error;
  if (agent->name != remote_agent || local->descs.empty() || local->descs.size() != remote->descs.size() || (local->type != dram && local->type != vram) ||
      remote->type == block_memory) {
    return backend_error;
  }
  for (Engine* engine : engines_of(*agent, *opt)) {
    if (!supports(*engine, local->type) || !supports(*engine, remote->type)) continue;
    auto* const request = new Request{agent, engine, operation == 1, local->type, remote->type, local->descs, remote->descs, {}};
    bool good = true;
    for (size_t i = 0; i < local->descs.size() && good; i++) {
      Registration* const here = find_registration(*agent, *engine, local->type, local->descs[i]);
      Registration* const there = find_registration(*agent, *engine, remote->type, remote->descs[i]);
      // Whole objects only are written.
      good = here != nullptr && there != nullptr && local->descs[i].length == remote->descs[i].length && !(remote->type == object && operation == 1 && remote->descs[i].address != 0);
      request->used.push_back(here);
      request->used.push_back(there);
    }
    if (!good) {
      delete request;
      return backend_error;
    }
    agent->requests.insert(request);
    *out = enlist(request);
    control().count("count.requests");
    return success;
  }
  return backend_error;
}

API int nixl_capi_post_xfer_req(Agent* agent, Request* request, OptArgs* opt) {
  const Timed timed;
  if (!valid(agent) || !valid(request) || !valid(opt)) return invalid_param;
  const Enter enter(agent);
  if (request->agent != agent || request->released) fatal("a request is posted to another agent than its own, or after its release");
  if (request->state == State::posted) return invalid_param;
  if (request->used.empty()) fatal("a request is posted a second time, which this stand-in does not know");
  if (control().strikes("fault.post")) return backend_error;
  request->state = State::posted;
  request->polls_left = control().param("param.polls");
  request->hangs = control().strikes("fault.hang");
  for (Registration* one : request->used) one->users++;
  agent->posted.push_back(request);
  control().count("count.posts");
  control().count("count.descriptors", static_cast<int64_t>(request->local.size()));
  control().count("count.in_flight", static_cast<int64_t>(request->local.size()));
  control().raise_to("count.in_flight_max", control().param("count.in_flight"));
  return work(*request, true);
}

API int nixl_capi_get_xfer_status(Agent* agent, Request* request) {
  const Timed timed;
  if (!valid(agent) || !valid(request)) return invalid_param;
  const Enter enter(agent);
  if (request->agent != agent || request->released) fatal("another agent than the request's own is asked for its status, or after its release");
  control().count("count.polls");
  switch (request->state) {
    case State::idle: return -3;
    case State::posted: return work(*request, false);
    case State::done: return success;
    default: return backend_error;
  }
}

API int nixl_capi_release_xfer_req(Agent* agent, Request* request) {
  const Timed timed;
  if (!valid(agent) || !valid(request)) return invalid_param;
  const Enter enter(agent);
  if (request->released) return invalid_param;
  if (request->agent != agent) fatal("a request is released by another agent than its own");
  if (request->state == State::posted) fatal("a request is released while it is in progress: the kernel still moves its bytes");
  if (request->state == State::failed && request->failed_ns != 0 && now_ns() - request->failed_ns < control().param("param.late_us") * 1000) {
    fatal("a failed request is released while some of its descriptors are still under way");
  }
  request->released = true;
  agent->requests.erase(request);
  return success;
}

API int nixl_capi_destroy_xfer_req(Request* request) {
  const Timed timed;
  if (!valid(request)) return invalid_param;
  if (!request->released) return invalid_state;
  control().count("count.requests", -1);
  return destroy(request);
}

API int nixl_capi_create_query_resp_list(Responses** out) {
  if (out == nullptr) return invalid_param;
  *out = enlist(new Responses);
  return success;
}

API int nixl_capi_query_mem(Agent* agent, RegList* list, Responses* out, OptArgs* opt) {
  const Timed timed;
  if (!valid(agent) || !valid(list) || !valid(out) || !valid(opt) || opt->engines.size() != 1) return invalid_param;
  const Enter enter(agent);
  if (!supports(*opt->engines[0], list->type)) return backend_error;
  control().count("count.queries");
  control().count("count.keys_asked", static_cast<int64_t>(list->descs.size()));
  if (control().strikes("fault.query_hangs")) {
    while (control().param("param.release") == 0) ::usleep(1000);
  }
  if (control().strikes("fault.query")) return backend_error;
  out->all.clear();
  for (const RegDesc& desc : list->descs) {
    Response response{false, {}};
    if (list->type == object) {
      std::string content;
      response.has_value = get_object(desc.meta, content);
    } else if (list->type == file) {
      struct stat info;
      response.has_value = ::stat(desc.meta.c_str(), &info) == 0;
      if (response.has_value) response.values = {{"size", std::to_string(info.st_size)}, {"mode", std::to_string(info.st_mode)}, {"mtime", std::to_string(info.st_mtime)}};
    } else {
      return backend_error;
    }
    out->all.push_back(response);
  }
  return success;
}

API int nixl_capi_query_resp_list_size(Responses* list, size_t* size) {
  if (!valid(list) || size == nullptr) return invalid_param;
  *size = list->all.size();
  return success;
}

API int nixl_capi_query_resp_list_has_value(Responses* list, size_t at, bool* out) {
  if (!valid(list) || out == nullptr || at >= list->all.size()) return invalid_param;
  *out = list->all[at].has_value;
  return success;
}

API int nixl_capi_query_resp_list_get_params(Responses* list, size_t at, Params** out) {
  if (!valid(list) || out == nullptr || at >= list->all.size()) return invalid_param;
  if (!list->all[at].has_value) return backend_error;
  *out = enlist(new Params{list->all[at].values});
  return success;
}

API int nixl_capi_destroy_query_resp_list(Responses* list) { return destroy(list); }

API int nixl_capi_get_xfer_telemetry(Agent* agent, Request* request, Telemetry* out) {
  if (!valid(agent) || !valid(request) || out == nullptr) return invalid_param;
  return no_telemetry;
}
