// 3FS over a stand-in of its client library ($HICACHE_STAND_INS/libusrbio.so): the engine, shared memory, registrations and the probe, on every path and with every fault that the
// stand-in can inject.
//
//   hf3fs_test DIRECTORY         everything; runs itself again for what needs a process of its own
//   hf3fs_test DIRECTORY CASE    one of those

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "agent/memory_registry.h"
#include "check.h"
#include "plugins/hf3fs/hf3fs_engine.h"
#include "plugins/hf3fs/hf3fs_probe.h"
#include "plugins/hf3fs/registered_file.h"
#include "plugins/hf3fs/shared_arena.h"
#include "plugins/hf3fs/usrbio_api.h"
#include "util/aligned_buffer.h"
#include "util/unique_fd.h"

extern char** environ;

using namespace hicache;

namespace {

constexpr auto reading = IoRequest::Kind::read;
constexpr auto writing = IoRequest::Kind::write;
// For what never ends unless something is wrong.
constexpr int patience_ms = 60000;
constexpr size_t KiB = 1024;

std::string self, files, directory, mount_point;  // directory: of this run; mount_point: the folder in it that the stand-in takes for a 3FS
const hf3fs::Api* api = nullptr;

// ---- the stand-in's controls ----
struct Entry {
  char name[48];
  int64_t value, unused;
};
Entry* entries = nullptr;

void map_controls(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  CHECK(fd && ::ftruncate(fd.get(), 128 * sizeof(Entry)) == 0);
  void* const base = ::mmap(nullptr, 128 * sizeof(Entry), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  CHECK(base != MAP_FAILED);
  entries = static_cast<Entry*>(base);
  ::setenv("HICACHE_STAND_IN_CONTROL", path.c_str(), 1);
}
std::atomic_ref<int64_t> knob(const std::string& name) {
  const std::string whole = "usrbio." + name;
  for (int i = 0; i < 128; i++) {
    if (entries[i].name[0] == '\0') std::memcpy(entries[i].name, whole.c_str(), whole.size());
    if (whole == entries[i].name) return std::atomic_ref<int64_t>(entries[i].value);
  }
  check_failed(__FILE__, __LINE__, "no room for " + whole);
  std::abort();
}
void no_faults() {
  for (int i = 0; i < 128; i++) {
    const std::string name = entries[i].name;
    if (name.rfind("usrbio.fault.", 0) == 0 || name.rfind("usrbio.param.", 0) == 0) std::atomic_ref<int64_t>(entries[i].value) = 0;
  }
}

// By turns, not by the clock: something else runs meanwhile.
void until(const std::function<bool()>& true_at_last) {
  for (int i = 0; i < patience_ms; i++) {
    if (true_at_last()) return;
    ::poll(nullptr, 0, 1);
  }
  check_failed(__FILE__, __LINE__, "waited in vain");
}

// Bytes of any place of a file, by a table that fits no page: comparing must not take longer than moving.
constexpr size_t table_bytes = 65521;
const std::vector<uint8_t>& table() {
  static const std::vector<uint8_t> bytes = [] {
    std::mt19937 random(3);
    std::vector<uint8_t> made(table_bytes);
    for (uint8_t& one : made) one = static_cast<uint8_t>(random());
    return made;
  }();
  return bytes;
}
// Calls part(table, where in the bytes, how many).
template <typename Part>
void in_parts(uint64_t position, size_t bytes, uint32_t seed, Part&& part) {
  for (size_t done = 0; done < bytes;) {
    const size_t from = (position + done + seed * 40503ull) % table_bytes, count = std::min(bytes - done, table_bytes - from);
    part(table().data() + from, done, count);
    done += count;
  }
}
void fill(uint8_t* memory, uint64_t position, size_t bytes, uint32_t seed) {
  in_parts(position, bytes, seed, [&](const uint8_t* from, size_t at, size_t count) { std::memcpy(memory + at, from, count); });
}
bool same(const uint8_t* memory, uint64_t position, size_t bytes, uint32_t seed) {
  bool equal = true;
  in_parts(position, bytes, seed, [&](const uint8_t* from, size_t at, size_t count) { equal = equal && std::memcmp(memory + at, from, count) == 0; });
  return equal;
}

struct Job {
  IoRequest request;
  std::vector<uint8_t> own, tail;  // when the memory is not somebody else's
  uint64_t offset = 0;
  size_t bytes = 0;
  int completions = 0;

  uint8_t& at(size_t i) {
    const size_t first = request_iov[0].iov_len;
    return static_cast<uint8_t*>(i < first ? request_iov[0].iov_base : request_iov[1].iov_base)[i < first ? i : i - first];
  }
  bool holds(size_t count, uint32_t seed = 7) {
    const size_t first = std::min(count, request_iov[0].iov_len);
    return same(static_cast<uint8_t*>(request_iov[0].iov_base), offset, first, seed) && same(static_cast<uint8_t*>(request_iov[1].iov_base), offset + first, count - first, seed);
  }
  iovec request_iov[2] = {};
};

struct Bench final : Sink {
  std::unique_ptr<hf3fs::Hf3fsEngine> engine;
  std::vector<std::unique_ptr<Job>> jobs;
  std::function<void(Job&)> then;
  size_t completions = 0;

  explicit Bench(const hf3fs::Options& options) {
    std::string reason, remedy;
    engine = hf3fs::try_create_engine(options, reason, remedy);
    if (engine == nullptr) check_failed(__FILE__, __LINE__, reason + " " + remedy);
  }
  ~Bench() {
    CHECK_EQ(engine->in_flight(), 0u);
    for (const auto& job : jobs) CHECK_EQ(job->completions, 1);
    engine.reset();
    no_faults();
  }
  void completed(IoRequest* request) override {
    for (const auto& job : jobs) {
      if (&job->request != request) continue;
      CHECK_EQ(++job->completions, 1);
      completions++;
      if (then) then(*job);
      return;
    }
    check_failed(__FILE__, __LINE__, "a request that nobody submitted");
  }
  // In ordinary memory, or at `memory` of `region`.
  Job& add(IoRequest::Kind kind, int fd, uint64_t offset, size_t bytes, size_t tail = 0, const Region* region = nullptr, uint8_t* memory = nullptr, uint32_t seed = 7) {
    jobs.push_back(std::make_unique<Job>());
    Job& job = *jobs.back();
    if (memory == nullptr) job.own.resize(bytes - tail);
    job.tail.resize(tail);
    job.offset = offset;
    job.bytes = bytes;
    job.request.kind = kind;
    job.request.fd = fd;
    job.request.offset = offset;
    job.request.region = region;
    job.request.name = "page";
    job.request.iov_count = tail > 0 ? 2 : 1;
    job.request.iov[0] = {memory == nullptr ? job.own.data() : memory, bytes - tail};
    if (tail > 0) job.request.iov[1] = {job.tail.data(), tail};
    std::copy(job.request.iov, job.request.iov + 2, job.request_iov);
    uint64_t at = offset;
    for (const iovec& part : job.request_iov) {
      auto* const memory_of_part = static_cast<uint8_t*>(part.iov_base);
      if (part.iov_len == 0) continue;
      if (kind == writing) fill(memory_of_part, at, part.iov_len, seed);
      else std::memset(memory_of_part, 0xEE, part.iov_len);
      at += part.iov_len;
    }
    return job;
  }
  template <typename... Values>
  Job& submit(Values... values) {
    Job& job = add(values...);
    engine->submit(&job.request);
    return job;
  }
  // As an event loop does it.
  void drain(size_t leave = 0) {
    engine->flush(*this);
    while (engine->in_flight() > leave) {
      pollfd event{engine->event_fd(), POLLIN, 0};
      if (::poll(&event, 1, patience_ms) == 0) check_failed(__FILE__, __LINE__, "nothing was handed back");
      engine->reap(*this);
    }
  }
  void drain_one(Job& job) {
    engine->flush(*this);
    while (job.completions == 0) {
      pollfd event{engine->event_fd(), POLLIN, 0};
      if (::poll(&event, 1, patience_ms) == 0) check_failed(__FILE__, __LINE__, "nothing was handed back");
      engine->reap(*this);
    }
  }
};

UniqueFd make_file(size_t bytes, uint32_t seed = 7, int mode = O_RDWR) {
  static std::atomic<int> number{0};
  const std::string path = mount_point + "/file" + std::to_string(number++);
  const UniqueFd plain(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  std::vector<uint8_t> content(bytes);
  fill(content.data(), 0, bytes, seed);
  CHECK(plain && ::write(plain.get(), content.data(), bytes) == static_cast<ssize_t>(bytes));
  UniqueFd fd(::open(path.c_str(), mode | O_CLOEXEC));
  CHECK(fd);
  ::unlink(path.c_str());
  return fd;
}
bool file_holds(int fd, uint64_t offset, size_t bytes, uint32_t seed = 7) {
  std::vector<uint8_t> content(bytes);
  if (::pread(fd, content.data(), bytes, static_cast<off_t>(offset)) != static_cast<ssize_t>(bytes)) return false;
  return same(content.data(), offset, bytes, seed);
}

hf3fs::Options options_of(hf3fs::MemConfig config = hf3fs::MemConfig::automatic) {
  hf3fs::Options options;
  options.mount_point = mount_point;
  options.mem_config = config;
  options.slot_bytes = 64 * KiB;
  options.queue_depth = 16;
  options.timeout_ms = patience_ms;
  return options;
}
// Requests that hang are given up soon.
hf3fs::Options impatient(hf3fs::MemConfig config = hf3fs::MemConfig::automatic) {
  hf3fs::Options options = options_of(config);
  options.timeout_ms = 40;
  options.grace_ms = 20;
  options.retry_ms = 20;
  return options;
}

struct Arena {
  std::shared_ptr<hf3fs::SharedArena> memory;
  Region region;

  explicit Arena(size_t bytes, size_t block_bytes = 0) {
    Refusal refusal;
    memory = hf3fs::SharedArena::create(mount_point, bytes, block_bytes, refusal);
    if (memory == nullptr) check_failed(__FILE__, __LINE__, refusal.reason);
    region.address = memory->base();
    region.length = bytes;
    region.kind = MemoryKind::shared;
    region.owner = memory;
  }
};

// ---- tests ----

void says_what_is_missing() {
  Refusal refusal;
  ::unsetenv("HICACHE_NIXL_HF3FS_PATH");
  if (hf3fs::load(refusal) != nullptr) check_failed(__FILE__, __LINE__, "a real library would be used: these tests are not for one");
  CHECK(refusal.reason.find("libhf3fs_api_shared.so") != std::string::npos);
  CHECK(refusal.remedy.find("HICACHE_NIXL_HF3FS_PATH") != std::string::npos);
  std::string reason, remedy;
  CHECK(hf3fs::try_create_engine(options_of(), reason, remedy) == nullptr && !reason.empty() && !remedy.empty());
  CHECK(hf3fs::SharedArena::create(mount_point, 4096, 0, refusal) == nullptr);
  CHECK(!hf3fs::probe(mount_point, {}).usable);
  int error = 0;
  CHECK(hf3fs::register_file(0, error) == nullptr && error != 0);
  // A library, but another one.
  ::setenv("HICACHE_NIXL_HF3FS_PATH", "libm.so.6", 1);
  CHECK(hf3fs::load(refusal) == nullptr);
  CHECK(refusal.reason.find("hf3fs_") != std::string::npos);
}

void loads(const char* name) {
  const char* const folder = std::getenv("HICACHE_STAND_INS");
  CHECK(folder != nullptr);
  const std::string path = std::string(folder).append("/").append(name);
  ::setenv("HICACHE_NIXL_HF3FS_PATH", path.c_str(), 1);
  Refusal refusal;
  api = hf3fs::load(refusal);
  if (api == nullptr) check_failed(__FILE__, __LINE__, refusal.reason);
  CHECK(api->path.find(name) != std::string::npos);
  CHECK_EQ(hf3fs::load(refusal), api);
  // Makes the library map its controls.
  CHECK_EQ(api->submit_ios(nullptr), -EINVAL);
}

void finds_mounts() {
  std::string reason;
  CHECK_EQ(hf3fs::mount_point_of(*api, mount_point, reason), mount_point);
  ::mkdir((mount_point + "/below").c_str(), 0700);
  CHECK_EQ(hf3fs::mount_point_of(*api, mount_point + "/below", reason), mount_point);
  CHECK(hf3fs::mount_point_of(*api, directory, reason).empty() && reason.find("3FS") != std::string::npos);
  CHECK(hf3fs::mount_point_of(*api, mount_point + "/nothing", reason).empty() && reason.find("ENOENT") != std::string::npos);
  // What the look before saves us from.
  bool thrown = false;
  try {
    char out[256];
    api->extract_mount_point(out, sizeof out, "/nothing/here");
  } catch (...) {
    thrown = true;
  }
  CHECK(thrown);
}

void refuses_what_cannot_be() {
  std::string reason, remedy;
  hf3fs::Options options = options_of();
  options.mount_point = directory;
  CHECK(hf3fs::try_create_engine(options, reason, remedy) == nullptr && reason.find("3FS") != std::string::npos && !remedy.empty());
  for (const char* fault : {"fault.iov_create", "fault.ring_create"}) {
    knob("param.errno") = ENOMEM;
    knob(fault) = 1;
    reason.clear();
    CHECK(hf3fs::try_create_engine(options_of(), reason, remedy) == nullptr);
    CHECK(reason.find("ENOMEM") != std::string::npos);
    CHECK_EQ(knob(fault).load(), 0);
  }
  Refusal refusal;
  knob("fault.iov_create") = 1;
  CHECK(hf3fs::SharedArena::create(mount_point, 65536, 0, refusal) == nullptr && refusal.reason.find("ENOMEM") != std::string::npos);
  CHECK(hf3fs::SharedArena::create(mount_point, 65537, 65536, refusal) == nullptr);
  CHECK(hf3fs::SharedArena::create(mount_point, 0, 0, refusal) == nullptr);
  CHECK(hf3fs::SharedArena::create(directory, 65536, 0, refusal) == nullptr);
  no_faults();
}

void arenas_are_found() {
  Arena one(1 << 20), two(256 * KiB, 64 * KiB);
  CHECK_EQ(hf3fs::SharedArena::find_around(one.memory->base() + 4096, 4096), one.memory);
  CHECK_EQ(hf3fs::SharedArena::find_around(two.memory->base(), 256 * KiB), two.memory);
  CHECK(hf3fs::SharedArena::find_around(two.memory->base() + 1, 256 * KiB) == nullptr);
  CHECK(hf3fs::SharedArena::find_around(&one, 1) == nullptr);
  CHECK_EQ(knob("count.iovs").load(), 2);
}

void moves_every_size(hf3fs::MemConfig config, bool shared) {
  Bench bench(options_of(config));
  Arena arena(8 << 20);
  UniqueFd fd = make_file(0);
  const size_t sizes[] = {1, 511, 4096, 65535, 65536, 65537, 300001, 1 << 20};
  uint64_t offset = 0;
  size_t used = 0;
  std::vector<std::pair<uint64_t, size_t>> places;
  std::vector<uint8_t*> at;
  for (size_t i = 0; i < 48; i++) {
    const size_t bytes = sizes[i % 8 == 7 && i > 8 ? 5 : i % 8], tail = i % 3 == 0 && bytes > 4096 ? 4096 : 0;
    places.emplace_back(offset, bytes);
    at.push_back(shared ? arena.memory->base() + used : nullptr);
    bench.submit(writing, fd.get(), offset, bytes, tail, shared ? &arena.region : nullptr, at.back());
    offset += bytes;
    used += bytes;
  }
  CHECK(used <= 8 << 20);
  bench.drain();
  for (const auto& job : bench.jobs) CHECK_EQ(job->request.result, static_cast<int64_t>(job->bytes));
  CHECK(file_holds(fd.get(), 0, offset));
  const size_t before = bench.jobs.size();
  for (size_t i = 0; i < places.size(); i++) bench.submit(reading, fd.get(), places[i].first, places[i].second, i % 4 == 0 && places[i].second > 4096 ? 4096 : 0, shared ? &arena.region : nullptr, at[i]);
  bench.drain();
  for (size_t i = before; i < bench.jobs.size(); i++) {
    CHECK_EQ(bench.jobs[i]->request.result, static_cast<int64_t>(bench.jobs[i]->bytes));
    CHECK(bench.jobs[i]->holds(bench.jobs[i]->bytes));
  }
  const hf3fs::Counters counters = bench.engine->counters();
  const bool direct = shared && config != hf3fs::MemConfig::dram;
  CHECK_EQ(counters.zero_copy > 0, direct);
  CHECK_EQ(counters.not_shared, config == hf3fs::MemConfig::dram_zc && !shared ? 96u : 0u);
  CHECK_EQ(knob("count.crossed").load(), 0);
}

void never_crosses_a_block() {
  Bench bench(options_of());
  Arena arena(1 << 20, 64 * KiB);
  UniqueFd fd = make_file(1 << 20);
  for (size_t start : {size_t{0}, size_t{1}, size_t{65535}, size_t{100000}}) {
    Job& job = bench.submit(reading, fd.get(), 5, 500000, 0, &arena.region, arena.memory->base() + start);
    bench.drain();
    CHECK_EQ(job.request.result, 500000);
    CHECK(job.holds(500000));
  }
  CHECK_EQ(knob("count.crossed").load(), 0);
}

void ends_at_the_end_of_the_file(bool shared) {
  Arena arena(1 << 20);
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{10000}, size_t{65536}, size_t{70000}, size_t{131072}}) {
    Bench bench(options_of());
    UniqueFd fd = make_file(bytes);
    Job& whole = bench.submit(reading, fd.get(), 0, 200000, 4096, shared ? &arena.region : nullptr, shared ? arena.memory->base() : nullptr);
    Job& beyond = bench.submit(reading, fd.get(), 1 << 20, 4096);
    Job& empty = bench.submit(reading, fd.get(), 0, 0);
    bench.drain();
    CHECK_EQ(whole.request.result, static_cast<int64_t>(bytes));
    CHECK(whole.holds(bytes));
    CHECK_EQ(beyond.request.result, 0);
    CHECK_EQ(empty.request.result, 0);
  }
}

// Thousands of requests of all kinds, completed out of order and in parts, compared byte by byte.
void random_requests(uint32_t seed, size_t rounds) {
  std::mt19937 random(seed);
  hf3fs::Options options = options_of(seed % 2 ? hf3fs::MemConfig::automatic : hf3fs::MemConfig::dram_zc);
  options.iopool_size = 12;
  Bench bench(options);
  constexpr size_t places = 64, place_bytes = 192 * KiB;
  Arena arena(places * place_bytes, 64 * KiB);
  Region host;  // ordinary memory that was registered
  UniqueFd fd = make_file(places * place_bytes, seed);
  const auto registered = hf3fs::register_file(fd.get());
  std::vector<uint32_t> written(places, seed);
  for (size_t round = 0; round < rounds; round++) {
    bench.jobs.clear();
    std::vector<size_t> used;
    std::vector<uint32_t> seeds;
    for (size_t place = 0; place < places; place++) {
      const bool write = random() % 2 == 0, shared = random() % 2 == 0;
      const size_t bytes = write ? place_bytes : 1 + random() % place_bytes, tail = bytes > 4096 && random() % 3 == 0 ? 4096 : 0;
      if (write) written[place] = static_cast<uint32_t>(random());
      used.push_back(place);
      bench.submit(write ? writing : reading, fd.get(), place * place_bytes, bytes, tail, shared ? &arena.region : &host, shared ? arena.memory->base() + place * place_bytes : nullptr, written[place]);
      if (random() % 8 == 0) bench.engine->flush(bench);
    }
    bench.drain();
    for (size_t i = 0; i < used.size(); i++) {
      CHECK_EQ(bench.jobs[i]->request.result, static_cast<int64_t>(bench.jobs[i]->bytes));
      CHECK(bench.jobs[i]->holds(bench.jobs[i]->bytes, written[used[i]]));
    }
  }
  for (size_t place = 0; place < places; place++) CHECK(file_holds(fd.get(), place * place_bytes, place_bytes, written[place]));
}

void engines_side_by_side() {
  no_faults();
  knob("param.delay_us") = 300;
  knob("fault.short") = 2000;
  knob("fault.wake_early") = 500;
  knob("fault.prep_again") = 300;
  knob("fault.twice") = 20;
  std::thread other([] { random_requests(1, 30); });
  random_requests(2, 30);
  other.join();
  CHECK_EQ(knob("count.crossed").load(), 0);
  // Some deadlines pass before a thread gets its turn; all of them would be a busy wait.
  CHECK(knob("count.past_deadlines").load() * 10 < knob("count.waits").load());
  no_faults();
}

void more_than_fits() {
  hf3fs::Options options = options_of();
  options.iopool_size = 2;
  options.queue_depth = 3;
  Bench bench(options);
  UniqueFd fd = make_file(4 << 20);
  for (size_t i = 0; i < 40; i++) bench.submit(i % 4 == 0 ? writing : reading, fd.get(), i * 65536, 65536);
  CHECK_EQ(bench.engine->in_flight(), 40u);
  bench.drain();
  for (const auto& job : bench.jobs) CHECK(job->request.result == 65536 && job->holds(65536));
}

void bounds_its_memory() {
  hf3fs::Options options = options_of();
  options.iopool_size = 1 << 20;
  options.slot_bytes = 1 << 20;
  options.staging_bytes_max = 4 << 20;
  options.queue_depth = 0;
  Bench bench(options);
  UniqueFd fd = make_file(1 << 20);
  Job& job = bench.submit(reading, fd.get(), 0, 1 << 20);
  bench.drain();
  CHECK(job.request.result == 1 << 20 && job.holds(1 << 20));
}

void failures_are_the_requests_own(bool shared) {
  Arena arena(1 << 20);
  for (const char* fault : {"fault.fail", "fault.prep_fail", "fault.damage", "fault.nothing", "fault.reg"}) {
    for (const auto kind : {reading, writing}) {
      Bench bench(options_of());
      UniqueFd fd = make_file(1 << 20), other_fd = make_file(65536);
      knob("param.errno") = ENOSPC;
      knob(fault) = 1;
      Job& job = bench.submit(kind, fd.get(), 0, 200000, 4096, shared ? &arena.region : nullptr, shared ? arena.memory->base() : nullptr);
      bench.drain();
      const std::string name = fault;
      if (name == "fault.nothing" && kind == reading) CHECK(job.request.result >= 0 && job.request.result < 200000 && job.holds(static_cast<size_t>(job.request.result)));
      else CHECK_EQ(job.request.result, name == "fault.damage" || name == "fault.nothing" ? -EIO : -ENOSPC);
      CHECK_EQ(knob(fault).load(), 0);
      Job& other = bench.submit(reading, other_fd.get(), 0, 65536);
      bench.drain();
      CHECK(other.request.result == 65536 && other.holds(65536));
    }
  }
  // By the real errors of descriptors.
  Bench bench(options_of());
  UniqueFd only_read = make_file(65536, 7, O_RDONLY), only_write = make_file(65536, 7, O_WRONLY);
  CHECK(bench.submit(writing, only_read.get(), 0, 4096).request.result == 0);
  bench.submit(reading, only_write.get(), 0, 4096);
  const UniqueFd outside(::open("/dev/null", O_RDWR | O_CLOEXEC));
  bench.submit(reading, outside.get(), 0, 4096);
  bench.submit(reading, 9999, 0, 4096);
  bench.drain();
  CHECK_EQ(bench.jobs[0]->request.result, -EACCES);
  CHECK_EQ(bench.jobs[1]->request.result, -EACCES);
  CHECK_EQ(bench.jobs[2]->request.result, -EBADF);
  CHECK_EQ(bench.jobs[3]->request.result, -EBADF);
}

void results_that_say_again() {
  for (int error : {EINTR, EAGAIN}) {
    Bench bench(options_of());
    UniqueFd fd = make_file(65536);
    knob("param.errno") = error;
    knob("fault.fail") = 5;
    Job& job = bench.submit(reading, fd.get(), 0, 65536);
    bench.drain();
    CHECK(job.request.result == 65536 && job.holds(65536));
    // But not for ever.
    knob("fault.fail") = -1;
    Job& never = bench.submit(reading, fd.get(), 0, 65536);
    bench.drain();
    CHECK_EQ(never.request.result, -error);
  }
}

void memory_that_cannot_be_touched() {
  Bench bench(options_of());
  UniqueFd fd = make_file(65536);
  Region device, ended;
  device.kind = MemoryKind::device;
  ended.gate.close();
  Job& on_device = bench.submit(reading, fd.get(), 0, 4096, 0, &device);
  Job& read = bench.submit(reading, fd.get(), 0, 65536, 4096, &ended);
  Job& write = bench.submit(writing, fd.get(), 0, 65536, 4096, &ended, nullptr, 8u);
  bench.drain();
  CHECK_EQ(on_device.request.result, -EOPNOTSUPP);
  CHECK_EQ(read.request.result, -ECANCELED);
  CHECK_EQ(write.request.result, -ECANCELED);
  CHECK(file_holds(fd.get(), 0, 65536));
  for (size_t i = 0; i < 65536; i++) CHECK_EQ(read.at(i), 0xEE);
}

void registrations_are_shared() {
  const int64_t before = knob("count.regs");
  UniqueFd fd = make_file(65536);
  {
    Bench bench(options_of());
    const auto registered = hf3fs::register_file(fd.get());
    CHECK(registered != nullptr && registered->fd() == fd.get());
    for (int i = 0; i < 20; i++) bench.submit(reading, fd.get(), 0, 65536);
    bench.drain();
    CHECK_EQ(knob("count.regs").load(), before + 1);
    const auto again = hf3fs::register_file(fd.get());
    CHECK_EQ(knob("count.regs").load(), before + 1);
    CHECK_EQ(knob("count.fds").load(), 1);
  }
  CHECK_EQ(knob("count.fds").load(), 0);
  {
    // Nobody has: the engine does, for as long as it has requests, so that the file can be closed at once.
    Bench bench(options_of());
    for (int i = 0; i < 8; i++) {
      UniqueFd own = make_file(65536);
      Job& job = bench.submit(reading, own.get(), 0, 65536);
      bench.drain();
      CHECK_EQ(job.request.result, 65536);
      CHECK_EQ(knob("count.fds").load(), 0);
    }
  }
  knob("param.errno") = EMFILE;
  knob("fault.reg") = 1;
  int error = 0;
  CHECK(hf3fs::register_file(fd.get(), error) == nullptr);
  CHECK_EQ(error, EMFILE);
  no_faults();
}

// A read in staging memory that hangs: handed back at its deadline, its slot is not used again while the other side may write to it.
void a_staged_read_hangs() {
  hf3fs::Options options = impatient();
  options.grace_ms = patience_ms;
  options.iopool_size = 3;
  Bench bench(options);
  UniqueFd fd = make_file(4 << 20, 7), other = make_file(4 << 20, 99);
  knob("fault.hold") = 1;
  Job& held = bench.submit(reading, fd.get(), 0, 65536);
  bench.drain();
  CHECK_EQ(held.request.result, -ETIMEDOUT);
  CHECK_EQ(bench.engine->counters().quarantined, 1u);
  CHECK_EQ(bench.engine->counters().timed_out, 1u);
  // The file may be closed now.
  fd.reset();
  for (size_t round = 0; round < 6; round++) {
    // In the midst of others, the late one writes.
    if (round == 3) knob("param.release") = 1;
    std::vector<Job*> jobs;
    for (size_t i = 0; i < 20; i++) jobs.push_back(&bench.submit(reading, other.get(), i * 65536, 65536));
    bench.drain();
    for (Job* job : jobs) {
      // A machine that is slow may have them time out, too: late, never wrong.
      CHECK(job->request.result == 65536 || job->request.result == -ETIMEDOUT);
      if (job->request.result == 65536) CHECK(job->holds(65536, 99));
    }
  }
  until([&] { return bench.engine->counters().quarantined == 0; });
  for (size_t i = 0; i < 65536; i++) CHECK_EQ(held.at(i), 0xEE);
}

// Without a copy, and writes: not handed back while the other side may touch what they name.
void others_wait_for_the_other_side(IoRequest::Kind kind, bool shared) {
  hf3fs::Options options = impatient();
  options.grace_ms = patience_ms;
  Bench bench(options);
  Arena arena(1 << 20);
  UniqueFd fd = make_file(1 << 20);
  const auto registered = hf3fs::register_file(fd.get());
  knob("fault.hold") = 1;
  Job& held = bench.submit(kind, fd.get(), 0, 65536, 0, shared ? &arena.region : nullptr, shared ? arena.memory->base() : nullptr);
  bench.engine->flush(bench);
  until([&] { return bench.engine->counters().timed_out == 1; });
  // A turn later it is still away.
  CHECK(!bench.engine->wait(bench, 20));
  CHECK_EQ(bench.engine->in_flight(), 1u);
  knob("param.release") = 1;
  bench.drain();
  CHECK_EQ(held.request.result, -ETIMEDOUT);
  // What it was is what happened to it at last: nothing comes later.
  if (kind == writing) CHECK(file_holds(fd.get(), 0, 65536));
  else CHECK(held.holds(65536));
}

// Requests that hang for good: the ring is ended, made anew, and everything that was no part of the trouble is done.
void a_ring_is_made_anew(IoRequest::Kind kind, bool shared) {
  hf3fs::Options options = impatient();
  options.timeout_ms = 300;
  Bench bench(options);
  Arena arena(8 << 20);
  UniqueFd fd = make_file(8 << 20);
  const int64_t rings = knob("count.rings_made"), dropped = knob("count.dropped");
  knob("fault.hang") = 1;
  Job& hung = bench.submit(kind, fd.get(), 0, 65536, 0, shared ? &arena.region : nullptr, shared ? arena.memory->base() : nullptr);
  bench.engine->flush(bench);
  until([] { return knob("fault.hang") == 0; });
  for (size_t i = 1; i < 40; i++) bench.submit(kind, fd.get(), i * 65536, 65536, 0, shared ? &arena.region : nullptr, shared ? arena.memory->base() + i * 65536 : nullptr);
  bench.drain();
  CHECK_EQ(hung.request.result, -ETIMEDOUT);
  for (size_t i = 1; i < 40; i++) CHECK(bench.jobs[i]->request.result == 65536 && bench.jobs[i]->holds(65536));
  until([&] { return knob("count.rings_made") == rings + 1 && knob("count.dropped") == dropped + 1; });
  Job& later = bench.submit(kind, fd.get(), 0, 65536, 0, shared ? &arena.region : nullptr, shared ? arena.memory->base() : nullptr);
  bench.drain();
  CHECK(later.request.result == 65536 && later.holds(65536));
  CHECK_EQ(bench.engine->counters().renewed, 1u);
  CHECK_EQ(bench.engine->counters().quarantined, 0u);
}

// Innocent requests that are in a ring when it is ended are carried out by the next one.
void what_was_in_the_ring_is_done_again() {
  hf3fs::Options options = impatient();
  options.timeout_ms = 300;
  Bench bench(options);
  Arena arena(1 << 20);
  UniqueFd fd = make_file(1 << 20);
  knob("fault.hang") = 1;
  Job& first = bench.submit(reading, fd.get(), 0, 65536, 0, &arena.region, arena.memory->base());
  bench.engine->flush(bench);
  until([] { return knob("fault.hang") == 0; });
  bench.engine->cancel(&first.request, bench);
  // These hang, too, and are young when the ring ends because of the first.
  knob("fault.hang") = 3;
  for (size_t i = 1; i < 4; i++) bench.submit(reading, fd.get(), i * 65536, 65536, 0, i == 2 ? nullptr : &arena.region, i == 2 ? nullptr : arena.memory->base() + i * 65536);
  bench.drain();
  CHECK_EQ(first.request.result, -ECANCELED);
  for (size_t i = 1; i < 4; i++) {
    const int64_t result = bench.jobs[i]->request.result;
    CHECK(result == 65536 || result == -ETIMEDOUT);
    if (result == 65536) CHECK(bench.jobs[i]->holds(65536));
  }
  CHECK(bench.engine->counters().renewed >= 1);
}

// A file system that does not answer at all: everything ends, and when it answers again all is well.
void nothing_is_ever_answered() {
  Bench bench(impatient());
  Arena arena(1 << 20);
  UniqueFd fd = make_file(1 << 20);
  knob("fault.hang") = -1;
  for (int round = 0; round < 4; round++) {
    for (size_t i = 0; i < 6; i++) {
      const bool shared = i % 2 == 0;
      bench.submit(i % 3 == 0 ? writing : reading, fd.get(), i * 65536, 65536, 0, shared ? &arena.region : nullptr, shared ? arena.memory->base() + i * 65536 : nullptr);
    }
    bench.drain();
    for (const auto& job : bench.jobs) CHECK_EQ(job->request.result, -ETIMEDOUT);
  }
  CHECK(bench.engine->counters().renewed >= 2);
  no_faults();
  // It is asked again after retry_ms at the latest.
  until([&] {
    Job& job = bench.submit(reading, fd.get(), 0, 65536);
    Job& write = bench.submit(writing, fd.get(), 0, 65536);
    bench.drain();
    return job.request.result == 65536 && job.holds(65536) && write.request.result == 65536;
  });
}

void the_library_fails() {
  for (const char* fault : {"fault.submit_fail", "fault.wait_fail"}) {
    for (int64_t times : {3, 40}) {
      Bench bench(options_of());
      UniqueFd fd = make_file(1 << 20);
      knob(fault) = times;
      for (size_t i = 0; i < 10; i++) bench.submit(i % 2 ? writing : reading, fd.get(), i * 65536, 65536);
      bench.drain();
      for (const auto& job : bench.jobs) CHECK(job->request.result == 65536 || (times == 40 && job->request.result == -ETIMEDOUT));
      knob(fault) = 0;
      until([&] {
        Job& job = bench.submit(reading, fd.get(), 0, 65536);
        bench.drain();
        return job.request.result == 65536;
      });
    }
  }
  // The ring that was ended cannot be made anew for a while.
  Bench bench(impatient());
  UniqueFd fd = make_file(1 << 20);
  knob("fault.ring_create") = 2;
  knob("fault.hang") = 1;
  Job& hung = bench.submit(reading, fd.get(), 0, 65536);
  bench.drain();
  CHECK_EQ(hung.request.result, -ETIMEDOUT);
  until([&] { return bench.engine->counters().renewed == 1; });
  until([&] {
    Job& job = bench.submit(reading, fd.get(), 0, 65536);
    bench.drain();
    CHECK(job.request.result == 65536 || job.request.result == -ETIMEDOUT);
    return job.request.result == 65536;
  });
  CHECK_EQ(knob("fault.ring_create").load(), 0);
  // A ring that is full although it is empty.
  knob("fault.prep_again") = 20;
  Job& job = bench.submit(writing, fd.get(), 0, 65536);
  bench.drain();
  CHECK_EQ(job.request.result, 65536);
}

void cancelling() {
  hf3fs::Options options = options_of();
  options.queue_depth = 2;
  options.grace_ms = 30;
  options.retry_ms = 20;
  Arena arena(1 << 20);
  for (const auto kind : {reading, writing}) {
    for (bool shared : {false, true}) {
      Bench bench(options);
      UniqueFd fd = make_file(1 << 20);
      const auto submit = [&](size_t i, size_t bytes) -> Job& {
        return bench.submit(kind, fd.get(), i * 65536, bytes, 0, shared ? &arena.region : nullptr, shared ? arena.memory->base() + i * 65536 : nullptr);
      };
      // Not flushed.
      Job& fresh = submit(0, 65536);
      bench.engine->cancel(&fresh.request, bench);
      CHECK_EQ(fresh.request.result, -ECANCELED);
      CHECK_EQ(fresh.completions, 1);
      // In the ring, and behind it.
      knob("fault.hang") = 2;
      Job& first = submit(1, 65536);
      Job& second = submit(2, 65536);
      bench.engine->flush(bench);
      until([] { return knob("fault.hang") == 0; });
      Job& queued = submit(3, 65536);
      bench.engine->flush(bench);
      bench.engine->cancel(&queued.request, bench);
      CHECK_EQ(queued.completions, 1);
      CHECK_EQ(queued.request.result, -ECANCELED);
      bench.engine->cancel(&first.request, bench);
      bench.engine->cancel(&first.request, bench);
      bench.engine->cancel(&second.request, bench);
      bench.drain();
      CHECK_EQ(first.request.result, -ECANCELED);
      CHECK_EQ(second.request.result, -ECANCELED);
      // Of several pieces, some of them in the ring.
      knob("fault.hang") = 2;
      Job& large = submit(4, 400000);
      bench.engine->flush(bench);
      until([] { return knob("fault.hang") <= 1; });
      bench.engine->cancel(&large.request, bench);
      bench.drain();
      CHECK_EQ(large.request.result, -ECANCELED);
      no_faults();
      // Two rings in a row have hung: the third one is made a little later.
      until([&] {
        Job& later = submit(0, 65536);
        bench.drain();
        return later.request.result == 65536 && later.holds(65536);
      });
    }
  }
}

// Cancelled at any moment whatever: handed back once, whole or cancelled.
void cancelling_at_random() {
  knob("param.delay_us") = 200;
  std::mt19937 random(11);
  hf3fs::Options options = options_of();
  options.grace_ms = 5000;
  options.iopool_size = 4;
  Arena arena(8 << 20);
  UniqueFd fd = make_file(8 << 20);
  Bench bench(options);
  for (int round = 0; round < 20; round++) {
    bench.jobs.clear();
    knob("fault.short") = 10;
    for (size_t i = 0; i < 40; i++) {
      const bool shared = i % 2 == 0;
      bench.submit(random() % 2 ? writing : reading, fd.get(), i * 200000, 200000, 0, shared ? &arena.region : nullptr, shared ? arena.memory->base() + i * 200000 : nullptr);
      if (random() % 4 == 0) bench.engine->flush(bench);
      if (random() % 2 == 0) bench.engine->cancel(&bench.jobs[random() % bench.jobs.size()]->request, bench);
      if (random() % 4 == 0) bench.engine->reap(bench);
    }
    bench.drain();
    for (const auto& job : bench.jobs) {
      CHECK(job->request.result == 200000 || job->request.result == -ECANCELED);
      if (job->request.result == 200000) CHECK(job->holds(200000));
    }
  }
  no_faults();
}

void a_sink_that_submits() {
  Bench bench(options_of());
  UniqueFd fd = make_file(1 << 20);
  int left = 50;
  bench.then = [&](Job&) {
    if (left-- <= 0) return;
    bench.submit(reading, fd.get(), 0, 65536);
    bench.engine->flush(bench);
  };
  for (int i = 0; i < 4; i++) bench.submit(reading, fd.get(), 0, 65536);
  bench.drain();
  CHECK_EQ(bench.completions, 54u);
  CHECK(!bench.engine->wait(bench, -1));
}

// An engine goes while its rings have requests that will never end.
void ends_while_requests_hang() {
  Arena arena(1 << 20);
  UniqueFd fd = make_file(1 << 20);
  hf3fs::Options options = impatient();
  options.grace_ms = patience_ms;
  Bench bench(options);
  knob("fault.hang") = -1;
  for (size_t i = 0; i < 10; i++) bench.submit(reading, fd.get(), i * 65536, 65536);
  bench.drain();
  CHECK_EQ(bench.engine->counters().quarantined, 10u);
}

void probes() {
  hf3fs::Probe report = hf3fs::probe(mount_point + "/below", {.mount_point = mount_point});
  if (!report.usable) check_failed(__FILE__, __LINE__, report.reason);
  CHECK_EQ(report.mount_point, mount_point);
  CHECK(!report.library.empty() && !report.version.empty() && report.reason.empty() && report.remedy.empty());
  CHECK(hf3fs::probe(mount_point, {}).usable);
  const auto refused = [&](const std::string& path, const hf3fs::ProbeOptions& options, const std::string& with) {
    report = hf3fs::probe(path, options);
    if (report.usable || report.reason.find(with) == std::string::npos || report.remedy.empty()) check_failed(__FILE__, __LINE__, "'" + report.reason + "' does not say " + with);
    no_faults();
  };
  refused(directory, {}, "does not lie on a mounted 3FS");
  refused(mount_point + "/nothing", {}, "ENOENT");
  refused(mount_point, {.mount_point = directory}, "does not lie on a mounted 3FS");
  const std::string other = directory + "/other";
  ::mkdir(other.c_str(), 0700);
  ::mkdir((other + "/3fs-virt").c_str(), 0700);
  refused(mount_point, {.mount_point = other}, other);
  refused(other, {}, "ENOENT");  // no folder iovs
  knob("param.errno") = EDQUOT;
  knob("fault.fail") = 1;
  refused(mount_point, {}, "EDQUOT");
  knob("fault.reg") = 1;
  refused(mount_point, {}, "hf3fs_reg_fd");
  knob("fault.ring_create") = 1;
  refused(mount_point, {}, "ring");
  knob("fault.hang") = 1;
  refused(mount_point, {.timeout_ms = 20}, "ETIMEDOUT");
  // Nothing of it stays.
  DIR* const list = ::opendir(mount_point.c_str());
  CHECK(list != nullptr);
  while (const dirent* const entry = ::readdir(list)) CHECK(entry->d_name[0] != '.' || std::string(entry->d_name).size() < 3);
  ::closedir(list);
}

// What the stand-in has in /dev/shm for a process.
std::vector<std::string> memories_of(pid_t process) {
  DIR* const list = ::opendir("/dev/shm");
  CHECK(list != nullptr);
  const std::string begin = "hicache-stand-in-iov-" + std::to_string(process) + "-";
  std::vector<std::string> found;
  while (const dirent* const entry = ::readdir(list)) {
    if (std::strncmp(entry->d_name, begin.c_str(), begin.size()) == 0) found.push_back(std::string("/dev/shm/").append(entry->d_name));
  }
  ::closedir(list);
  return found;
}

void leaves_nothing() {
  for (const char* name : {"count.rings", "count.iovs", "count.fds"}) CHECK_EQ(knob(name).load(), 0);
  DIR* const list = ::opendir((mount_point + "/3fs-virt/iovs").c_str());
  CHECK(list != nullptr);
  while (const dirent* const entry = ::readdir(list)) CHECK(entry->d_name[0] == '.');
  ::closedir(list);
  CHECK(memories_of(::getpid()).empty());
}

// ---- cases with a process of their own ----

// The stand-in is worth something only if it really ends those who break a rule.
void break_a_rule(const std::string& which) {
  hf3fs::Ior ring;
  CHECK_EQ(api->create_ring(ring, mount_point, 4, true), 0);
  hf3fs::Iov iov{};
  CHECK_EQ(api->iovcreate(&iov, mount_point.c_str(), 65536, 4096, -1), 0);
  UniqueFd fd = make_file(65536);
  if (which == "rules-that-answer") {
    hf3fs::Cqe cqe;
    const auto prep = [&](bool read, size_t at, size_t length, int number) {
      return api->prep_io(&ring, &iov, read, iov.base + at, number, 0, length, nullptr);
    };
    CHECK_EQ(prep(true, 0, 4096, fd.get()), -EBADF);
    CHECK(api->reg_fd(fd.get(), 0) <= 0);
    CHECK_EQ(api->reg_fd(fd.get(), 0), EINVAL);
    CHECK_EQ(prep(false, 0, 4096, fd.get()), -EINVAL);
    CHECK_EQ(prep(true, 0, 0, fd.get()), -EINVAL);
    CHECK_EQ(prep(true, 65535, 2, fd.get()), -EINVAL);
    // Across the end of a block; in memory that was never shared, that would not even be seen.
    CHECK(prep(true, 4000, 200, fd.get()) >= 0);
    CHECK_EQ(api->submit_ios(&ring), 0);
    CHECK_EQ(api->wait_for_ios(&ring, &cqe, 1, 1, nullptr), 1);
    CHECK_EQ(cqe.result, -EINVAL);
    for (int i = 0; i < 4; i++) CHECK(prep(true, 0, 4096, fd.get()) >= 0);
    CHECK_EQ(prep(true, 0, 4096, fd.get()), -EAGAIN);
    CHECK_EQ(api->submit_ios(&ring), 0);
    for (int i = 0; i < 4; i++) CHECK_EQ(api->wait_for_ios(&ring, &cqe, 1, 1, nullptr), 1);
    hf3fs::Iov false_iov = iov;
    std::vector<uint8_t> own(65536);
    std::memset(false_iov.id, 9, sizeof false_iov.id);
    false_iov.base = own.data();
    CHECK(api->prep_io(&ring, &false_iov, true, own.data(), fd.get(), 0, 4096, nullptr) >= 0);
    CHECK_EQ(api->submit_ios(&ring), 0);
    CHECK_EQ(api->wait_for_ios(&ring, &cqe, 1, 1, nullptr), 1);
    CHECK_EQ(cqe.result, -EFAULT);
    api->dereg_fd(fd.get());
    api->iordestroy(&ring);
    api->iovdestroy(&iov);
    leaves_nothing();
    return;
  }
  CHECK(api->reg_fd(fd.get(), 0) <= 0);
  if (which == "leaves-all-behind") return;
  if (which == "monotonic-deadline") {
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    now.tv_sec += 5;
    hf3fs::Cqe cqe;
    api->wait_for_ios(&ring, &cqe, 1, 1, &now);
  } else if (which == "two-threads") {
    api->submit_ios(&ring);
    std::thread([&] { api->submit_ios(&ring); }).join();
  } else if (which == "two-waiters") {
    hf3fs::Cqe cqe;
    api->wait_for_ios(&ring, &cqe, 1, 0, nullptr);
    std::thread([&] { api->wait_for_ios(&ring, &cqe, 1, 0, nullptr); }).join();
  } else if (which == "closed-before") {
    const int number = fd.get();
    const UniqueFd other = make_file(4096);
    ::dup2(other.get(), number);
    api->prep_io(&ring, &iov, true, iov.base, number, 0, 4096, nullptr);
  } else if (which == "iov-destroyed") {
    knob("fault.hang") = 1;
    api->prep_io(&ring, &iov, true, iov.base, fd.get(), 0, 4096, nullptr);
    api->submit_ios(&ring);
    until([] { return knob("fault.hang") == 0; });
    api->iovdestroy(&iov);
  }
  check_failed(__FILE__, __LINE__, which + " was let pass");
}

int run_self(const std::string& which) {
  // In the folder that goes with ours: who aborts does not tidy up.
  const char* const arguments[] = {self.c_str(), directory.c_str(), which.c_str(), nullptr};
  pid_t child = 0;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // A rule that is broken is told there, as it shall be.
  if (which != "old" && which != "rules-that-answer" && which != "leaves-all-behind") posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  CHECK_EQ(::posix_spawn(&child, self.c_str(), &actions, nullptr, const_cast<char**>(arguments), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  for (const std::string& memory : memories_of(child)) ::unlink(memory.c_str());
  return status;
}

void make_mount() {
  std::string pattern = files + "/hf3fs_test.XXXXXX";
  CHECK(::mkdtemp(pattern.data()) != nullptr);
  char* const real = ::realpath(pattern.c_str(), nullptr);
  directory = real;
  std::free(real);
  mount_point = directory + "/mount";
  for (const char* part : {"", "/3fs-virt", "/3fs-virt/iovs"}) CHECK_EQ(::mkdir((mount_point + part).c_str(), 0700), 0);
}

void remove_all() {
  const std::string command = "rm -rf '" + directory + "'";
  CHECK_EQ(std::system(command.c_str()), 0);
}

}  // namespace

int main(int argc, char** argv) {
  self = "/proc/self/exe";
  char path[4096];
  if (const ssize_t length = ::readlink(self.c_str(), path, sizeof path); length > 0) self.assign(path, static_cast<size_t>(length));
  files = argc > 1 ? argv[1] : "/tmp";
  const std::string only = argc > 2 ? argv[2] : "";
  make_mount();
  // One case counts where this program does that started it.
  const char* const inherited = std::getenv("HICACHE_STAND_IN_CONTROL");
  map_controls(only == "leaves-all-behind" && inherited != nullptr ? inherited : directory + "/control");
  if (!only.empty()) {
    test_context() = only;
    loads(only == "old" ? "libusrbio_old.so" : "libusrbio.so");
    if (only != "old") {
      break_a_rule(only);
      remove_all();
      return 0;
    }
    CHECK(api->iorcreate4 == nullptr && api->iorcreate3 != nullptr);
    CHECK(api->version.find("iorcreate3") != std::string::npos);
    moves_every_size(hf3fs::MemConfig::automatic, true);
    CHECK_EQ(knob("count.rings_made").load(), 2);
    CHECK_EQ(knob("count.rings4_made").load(), 0);
    leaves_nothing();
    remove_all();
    return 0;
  }
#define TEST(...) (test_context() = #__VA_ARGS__, __VA_ARGS__)
  TEST(says_what_is_missing());
  for (const char* which : {"monotonic-deadline", "two-threads", "two-waiters", "closed-before", "iov-destroyed"}) {
    test_context() = which;
    const int status = run_self(which);
    CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) || (WIFEXITED(status) && WEXITSTATUS(status) == 66));
  }
  for (const char* which : {"old", "rules-that-answer"}) {
    test_context() = which;
    CHECK_EQ(run_self(which), 0);
  }
  TEST(loads("libusrbio.so"));
  CHECK(api->iorcreate4 != nullptr);
  TEST(finds_mounts());
  TEST(refuses_what_cannot_be());
  TEST(arenas_are_found());
  for (const auto config : {hf3fs::MemConfig::dram, hf3fs::MemConfig::dram_zc, hf3fs::MemConfig::automatic}) {
    for (bool shared : {false, true}) TEST(moves_every_size(config, shared));
  }
  TEST(never_crosses_a_block());
  for (bool shared : {false, true}) {
    TEST(ends_at_the_end_of_the_file(shared));
    TEST(failures_are_the_requests_own(shared));
  }
  TEST(engines_side_by_side());
  TEST(more_than_fits());
  TEST(bounds_its_memory());
  TEST(results_that_say_again());
  TEST(memory_that_cannot_be_touched());
  TEST(registrations_are_shared());
  TEST(a_staged_read_hangs());
  TEST(others_wait_for_the_other_side(reading, true));
  TEST(others_wait_for_the_other_side(writing, true));
  TEST(others_wait_for_the_other_side(writing, false));
  for (const auto kind : {reading, writing}) {
    for (bool shared : {false, true}) TEST(a_ring_is_made_anew(kind, shared));
  }
  TEST(what_was_in_the_ring_is_done_again());
  TEST(nothing_is_ever_answered());
  TEST(the_library_fails());
  TEST(cancelling());
  TEST(cancelling_at_random());
  TEST(a_sink_that_submits());
  TEST(ends_while_requests_hang());
  TEST(probes());
  TEST(leaves_nothing());
  // And would be told if it did: a ring, an iov, a registered descriptor.
  test_context() = "leaves-all-behind";
  CHECK_EQ(knob("count.leaked").load(), 0);
  // What it leaves is what it is for: whether a sanitizer still finds a pointer to that is chance.
  const char* const options = std::getenv("ASAN_OPTIONS");
  std::string without_leaks = options == nullptr ? "" : options;
  ::setenv("ASAN_OPTIONS", (without_leaks += ":detect_leaks=0").c_str(), 1);
  CHECK_EQ(run_self("leaves-all-behind"), 0);
  CHECK_EQ(knob("count.leaked").load(), 3);
  remove_all();
  std::printf("hf3fs_test: ok\n");
}
