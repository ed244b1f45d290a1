// CUDA and cuFile on stand-ins (spec/support/stand-ins, $HICACHE_STAND_INS): devices, IPC, the probe, and both engines, with each fault that the stand-ins know. Files lie in argv[1] (or $TMPDIR, or
// /tmp). What this shows is our logic: whether the real libraries behave so, only hardware tells. Nothing here sleeps.
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../../spec/support/stand-ins/stand_in.h"
#include "agent/memory_registry.h"
#include "check.h"
#include "cuda/devices.h"
#include "plugins/gds/cufile_driver.h"
#include "plugins/gds/cufile_engine.h"
#include "util/aligned_buffer.h"
#include "util/fault.h"
#include "util/unique_fd.h"

using namespace hicache;

namespace {

constexpr int patience_ms = 30000;
constexpr long tmpfs_magic = 0x01021994;
constexpr auto reading = IoRequest::Kind::read;
constexpr auto writing = IoRequest::Kind::write;

std::string directory;

// The other side of stand_in.h.
class Knobs {
 public:
  explicit Knobs(const std::string& path) : path_(path) {
    const UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    CHECK_EQ(::ftruncate(file.get(), bytes), 0);
    entries_ = static_cast<stand_in::Entry*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
    CHECK(entries_ != MAP_FAILED);
  }
  Knobs(const Knobs&) = delete;
  Knobs& operator=(const Knobs&) = delete;
  ~Knobs() {
    ::munmap(entries_, bytes);
    ::unlink(path_.c_str());
  }
  const std::string& path() const { return path_; }
  void set(const char* name, int64_t value) { at(name).store(value); }
  int64_t get(const char* name) { return at(name).load(); }
  // Also until the condition holds: something else in the process is at work on it.
  void await(const char* name, int64_t value) {
    while (get(name) != value) ::sched_yield();
  }
  // After a test: what was to strike has struck, or does not matter any more.
  void quiet() {
    for (int i = 0; i < stand_in::entries_max; i++) {
      const char* const dot = std::strchr(entries_[i].name, '.');
      if (dot != nullptr && std::strncmp(dot, ".count.", 7) != 0) std::atomic_ref(entries_[i].value).store(0);
    }
    set("cuda.param.devices", 2);
    if (tmpfs) set("cufile.param.tmpfs", 1);
  }
  bool tmpfs = false;

 private:
  static constexpr size_t bytes = stand_in::entries_max * sizeof(stand_in::Entry);
  std::atomic_ref<int64_t> at(const char* name) {
    for (int i = 0; i < stand_in::entries_max; i++) {
      if (std::strncmp(entries_[i].name, name, sizeof(entries_[i].name)) == 0) return std::atomic_ref(entries_[i].value);
      if (entries_[i].name[0] != '\0') continue;
      std::snprintf(entries_[i].name, sizeof(entries_[i].name), "%s", name);
      return std::atomic_ref(entries_[i].value);
    }
    check_failed(__FILE__, __LINE__, "the control file is full");
    std::abort();
  }
  const std::string path_;
  stand_in::Entry* entries_;
};
Knobs* knobs;

std::string stand_in_path(const char* name) {
  const char* const folder = std::getenv("HICACHE_STAND_INS");
  CHECK(folder != nullptr);
  return std::string(folder).append("/lib").append(name).append(".so");
}

uint8_t byte_at(size_t position) { return static_cast<uint8_t>((position * 2654435761u + 7) >> 13 ^ position >> 9); }
std::vector<uint8_t> expected(size_t from, size_t bytes) {
  std::vector<uint8_t> content(bytes);
  for (size_t i = 0; i < bytes; i++) content[i] = byte_at(from + i);
  return content;
}

cuda::Devices& devices() {
  cuda::Failure failure;
  cuda::Devices* const all = cuda::Devices::get(failure);
  if (all == nullptr) check_failed(__FILE__, __LINE__, failure.what);
  return *all;
}

// ---- other processes: this program again ----

struct Child {
  pid_t pid = -1;
  UniqueFd output;
};

Child start(const std::vector<std::string>& arguments, const std::map<std::string, std::string>& environment) {
  int ends[2];
  CHECK_EQ(::pipe2(ends, O_CLOEXEC), 0);
  Child child;
  child.output = UniqueFd(ends[0]);
  const UniqueFd input(ends[1]);
  std::vector<char*> words;
  for (const std::string& one : arguments) words.push_back(const_cast<char*>(one.c_str()));
  words.push_back(nullptr);
  child.pid = ::fork();
  CHECK(child.pid >= 0);
  if (child.pid == 0) {
    ::dup2(ends[1], 1);
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::execv("/proc/self/exe", words.data());
    ::_exit(127);
  }
  return child;
}

std::string output_of(Child& child, int* code = nullptr) {
  std::string text;
  char part[4096];
  for (ssize_t length; (length = ::read(child.output.get(), part, sizeof(part))) > 0;) text.append(part, static_cast<size_t>(length));
  int status = 0;
  CHECK_EQ(::waitpid(child.pid, &status, 0), child.pid);
  if (code != nullptr) *code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return text;
}

int probe_child(char** argv) {
  cufile::ProbeOptions options;
  options.modules = argv[3];
  options.device_nodes = argv[4];
  const cufile::ProbeReport report = cufile::probe(options);
  std::printf("%s usable=%d version=%s devices=%d stdin=%d\n%s\n%s\n", cufile::name_of(report.mode), report.usable ? 1 : 0, report.version.c_str(), report.devices, ::fcntl(0, F_GETFD) >= 0 ? 1 : 0,
              report.reason.c_str(), report.remedy.c_str());
  return 0;
}

cuda::IpcHandle from_hex(const std::string& hex) {
  cuda::IpcHandle handle;
  CHECK_EQ(hex.size(), 2 * sizeof(handle.bytes));
  for (size_t i = 0; i < sizeof(handle.bytes); i++) handle.bytes[i] = static_cast<char>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return handle;
}

std::string to_hex(const cuda::IpcHandle& handle) {
  std::string text;
  for (const char byte : handle.bytes) {
    char two[3];
    std::snprintf(two, sizeof(two), "%02x", static_cast<uint8_t>(byte));
    text += two;
  }
  return text;
}

int ipc_child(char** argv) {
  const cuda::IpcHandle handle = from_hex(argv[3]);
  const size_t offset = std::stoul(argv[4]);
  cuda::Failure failure;
  auto memory = devices().ipc_open(handle, 0, failure);
  if (memory == nullptr) {
    std::printf("refused: %s: %s\n", failure.code.c_str(), failure.remedy.c_str());
    CHECK(devices().release_contexts(failure));
    return 0;
  }
  // Asked for again, it is the same: the driver opens it once.
  auto again = devices().ipc_open(handle, 0, failure);
  CHECK(again != nullptr && again->address() == memory->address());
  memory.reset();
  std::vector<uint8_t> content(4096);
  CHECK(devices().copy_to_host(0, content.data(), again->address() + offset, content.size(), failure));
  CHECK(content == expected(0, 4096));
  const std::vector<uint8_t> reply = expected(9999, 4096);
  CHECK(devices().copy_to_device(0, again->address() + offset, reply.data(), reply.size(), failure));
  cuda::Placement placement;
  CHECK(devices().check(again->address(), again->bytes(), placement, failure));
  again.reset();
  CHECK(devices().release_contexts(failure));
  std::printf("exchanged\n");
  return 0;
}

// ---- CUDA ----

void finds_what_an_address_is() {
  cuda::Failure failure;
  cuda::Placement placement;
  auto memory = devices().allocate(0, 100000, failure);
  CHECK(memory != nullptr);
  CHECK(devices().check(memory->address() + 5, 99995, placement, failure));
  CHECK_EQ(placement.device, 0);
  CHECK_EQ(placement.range_start, memory->address());
  CHECK_EQ(placement.range_bytes, 100000u);
  CHECK(!devices().check(memory->address() + 5, 99996, placement, failure));
  CHECK_EQ(failure.code, "OUT_OF_RANGE");
  CHECK(failure.what.find("99995 bytes") != std::string::npos);
  CHECK(!devices().check(memory->address(), 0, placement, failure));
  CHECK(!devices().check(UINT64_MAX - 5, 100, placement, failure));
  AlignedBuffer host(8192);
  CHECK(!devices().check(reinterpret_cast<uint64_t>(host.data()), 10, placement, failure));
  CHECK_EQ(failure.code, "NOT_DEVICE_MEMORY");
  CHECK(devices().register_host(host.data(), host.size(), failure));
  CHECK(!devices().check(reinterpret_cast<uint64_t>(host.data()), 10, placement, failure));
  CHECK(failure.what.find("host memory") != std::string::npos);
  CHECK(!devices().register_host(host.data(), host.size(), failure));
  CHECK_EQ(failure.code, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED");
  CHECK(devices().unregister_host(host.data(), failure));
  CHECK(!devices().unregister_host(host.data(), failure));
  knobs->set("cuda.fault.needs_context", 1);
  CHECK(devices().check(memory->address(), 1, placement, failure));
  // Several mappings of one range.
  knobs->set("cuda.fault.virtual", 1);
  auto pool = devices().allocate(1, 6 << 20, failure);
  CHECK(pool != nullptr);
  CHECK(devices().check(pool->address() + 4096, (6 << 20) - 4096, placement, failure));
  CHECK_EQ(placement.device, 1);
  CHECK_EQ(placement.range_bytes, 6u << 20);
  CHECK(!devices().check(pool->address() + 4096, 6 << 20, placement, failure));
  cuda::IpcExport exported;
  CHECK(!devices().ipc_export(pool->address(), exported, failure));
  CHECK_EQ(failure.code, "NOT_IPC_CAPABLE");
  CHECK(!devices().release_contexts(failure));
  knobs->quiet();
}

void copies() {
  cuda::Failure failure;
  auto memory = devices().allocate(1, 70000, failure);
  const std::vector<uint8_t> content = expected(3, 70000);
  for (const char* without : {"", "cuda.fault.stream"}) {
    if (*without != '\0') {
      CHECK(devices().release_contexts(failure) == false);
      knobs->set(without, -1);
    }
    std::vector<uint8_t> back(70000);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < 4; i++) {
      threads.emplace_back([&, i] {
        cuda::Failure own;
        CHECK(devices().copy_to_device(1, memory->address() + i * 17500, content.data() + i * 17500, 17500, own));
        CHECK(devices().copy_to_host(1, back.data() + i * 17500, memory->address() + i * 17500, 17500, own));
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(back == content);
  }
  knobs->quiet();
  uint8_t byte = 0;
  CHECK(!devices().copy_to_host(1, &byte, memory->address() + 70000, 1, failure));
  CHECK_EQ(failure.code, "CUDA_ERROR_INVALID_VALUE");
  CHECK(!devices().copy_to_host(7, &byte, memory->address(), 1, failure));
  CHECK_EQ(failure.code, "CUDA_ERROR_INVALID_DEVICE");
  CHECK(devices().copy_to_host(1, &byte, memory->address(), 0, failure));
}

void each_call_fails() {
  cuda::Failure failure;
  cuda::Placement placement;
  auto memory = devices().allocate(0, 4096, failure);
  uint8_t byte = 0;
  AlignedBuffer host(4096);
  cuda::IpcExport exported;
  const std::vector<std::pair<const char*, std::function<bool()>>> calls = {
      {"alloc", [&] { return devices().allocate(0, 4096, failure) != nullptr; }},
      {"push", [&] { return devices().allocate(0, 4096, failure) != nullptr; }},
      {"copy", [&] { return devices().copy_to_host(0, &byte, memory->address(), 1, failure); }},
      {"synchronize", [&] { return devices().copy_to_device(0, memory->address(), &byte, 1, failure); }},
      {"attributes", [&] { return devices().check(memory->address(), 1, placement, failure); }},
      {"register", [&] { return devices().register_host(host.data(), 4096, failure); }},
      {"ipc_get", [&] { return devices().ipc_export(memory->address(), exported, failure); }},
      {"range", [&] { return devices().ipc_export(memory->address(), exported, failure); }},
      {"set_current", [&] { return devices().make_current(0, failure); }},
  };
  for (const auto& [name, call] : calls) {
    test_context() = name;
    knobs->set(std::string("cuda.fault.").append(name).c_str(), 1);
    CHECK(!call());
    CHECK_EQ(failure.code, "CUDA_ERROR_UNKNOWN");
    CHECK(!failure.what.empty() && !failure.remedy.empty());
    knobs->quiet();
  }
  knobs->set("cuda.param.memory", 1 << 20);
  CHECK(devices().allocate(0, 2 << 20, failure) == nullptr);
  CHECK_EQ(failure.code, "CUDA_ERROR_OUT_OF_MEMORY");
  CHECK(failure.what.find("2097152 bytes of device 0") != std::string::npos);
  // An error that even the driver has no name for.
  knobs->set("cuda.param.error", 12345);
  knobs->set("cuda.fault.alloc", 1);
  CHECK(devices().allocate(0, 1, failure) == nullptr);
  CHECK_EQ(failure.code, "CUDA error 12345");
  knobs->quiet();
}

void exchanges_memory_with_another_process() {
  cuda::Failure failure;
  auto memory = devices().allocate(0, 1 << 20, failure);
  const std::vector<uint8_t> content = expected(0, 4096);
  CHECK(devices().copy_to_device(0, memory->address() + 8192, content.data(), 4096, failure));
  cuda::IpcExport exported;
  CHECK(devices().ipc_export(memory->address() + 8192, exported, failure));
  CHECK_EQ(exported.offset, 8192u);
  const std::vector<std::string> arguments = {"gds_test", directory, "ipc", to_hex(exported.handle), std::to_string(exported.offset)};
  Child child = start(arguments, {});
  CHECK_EQ(output_of(child), "exchanged\n");
  std::vector<uint8_t> back(4096);
  CHECK(devices().copy_to_host(0, back.data(), memory->address() + 8192, 4096, failure));
  CHECK(back == expected(9999, 4096));
  CHECK_EQ(knobs->get("cuda.count.ipc_open"), 0);
  knobs->set("cuda.fault.range", 1);
  child = start(arguments, {});
  CHECK(output_of(child).find("refused: CUDA_ERROR_UNKNOWN") == 0);
  CHECK_EQ(knobs->get("cuda.count.ipc_open"), 0);
  // Its own process, a handle of nobody, memory that is gone.
  CHECK(devices().ipc_open(exported.handle, 0, failure) == nullptr);
  CHECK_EQ(failure.code, "CUDA_ERROR_INVALID_CONTEXT");
  CHECK(devices().ipc_open({}, 0, failure) == nullptr);
  CHECK_EQ(failure.code, "CUDA_ERROR_INVALID_VALUE");
  memory.reset();
  child = start(arguments, {});
  CHECK(output_of(child).find("refused: CUDA_ERROR_MAP_FAILED: the memory cannot be mapped here") == 0);
  knobs->quiet();
}

// ---- the probe ----

void probes() {
  const std::string folder = directory + "/gds_test." + std::to_string(::getpid());
  const std::string modules = folder + ".modules", with = folder + ".with", node = folder + ".node", configuration = folder + ".json";
  std::ofstream(modules) << "ext4 1 0 - Live 0x0\nnvidia_fsx 1 0 - Live 0x0\n";
  std::ofstream(with) << "ext4 1 0 - Live 0x0\nnvidia_fs 1 0 - Live 0x0\n";
  std::ofstream(node) << "";
  Knobs own(folder + ".control");
  const auto answer = [&](const std::string& of, const std::string& nodes, std::map<std::string, std::string> environment = {}) {
    environment["HICACHE_STAND_IN_CONTROL"] = own.path();
    environment.emplace("CUFILE_ENV_PATH_JSON", "/nonexistent");
    Child child = start({"gds_test", directory, "probe", of, nodes}, environment);
    return output_of(child);
  };
  const auto begins = [](const std::string& text, const std::string& with_what) {
    if (text.rfind(with_what, 0) != 0) check_failed(__FILE__, __LINE__, text);
  };
  const auto has = [](const std::string& text, const char* what) {
    if (text.find(what) == std::string::npos) check_failed(__FILE__, __LINE__, std::string(what).append(" is not in: ").append(text));
  };
  std::string text = answer(folder + ".missing", node);
  begins(text, "unavailable usable=0");
  has(text, "would wait for it without end");
  CHECK_EQ(own.get("cufile.count.open"), 0);
  begins(answer(with, node), "gds usable=1 version=1.15 devices=1 stdin=1\n\n\n");
  text = answer(modules, node);
  begins(text, "compat usable=1");
  has(text, "modprobe nvidia-fs");
  text = answer(with, folder + ".missing");
  begins(text, "compat usable=1");
  has(text, "device nodes");
  std::ofstream(configuration) << "{ // \"force_compat_mode\": false,\n /* \"force_compat_mode\": false */ \"properties\": { \"force_compat_mode\" : true } }";
  text = answer(with, node, {{"CUFILE_ENV_PATH_JSON", configuration}});
  begins(text, "compat usable=1");
  has(text, "forces compatibility mode");
  own.set("cufile.fault.open", 1);
  text = answer(modules, node);
  begins(text, "unavailable usable=0 version=1.15 devices=1");
  has(text, "CU_FILE_DRIVER_NOT_INITIALIZED");
  has(text, "allow_compat_mode");
  own.set("cufile.fault.open_closes", 1);
  begins(answer(with, node), "gds usable=1 version=1.15 devices=1 stdin=1");
  own.set("cuda.fault.no_device", 1);
  text = answer(with, node);
  begins(text, "unavailable usable=0");
  has(text, "CUDA_ERROR_NO_DEVICE");
  has(text, "CUDA_VISIBLE_DEVICES");
  for (const char* call : {"init", "device_count", "device_get"}) {
    own.set(std::string("cuda.fault.").append(call).c_str(), 1);
    begins(answer(with, node), "unavailable usable=0");
  }
  // Another library is not looked for when one is named; one that is none has not all that is needed.
  text = answer(with, node, {{"HICACHE_NIXL_CUFILE_PATH", "/nonexistent/libcufile.so.0"}});
  has(text, "cuFile cannot be loaded: /nonexistent/libcufile.so.0");
  text = answer(with, node, {{"HICACHE_NIXL_CUFILE_PATH", stand_in_path("cuda")}});
  has(text, "has no cuFileDriverOpen");
  text = answer(with, node, {{"HICACHE_NIXL_CUDA_PATH", stand_in_path("cufile")}});
  has(text, "has no cuInit");
  text = answer(with, node, {{"HICACHE_NIXL_CUDA_PATH", "/nonexistent/libcuda.so.1"}});
  has(text, "the CUDA driver cannot be loaded");
  // A driver that never opens: whoever waits for the probe ends it.
  own.set("cufile.fault.open_hang", 1);
  Child child = start({"gds_test", directory, "probe", with, node}, {{"HICACHE_STAND_IN_CONTROL", own.path()}});
  own.await("cufile.count.hanging", 1);
  CHECK_EQ(::kill(child.pid, SIGKILL), 0);
  int code = 0;
  CHECK_EQ(output_of(child, &code), "");
  CHECK_EQ(code, -SIGKILL);
  for (const std::string& file : {modules, with, node, configuration}) ::unlink(file.c_str());
}

// ---- the engines ----

enum class Which { threads, batch };

struct Settings {
  unsigned threads = 4;
  unsigned pool = 4, limit = 16;
  size_t most = 256 << 10;
};

struct Job {
  IoRequest request;
  size_t device_bytes = 0, at = 0;
  AlignedBuffer tail;
  std::string name;
  int completions = 0;
};

class Bench final : public Sink {
 public:
  static constexpr size_t device_bytes = 24 << 20;

  Bench(Which which, bool direct, const Settings& settings = {}, int device = 1) : direct_(direct) {
    alive++;
    std::string reason, remedy;
    engine = which == Which::threads ? cufile::try_create_cufile_threads({settings.threads, settings.most}, reason, remedy)
                                     : cufile::try_create_cufile_batch({settings.pool, settings.limit, settings.most}, reason, remedy);
    if (engine == nullptr) check_failed(__FILE__, __LINE__, reason + " " + remedy);
    cuda::Failure failure;
    memory = devices().allocate(device, device_bytes, failure);
    CHECK(memory != nullptr);
    region.address = reinterpret_cast<uint8_t*>(memory->address());
    region.length = device_bytes;
    region.kind = MemoryKind::device;
    region.device = device;
  }
  ~Bench() {
    CHECK_EQ(engine->in_flight(), 0u);
    for (auto& job : jobs) CHECK_EQ(job->completions, 1);
    fault::clear();
    knobs->quiet();
    engine.reset();
    if (--alive == 0) CHECK_EQ(knobs->get("cufile.count.batches"), 0);
    CHECK_EQ(knobs->get("cufile.count.in_flight"), 0);
  }
  void completed(IoRequest* request) override {
    for (auto& job : jobs) {
      if (&job->request != request) continue;
      CHECK_EQ(++job->completions, 1);
      return;
    }
    CHECK(false);
  }
  UniqueFd file(size_t bytes = 0) {
    const std::string path = directory + "/gds_test.data." + std::to_string(::getpid());
    {
      const UniqueFd plain(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
      const std::vector<uint8_t> content = expected(0, bytes);
      CHECK_EQ(::write(plain.get(), content.data(), bytes), static_cast<ssize_t>(bytes));
    }
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | (direct_ ? O_DIRECT : 0)));
    CHECK(fd.get() >= 0);
    ::unlink(path.c_str());
    return fd;
  }
  // `tail`: bytes of the second buffer, which is memory of our own.
  Job& submit(IoRequest::Kind kind, int fd, uint64_t offset, size_t bytes, size_t tail = 0) {
    jobs.push_back(std::make_unique<Job>());
    Job& job = *jobs.back();
    job.name = "page-" + std::to_string(jobs.size() - 1);
    job.device_bytes = bytes;
    job.at = used_;
    used_ += round_up(bytes, 512);
    CHECK(used_ <= device_bytes);
    cuda::Failure failure;
    const std::vector<uint8_t> content = kind == writing ? expected(offset, bytes) : std::vector<uint8_t>(bytes, 0xee);
    CHECK(devices().copy_to_device(region.device, memory->address() + job.at, content.data(), bytes, failure));
    job.request.kind = kind;
    job.request.fd = fd;
    job.request.offset = offset;
    job.request.name = job.name.c_str();
    job.request.region = &region;
    job.request.iov_count = tail > 0 ? 2 : 1;
    job.request.iov[0] = {region.address + job.at, bytes};
    if (tail > 0) {
      job.tail = AlignedBuffer(tail);
      const std::vector<uint8_t> own = kind == writing ? expected(offset + bytes, tail) : std::vector<uint8_t>(tail, 0xee);
      std::memcpy(job.tail.data(), own.data(), tail);
      job.request.iov[1] = {job.tail.data(), tail};
    }
    engine->submit(&job.request);
    return job;
  }
  // What lies in the device, and behind it in the tail, against the file's content.
  bool holds(const Job& job, uint64_t offset, size_t bytes) {
    std::vector<uint8_t> content(job.device_bytes);
    cuda::Failure failure;
    CHECK(devices().copy_to_host(region.device, content.data(), memory->address() + job.at, job.device_bytes, failure));
    for (size_t i = 0; i < bytes; i++) {
      const uint8_t found = i < job.device_bytes ? content[i] : job.tail.data()[i - job.device_bytes];
      if (found != byte_at(offset + i)) return false;
    }
    // And nothing beyond.
    for (size_t i = bytes; i < job.device_bytes; i++) {
      if (content[i] != 0xee) return false;
    }
    return true;
  }
  void run() {
    engine->flush(*this);
    drain();
  }
  void drain(size_t leave = 0) {
    while (engine->in_flight() > leave) {
      pollfd event{engine->event_fd(), POLLIN, 0};
      CHECK(::poll(&event, 1, patience_ms) == 1 || errno == EINTR);
      engine->reap(*this);
    }
  }
  void fresh() { used_ = 0; }

  std::unique_ptr<Engine> engine;
  std::shared_ptr<cuda::DeviceMemory> memory;
  Region region;
  std::vector<std::unique_ptr<Job>> jobs;

 private:
  static inline int alive = 0;
  const bool direct_;
  size_t used_ = 0;
};

bool same_file(int fd, size_t bytes) {
  std::vector<uint8_t> content(bytes);
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  const UniqueFd plain(::open(path, O_RDONLY | O_CLOEXEC));
  CHECK_EQ(::pread(plain.get(), content.data(), bytes, 0), static_cast<ssize_t>(bytes));
  return content == expected(0, bytes);
}

void moves_every_size(Which which, bool direct) {
  Bench bench(which, direct);
  UniqueFd fd = bench.file();
  const std::vector<size_t> sizes = direct ? std::vector<size_t>{4096, 8192, 65536, 1 << 20} : std::vector<size_t>{1, 511, 4096, 4097, 65536, 100003, 1000001};
  std::vector<std::pair<size_t, size_t>> places;
  size_t offset = 0;
  for (size_t i = 0; i < 120; i++) {
    const size_t bytes = sizes[i % 24 == 23 ? sizes.size() - 1 : i % (sizes.size() - 1)];
    bench.submit(writing, fd.get(), offset, bytes, i % 3 == 0 ? 4096 : 0);
    places.push_back({offset, bytes});
    offset += bytes + (i % 3 == 0 ? 4096 : 0);
  }
  CHECK_EQ(bench.engine->in_flight(), 120u);
  bench.run();
  for (const auto& job : bench.jobs) CHECK_EQ(job->request.result, static_cast<int64_t>(job->request.bytes()));
  CHECK(same_file(fd.get(), offset));
  bench.fresh();
  for (size_t i = 0; i < 120; i++) bench.submit(reading, fd.get(), places[i].first, places[i].second, i % 3 == 0 ? 4096 : 0);
  bench.run();
  for (size_t i = 0; i < 120; i++) {
    const Job& job = *bench.jobs[120 + i];
    CHECK_EQ(job.request.result, static_cast<int64_t>(job.request.bytes()));
    CHECK(bench.holds(job, places[i].first, job.request.bytes()));
  }
  CHECK_EQ(knobs->get("cufile.count.handles"), 0);
}

void unaligned_places_of_direct_files(Which which) {
  Bench bench(which, true);
  UniqueFd fd = bench.file(300000);
  Job& odd = bench.submit(reading, fd.get(), 4099, 100001);
  Job& end = bench.submit(reading, fd.get(), 299999, 100);
  Job& write = bench.submit(writing, fd.get(), 300000, 4095);
  bench.engine->flush(bench);
  bench.drain();
  CHECK_EQ(odd.request.result, 100001);
  CHECK(bench.holds(odd, 4099, 100001));
  // The write beside it may have been sooner.
  CHECK(end.request.result == 1 || end.request.result == 100);
  CHECK_EQ(write.request.result, 4095);
}

void ends_at_the_end_of_the_file(Which which, bool direct) {
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{1536}, size_t{65536}, size_t{262144}, size_t{300000}}) {
    Bench bench(which, direct);
    UniqueFd fd = bench.file(bytes);
    Job& whole = bench.submit(reading, fd.get(), 0, 1 << 20);
    Job& split = bench.submit(reading, fd.get(), 0, 65536, 4096);
    Job& beyond = bench.submit(reading, fd.get(), 2 << 20, 4096);
    bench.run();
    CHECK_EQ(whole.request.result, static_cast<int64_t>(bytes));
    CHECK(bench.holds(whole, 0, bytes));
    const size_t part = std::min<size_t>(bytes, 65536 + 4096);
    CHECK_EQ(split.request.result, static_cast<int64_t>(part));
    CHECK(bench.holds(split, 0, part));
    CHECK_EQ(beyond.request.result, 0);
  }
}

void moves_memory_of_our_own(Which which, bool direct) {
  Bench bench(which, direct);
  UniqueFd fd = bench.file(1 << 20);
  AlignedBuffer first(1 << 19), second(1 << 19);
  const int64_t before = knobs->get("cufile.count.requests");
  for (const Region* region : {static_cast<const Region*>(nullptr), static_cast<const Region*>(&bench.region)}) {
    Region host;
    Job& job = *bench.jobs.emplace_back(std::make_unique<Job>());
    job.request.fd = fd.get();
    job.request.region = region == nullptr ? nullptr : &host;
    job.request.iov_count = 2;
    job.request.iov[0] = {first.data(), first.size()};
    job.request.iov[1] = {second.data(), second.size()};
    std::memset(first.data(), 0, first.size());
    bench.engine->submit(&job.request);
    bench.run();
    CHECK_EQ(job.request.result, 1 << 20);
    CHECK(std::memcmp(first.data(), expected(0, 1 << 19).data(), 1 << 19) == 0);
    CHECK(std::memcmp(second.data(), expected(1 << 19, 1 << 19).data(), 1 << 19) == 0);
  }
  CHECK_EQ(knobs->get("cufile.count.requests"), before);
  Job& empty = bench.submit(reading, fd.get(), 0, 0);
  bench.engine->flush(bench);
  CHECK_EQ(empty.completions, 1);
  CHECK_EQ(empty.request.result, 0);
}

void continues_short_counts(Which which, bool direct) {
  for (int64_t cut : {0, 1, 5000, 65535}) {
    for (int64_t times : {1, 7}) {
      Bench bench(which, direct, {.most = 64 << 10});
      UniqueFd fd = bench.file(1 << 20);
      for (const auto kind : {reading, writing}) {
        knobs->set("cufile.param.short", cut);
        knobs->set("cufile.fault.short", times);
        Job& job = bench.submit(kind, fd.get(), 0, 1 << 18, 4096);
        Job& other = bench.submit(kind, fd.get(), 1 << 19, 1 << 18);
        bench.run();
        CHECK_EQ(knobs->get("cufile.fault.short"), 0);
        for (Job* one : {&job, &other}) {
          CHECK_EQ(one->request.result, static_cast<int64_t>(one->request.bytes()));
          CHECK(bench.holds(*one, one->request.offset, one->request.bytes()));
        }
      }
      CHECK(same_file(fd.get(), 1 << 20));
    }
  }
}

void failing_calls(Which which, bool direct) {
  struct Case {
    const char* knob;
    int64_t value;
    const char* detail;
    int64_t detail_value;
    int64_t result;
  };
  const int64_t all = 65536;
  const std::vector<Case> cases = {
      {"errno", 1, "param.errno", 0, -EIO},         {"errno", 1, "param.errno", ENOSPC, -ENOSPC}, {"errno", 5, "param.errno", EAGAIN, all}, {"errno", -1, "param.errno", EAGAIN, -EAGAIN},
      {"errno", 3, "param.errno", EINTR, all},      {"code", 1, "param.code", 0, -EIO},           {"code", 1, "param.code", 5001, -ENODEV}, {"code", 1, "param.code", 5008, -EOPNOTSUPP},
      {"code", 1, "param.code", 5013, -EFAULT},     {"code", 1, "param.code", 5027, -EOPNOTSUPP}, {"code", 1, "param.code", 5036, -ENOMEM}, {"code", 1, "param.code", 5011, -EIO},
  };
  for (const Case& one : cases) {
    for (const auto kind : {reading, writing}) {
      Bench bench(which, direct);
      UniqueFd fd = bench.file(1 << 20);
      // A batch comes to the plain calls when its entry has failed.
      if (which == Which::batch) knobs->set("cufile.fault.event_failed", 1);
      knobs->set(std::string("cufile.").append(one.detail).c_str(), one.detail_value);
      knobs->set(std::string("cufile.fault.").append(kind == reading ? "read_" : "write_").append(one.knob).c_str(), one.value);
      Job& job = bench.submit(kind, fd.get(), 0, 65536);
      bench.run();
      CHECK_EQ(job.request.result, one.result);
      if (one.result > 0) CHECK(bench.holds(job, 0, 65536));
      else CHECK(!cufile::CufileDriver::instance().latest().what.empty() || one.detail_value == EAGAIN);
      knobs->quiet();
      // The next one is none the worse.
      Job& next = bench.submit(kind, fd.get(), 65536, 65536);
      bench.run();
      CHECK_EQ(next.request.result, 65536);
    }
  }
}

void nothing_and_too_much(Which which, bool direct) {
  for (const char* knob : {"cufile.fault.nothing", "cufile.fault.too_many"}) {
    Bench bench(which, direct);
    UniqueFd fd = bench.file(1 << 20);
    const bool nothing = std::strstr(knob, "nothing") != nullptr;
    knobs->set(knob, 1);
    Job& read_job = bench.submit(reading, fd.get(), 0, 65536);
    bench.run();
    // A batch's entry that says what cannot be is done once more.
    CHECK_EQ(read_job.request.result, nothing ? 0 : which == Which::batch ? 65536 : -EIO);
    knobs->set(knob, 1);
    Job& write_job = bench.submit(writing, fd.get(), 0, 65536);
    bench.run();
    CHECK_EQ(write_job.request.result, which == Which::batch ? 65536 : -EIO);
    knobs->set(knob, which == Which::batch ? 2 : 1);
    Job& again = bench.submit(writing, fd.get(), 0, 65536);
    bench.run();
    CHECK_EQ(again.request.result, -EIO);
  }
}

void registrations_fail(Which which) {
  Bench bench(which, false);
  UniqueFd fd = bench.file(1 << 20);
  knobs->set("cufile.fault.handle_register", -1);
  Job& job = bench.submit(reading, fd.get(), 0, 65536, 4096);
  bench.run();
  CHECK_EQ(job.request.result, -EOPNOTSUPP);
  const cuda::Failure latest = cufile::CufileDriver::instance().latest();
  CHECK_EQ(latest.code, "CU_FILE_HANDLE_NOT_REGISTERED");
  CHECK(latest.remedy.find("/run/udev/data/b") != std::string::npos);
  knobs->quiet();
  UniqueFd closed(::dup(fd.get()));
  const int number = closed.get();
  closed.reset();
  Job& none = bench.submit(reading, number, 0, 65536);
  bench.run();
  CHECK_EQ(none.request.result, -EBADF);
  knobs->set("cuda.fault.set_current", -1);
  Bench other(which, false);
  Job& without = other.submit(reading, fd.get(), 0, 65536);
  other.run();
  CHECK_EQ(without.request.result, -EIO);
  knobs->quiet();
  Job& fine = other.submit(reading, fd.get(), 0, 65536);
  other.run();
  CHECK_EQ(fine.request.result, 65536);
  CHECK_EQ(knobs->get("cufile.count.handles"), 0);
}

void devices_side_by_side(Which which) {
  Bench bench(which, false);
  cuda::Failure failure;
  auto other = devices().allocate(0, 1 << 20, failure);
  Region region;
  region.address = reinterpret_cast<uint8_t*>(other->address());
  region.length = 1 << 20;
  region.kind = MemoryKind::device;
  UniqueFd fd = bench.file(1 << 20);
  for (int round = 0; round < 4; round++) {
    for (size_t i = 0; i < 16; i++) {
      Job& job = bench.submit(reading, fd.get(), i * 65536, 65536);
      if (i % 2 == 0) continue;
      job.request.region = &region;
      job.request.iov[0].iov_base = region.address + i * 65536;
    }
    bench.run();
    for (size_t i = 0; i < 16; i++) {
      const Job& job = *bench.jobs[bench.jobs.size() - 16 + i];
      CHECK_EQ(job.request.result, 65536);
      if (i % 2 == 0) CHECK(bench.holds(job, i * 65536, 65536));
      if (i % 2 == 0) continue;
      std::vector<uint8_t> content(65536);
      CHECK(devices().copy_to_host(0, content.data(), other->address() + i * 65536, 65536, failure));
      CHECK(content == expected(i * 65536, 65536));
    }
  }
}

void uses_registrations_that_are_there(Which which) {
  Bench bench(which, false);
  cufile::CufileDriver& driver = cufile::CufileDriver::instance();
  cuda::Failure failure;
  UniqueFd fd = bench.file(1 << 20);
  auto handle = driver.register_file(fd.get(), failure);
  CHECK(handle != nullptr);
  CHECK(driver.register_file(fd.get(), failure) == handle);
  auto buffer = driver.register_buffer(1, bench.memory->address(), Bench::device_bytes, failure);
  CHECK(buffer != nullptr);
  CHECK(driver.register_buffer(1, bench.memory->address(), 4096, failure) == nullptr);
  CHECK_EQ(failure.code, "CU_FILE_ALREADY_REGISTERED");
  CHECK(!driver.close(failure));
  CHECK_EQ(failure.code, "IN_USE");
  for (size_t i = 0; i < 8; i++) bench.submit(reading, fd.get(), i * 65536, 65536);
  bench.run();
  for (auto& job : bench.jobs) CHECK(bench.holds(*job, job->request.offset, 65536));
  CHECK_EQ(knobs->get("cufile.count.handles"), 1);
  CHECK_EQ(knobs->get("cufile.count.buffers"), 1);
  buffer.reset();
  // The number stands for another file all at once: nothing is moved, rather than the wrong bytes.
  UniqueFd kept(::dup(fd.get())), wrong = bench.file(4096);
  CHECK(::dup3(wrong.get(), fd.get(), O_CLOEXEC) >= 0);
  Job& stale = bench.submit(reading, fd.get(), 0, 4096);
  bench.run();
  CHECK_EQ(stale.request.result, -EBADF);
  CHECK(::dup3(kept.get(), fd.get(), O_CLOEXEC) >= 0);
  handle.reset();
  CHECK_EQ(knobs->get("cufile.count.handles"), 0);
  CHECK_EQ(knobs->get("cufile.count.buffers"), 0);
  knobs->set("cufile.fault.buffer_register", 1);
  CHECK(driver.register_buffer(1, bench.memory->address(), 4096, failure) == nullptr);
  CHECK_EQ(failure.code, "CU_FILE_GPU_MEMORY_PINNING_FAILED");
  AlignedBuffer host(4096);
  CHECK(driver.register_buffer(1, reinterpret_cast<uint64_t>(host.data()), 4096, failure) == nullptr);
  CHECK_EQ(failure.code, "CU_FILE_CUDA_MEMORY_TYPE_INVALID");
  CHECK(driver.register_buffer(0, bench.memory->address(), 4096, failure) == nullptr);
  CHECK_EQ(failure.code, "CU_FILE_CUDA_DRIVER_ERROR");
  CHECK(driver.register_buffer(9, bench.memory->address(), 4096, failure) == nullptr);
  // Many threads, one descriptor: it is registered once at a time.
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; round++) {
        cuda::Failure own;
        CHECK(driver.register_file(kept.get(), own) != nullptr);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(knobs->get("cufile.count.handles"), 0);
}

// Until somebody frees them, requests wait in the library.
void keeps_so_many_in_flight() {
  for (unsigned count : {1u, 4u, 9u}) {
    Bench bench(Which::threads, false, {.threads = count, .most = 64 << 10});
    UniqueFd fd = bench.file(2 << 20);
    knobs->set("cufile.param.hold", 1);
    knobs->set("cufile.count.in_flight_max", 0);
    // One page is enough: it is split.
    bench.submit(reading, fd.get(), 0, 1 << 20, 4096);
    for (size_t i = 0; i < 12; i++) bench.submit(reading, fd.get(), i * 65536, 65536);
    bench.engine->flush(bench);
    knobs->await("cufile.count.in_flight", count);
    CHECK_EQ(bench.engine->in_flight(), 13u);
    knobs->set("cufile.param.hold", 0);
    bench.drain();
    CHECK_EQ(knobs->get("cufile.count.in_flight_max"), static_cast<int64_t>(count));
    for (auto& job : bench.jobs) CHECK(bench.holds(*job, job->request.offset, job->request.bytes()));
  }
}

void cancels(Which which) {
  Bench bench(which, false, {.threads = 2, .pool = 1, .limit = 4, .most = 64 << 10});
  UniqueFd fd = bench.file(2 << 20);
  // Not flushed.
  Job& first = bench.submit(reading, fd.get(), 0, 65536);
  bench.engine->cancel(&first.request, bench);
  CHECK_EQ(first.completions, 1);
  CHECK_EQ(first.request.result, -ECANCELED);
  knobs->set("cufile.param.hold", 1);
  const unsigned busy = which == Which::threads ? 2 : 4;
  Job& running = bench.submit(reading, fd.get(), 0, 65536 * busy);
  bench.engine->flush(bench);
  knobs->await("cufile.count.in_flight", busy);
  Job& queued = bench.submit(reading, fd.get(), 0, 131072, 4096);
  Job& kept = bench.submit(reading, fd.get(), 65536, 65536);
  bench.engine->flush(bench);
  // A second buffer may be under way already; a request of the device's alone is not.
  Job& plain = bench.submit(writing, fd.get(), 0, 65536);
  bench.engine->flush(bench);
  bench.engine->cancel(&plain.request, bench);
  CHECK_EQ(plain.completions, 1);
  CHECK_EQ(plain.request.result, -ECANCELED);
  bench.engine->cancel(&queued.request, bench);
  bench.engine->cancel(&running.request, bench);
  bench.engine->cancel(&running.request, bench);
  // What the library has it keeps until it is through.
  CHECK_EQ(running.completions, 0);
  knobs->set("cufile.param.hold", 0);
  bench.drain();
  CHECK_EQ(queued.request.result, -ECANCELED);
  CHECK(running.request.result == -ECANCELED || running.request.result == static_cast<int64_t>(65536 * busy));
  CHECK_EQ(kept.request.result, 65536);
  CHECK(bench.holds(kept, 65536, 65536));
  bench.engine->cancel(&kept.request, bench);
  CHECK_EQ(knobs->get("cufile.count.handles"), 0);
}

void withheld_completions(Which which) {
  Bench bench(which, false);
  UniqueFd fd = bench.file(1 << 20);
  fault::set({{.point = "cufile.complete", .match = "page-0", .hang = true},
              {.point = "cufile.complete", .match = "page-1", .short_bytes = 1000},
              {.point = "cufile.complete", .match = "page-2", .times = 2, .error = EIO}});
  Job& hung = bench.submit(reading, fd.get(), 0, 65536);
  Job& cut = bench.submit(reading, fd.get(), 65536, 65536);
  Job& failed = bench.submit(reading, fd.get(), 0, 65536);
  for (size_t i = 3; i < 9; i++) bench.submit(reading, fd.get(), i * 65536, 65536);
  bench.engine->flush(bench);
  bench.drain(1);
  CHECK_EQ(hung.completions, 0);
  CHECK_EQ(cut.request.result, 65536);
  CHECK(bench.holds(cut, 65536, 65536));
  CHECK_EQ(failed.request.result, -EIO);
  fault::clear();
  bench.drain();
  CHECK_EQ(hung.request.result, 65536);
  CHECK(bench.holds(hung, 0, 65536));
}

// ---- batches alone ----

void failed_entries_are_tried_again() {
  for (int64_t status : {0x40, 0x20, 0x08, 0x04, 0x50}) {
    for (const auto kind : {reading, writing}) {
      Bench bench(Which::batch, false, {.pool = 2, .limit = 4, .most = 64 << 10});
      UniqueFd fd = bench.file(1 << 20);
      knobs->set("cufile.param.status", status);
      knobs->set("cufile.fault.event_failed", 3);
      const int64_t made = knobs->get("cufile.count.batches_made");
      for (size_t i = 0; i < 16; i++) bench.submit(kind, fd.get(), i * 65536, 65536);
      bench.run();
      CHECK_EQ(knobs->get("cufile.fault.event_failed"), 0);
      for (auto& job : bench.jobs) {
        CHECK_EQ(job->request.result, 65536);
        CHECK(bench.holds(*job, job->request.offset, 65536));
      }
      CHECK(same_file(fd.get(), 1 << 20));
      // Those that failed are not used again.
      CHECK(knobs->get("cufile.count.batches_made") > made || knobs->get("cufile.count.batches") < 2);
    }
  }
}

void strange_answers() {
  for (const char* knob : {"event_negative", "event_waiting", "event_twice", "event_unknown", "partial_status", "batch_status", "batch_setup", "batch_submit"}) {
    for (int64_t times : {1, 3, -1}) {
      if (times < 0 && std::strncmp(knob, "event", 5) == 0 && std::strcmp(knob, "event_negative") != 0 && std::strcmp(knob, "event_waiting") != 0) continue;
      test_context() = std::string(knob).append(" ").append(std::to_string(times));
      Bench bench(Which::batch, false, {.pool = 2, .limit = 8, .most = 64 << 10});
      UniqueFd fd = bench.file(1 << 20);
      knobs->set(std::string("cufile.fault.").append(knob).c_str(), times);
      for (const auto kind : {reading, writing}) {
        bench.fresh();
        for (size_t i = 0; i < 16; i++) bench.submit(kind, fd.get(), i * 65536, 65536);
        bench.run();
      }
      for (auto& job : bench.jobs) CHECK_EQ(job->request.result, 65536);
      for (size_t i = 16; i < 32; i++) CHECK(bench.holds(*bench.jobs[i], bench.jobs[i]->request.offset, 65536));
      CHECK(same_file(fd.get(), 1 << 20));
    }
  }
  // A batch that is full: what did not fit goes another way.
  Bench bench(Which::batch, false);
  UniqueFd fd = bench.file(1 << 20);
  knobs->set("cufile.param.code", 5037);
  knobs->set("cufile.fault.batch_submit", 2);
  for (size_t i = 0; i < 16; i++) bench.submit(reading, fd.get(), i * 65536, 65536);
  bench.run();
  for (auto& job : bench.jobs) CHECK(bench.holds(*job, job->request.offset, 65536));
}

void waits_for_a_batch() {
  Bench bench(Which::batch, false, {.pool = 3, .limit = 2, .most = 64 << 10});
  UniqueFd fd = bench.file(4 << 20);
  knobs->set("cufile.count.batches_in_use_max", 0);
  const int64_t made = knobs->get("cufile.count.batches_made");
  for (int round = 0; round < 4; round++) {
    bench.fresh();
    for (size_t i = 0; i < 40; i++) bench.submit(reading, fd.get(), i * 65536, 65536);
    bench.run();
    for (size_t i = bench.jobs.size() - 40; i < bench.jobs.size(); i++) CHECK(bench.holds(*bench.jobs[i], bench.jobs[i]->request.offset, 65536));
  }
  CHECK(knobs->get("cufile.count.batches_in_use_max") <= 3);
  CHECK(knobs->get("cufile.count.batches_made") - made <= 2);
}

void limits_of_the_library() {
  std::string reason, remedy;
  knobs->set("cufile.param.batch_max", 128);
  CHECK(cufile::try_create_cufile_batch({.batch_limit = 4096}, reason, remedy) != nullptr);
  knobs->set("cufile.param.batch_max", 8);
  CHECK(cufile::try_create_cufile_batch({.batch_limit = 4096}, reason, remedy) == nullptr);
  CHECK(reason.find("setting up a batch of 128") != std::string::npos);
  CHECK(remedy.find("lower batch_limit") == 0);
  CHECK(cufile::try_create_cufile_batch({.batch_limit = 8}, reason, remedy) != nullptr);
  knobs->quiet();
  CHECK_EQ(knobs->get("cufile.count.batches"), 0);
}

// All of a batch's requests are given up: the library is asked to let go of those that have not begun.
void cancels_whole_batches() {
  Bench bench(Which::batch, false, {.pool = 1, .limit = 16, .most = 64 << 10});
  UniqueFd fd = bench.file(1 << 20);
  for (bool refuses : {false, true}) {
    bench.fresh();
    if (refuses) knobs->set("cufile.fault.batch_cancel", 1);
    knobs->set("cufile.param.hold", 1);
    const int64_t before = knobs->get("cufile.count.canceled");
    const size_t first = bench.jobs.size();
    for (size_t i = 0; i < 16; i++) bench.submit(reading, fd.get(), i * 65536, 65536);
    bench.engine->flush(bench);
    knobs->await("cufile.count.in_flight", 4);
    for (size_t i = first; i < first + 16; i++) bench.engine->cancel(&bench.jobs[i]->request, bench);
    if (refuses) knobs->await("cufile.fault.batch_cancel", 0);
    else knobs->await("cufile.count.canceled", before + 12);
    knobs->set("cufile.param.hold", 0);
    bench.drain();
    size_t whole = 0;
    for (size_t i = first; i < first + 16; i++) whole += bench.jobs[i]->request.result == 65536 ? 1 : 0;
    CHECK_EQ(whole, refuses ? 16u : 4u);
  }
}

// Of the stand-in: what the rules that the engines keep are for.
void the_stand_in_has_the_traps() {
  cuda::Failure failure;
  const cufile::Api* const api = cufile::load(failure);
  Bench bench(Which::threads, true);
  UniqueFd fd = bench.file(65536);
  auto handle = cufile::CufileDriver::instance().register_file(fd.get(), failure);
  const int64_t offsets = knobs->get("cufile.count.buffer_offsets");
  cufile::BatchHandle batch = nullptr;
  CHECK_EQ(api->batch_setup(&batch, 4).code, 0);
  AlignedBuffer host(16384);
  std::memset(host.data(), 0, host.size());
  cufile::BatchEntry entry{};
  entry.mode = 1;
  entry.base = host.data();
  entry.buffer_offset = 8192;
  entry.size = 4096;
  entry.handle = handle->get();
  entry.cookie = host.data();
  CHECK_EQ(api->batch_submit(batch, 1, &entry, 0).code, 0);
  unsigned count = 4;
  cufile::BatchEvent events[4];
  timespec limit{30, 0};
  CHECK_EQ(api->batch_status(batch, 2, &count, events, &limit).code, 5022);
  count = 4;
  CHECK_EQ(api->batch_status(batch, 1, &count, events, &limit).code, 0);
  CHECK_EQ(count, 1u);
  CHECK_EQ(events[0].status, cufile::status::complete);
  CHECK_EQ(events[0].count, 4096);
  CHECK(std::memcmp(host.data(), expected(0, 4096).data(), 4096) == 0);
  CHECK_EQ(host.data()[8192], 0);
  std::vector<cufile::BatchEntry> many(5, entry);
  CHECK_EQ(api->batch_submit(batch, 5, many.data(), 0).code, 5037);
  many[0].handle = host.data();
  CHECK_EQ(api->batch_submit(batch, 1, many.data(), 0).code, 5027);
  api->batch_destroy(batch);
  cufile::Description description{};
  description.type = 1;
  description.file.fd = fd.get();
  cufile::Handle second = nullptr;
  CHECK_EQ(api->handle_register(&second, &description).code, 5023);
  CHECK_EQ(api->driver_open().code, 5026);
  // No context on this thread.
  CHECK_EQ(api->read(handle->get(), bench.region.address, 4096, 0, 0), -5011);
  CHECK_EQ(api->read(host.data(), host.data(), 4096, 0, 0), -5027);
  knobs->set("cufile.count.buffer_offsets", offsets);
}

void a_processor_cannot_touch_it() {
  cuda::Failure failure;
  auto memory = devices().allocate(0, 4096, failure);
  // The kernel does not, either.
  int ends[2];
  CHECK_EQ(::pipe(ends), 0);
  CHECK_EQ(::write(ends[1], reinterpret_cast<void*>(memory->address()), 16), -1);
  CHECK_EQ(errno, EFAULT);
  ::close(ends[0]);
  ::close(ends[1]);
}

void opens_again() {
  cufile::CufileDriver& driver = cufile::CufileDriver::instance();
  cuda::Failure failure;
  CHECK(driver.close(failure));
  CHECK(driver.close(failure));
  CHECK_EQ(knobs->get("cufile.count.open"), 0);
  CHECK(driver.register_file(0, failure) == nullptr);
  CHECK_EQ(failure.code, "CU_FILE_DRIVER_NOT_INITIALIZED");
  std::string reason, remedy;
  for (int64_t code : {5001, 5007, 5033, 5999}) {
    knobs->set("cufile.param.code", code);
    knobs->set("cufile.fault.open", 1);
    CHECK(cufile::try_create_cufile_threads({}, reason, remedy) == nullptr);
    CHECK(reason.find("opening cuFile's driver failed") == 0);
    CHECK(!remedy.empty());
    CHECK(cufile::try_create_cufile_batch({}, reason, remedy) != nullptr);
    CHECK(driver.close(failure));
  }
  knobs->quiet();
}

}  // namespace

int main(int argc, char** argv) {
  const char* const temporary = std::getenv("TMPDIR");
  directory = argc > 1 ? argv[1] : temporary != nullptr ? temporary : "/tmp";
  if (argc > 4 && std::strcmp(argv[2], "probe") == 0) return probe_child(argv);
  if (argc > 4 && std::strcmp(argv[2], "ipc") == 0) return ipc_child(argv);
  // What the stand-ins meet must be theirs, whatever the caller's environment says.
  ::setenv("HICACHE_NIXL_CUDA_PATH", stand_in_path("cuda").c_str(), 1);
  ::setenv("HICACHE_NIXL_CUFILE_PATH", stand_in_path("cufile").c_str(), 1);
  Knobs control(directory + "/gds_test.control." + std::to_string(::getpid()));
  ::setenv("HICACHE_STAND_IN_CONTROL", control.path().c_str(), 1);
  knobs = &control;
  const auto run = [](const char* name, const std::function<void()>& test) {
    test_context() = name;
    if (std::getenv("GDS_TEST_TRACE") != nullptr) std::fprintf(stderr, "%s\n", name);
    test();
  };
  // Before there are threads: they start processes.
  run("probes", probes);
  struct statfs system;
  CHECK_EQ(::statfs(directory.c_str(), &system), 0);
  // The real one never takes a tmpfs, and neither does the stand-in if it is not told to.
  control.tmpfs = system.f_type == tmpfs_magic;
  control.set("cuda.param.devices", 2);
  CHECK_EQ(devices().count(), 2);
  CHECK_EQ(devices().name_of(1), "Stand-in device 1");
  CHECK_EQ(devices().driver_version(), 12040);
  control.quiet();
  run("exchanges_memory_with_another_process", exchanges_memory_with_another_process);
  run("finds_what_an_address_is", finds_what_an_address_is);
  run("copies", copies);
  run("each_call_fails", each_call_fails);
  run("a_processor_cannot_touch_it", a_processor_cannot_touch_it);
  for (const Which which : {Which::threads, Which::batch}) {
    const std::string kind = which == Which::threads ? "threads " : "batch ";
    for (const bool direct : {false, true}) {
      const std::string what = std::string(kind).append(direct ? "direct " : "buffered ");
      run((what + "moves_every_size").c_str(), [&] { moves_every_size(which, direct); });
      run((what + "ends_at_the_end_of_the_file").c_str(), [&] { ends_at_the_end_of_the_file(which, direct); });
      run((what + "moves_memory_of_our_own").c_str(), [&] { moves_memory_of_our_own(which, direct); });
      run((what + "continues_short_counts").c_str(), [&] { continues_short_counts(which, direct); });
      run((what + "failing_calls").c_str(), [&] { failing_calls(which, direct); });
      run((what + "nothing_and_too_much").c_str(), [&] { nothing_and_too_much(which, direct); });
    }
    run((kind + "unaligned_places_of_direct_files").c_str(), [&] { unaligned_places_of_direct_files(which); });
    run((kind + "registrations_fail").c_str(), [&] { registrations_fail(which); });
    run((kind + "devices_side_by_side").c_str(), [&] { devices_side_by_side(which); });
    run((kind + "uses_registrations_that_are_there").c_str(), [&] { uses_registrations_that_are_there(which); });
    run((kind + "cancels").c_str(), [&] { cancels(which); });
    run((kind + "withheld_completions").c_str(), [&] { withheld_completions(which); });
  }
  run("keeps_so_many_in_flight", keeps_so_many_in_flight);
  run("failed_entries_are_tried_again", failed_entries_are_tried_again);
  run("strange_answers", strange_answers);
  run("waits_for_a_batch", waits_for_a_batch);
  run("limits_of_the_library", limits_of_the_library);
  run("cancels_whole_batches", cancels_whole_batches);
  run("the_stand_in_has_the_traps", the_stand_in_has_the_traps);
  run("opens_again", opens_again);
  // Nothing is left behind, and no offset was ever left to the library.
  cuda::Failure failure;
  CHECK(devices().release_contexts(failure));
  for (const char* name : {"cuda.count.allocations", "cuda.count.contexts", "cuda.count.registrations", "cuda.count.ipc_open", "cufile.count.handles", "cufile.count.buffers", "cufile.count.batches",
                           "cufile.count.open", "cufile.count.in_flight", "cufile.count.buffer_offsets", "cufile.count.host_requests"}) {
    test_context() = name;
    CHECK_EQ(control.get(name), 0);
  }
  std::puts("gds_test: passed");
  return 0;
}
