// The NIXL bridge over the stand-in of its C library ($HICACHE_STAND_INS/libnixl_capi.so), with real files in argv[1] (or $TMPDIR, or /tmp): every plugin, and every fault that the
// stand-in knows. It shows that our side holds against what we know of NIXL, and nothing about NIXL.
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "agent/memory_registry.h"
#include "check.h"
#include "knobs.h"
#include "plugins/nixl/nixl_engine.h"
#include "util/aligned_buffer.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/unique_fd.h"

using namespace hicache;

namespace {

constexpr int patience_ms = 30000;
std::string directory;

Knobs* knobs;

struct Job {
  IoRequest request;
  int completions = 0;
};

class Collector final : public Sink {
 public:
  void completed(IoRequest* request) override {
    CHECK_EQ(++owners[request]->completions, 1);
    count++;
  }
  std::map<IoRequest*, Job*> owners;
  size_t count = 0;
};

uint8_t byte_at(uint64_t position, uint32_t seed) { return static_cast<uint8_t>((position * 2654435761u + seed) >> 13 ^ position >> 9); }

bool readable(int fd, int timeout_ms) {
  pollfd event{fd, POLLIN, 0};
  return ::poll(&event, 1, timeout_ms) == 1;
}

constexpr auto reading = IoRequest::Kind::read;
constexpr auto writing = IoRequest::Kind::write;

struct Way {
  const char* name;
  nixl::Options options;
};
nixl::Options plugin(const char* name, std::map<std::string, std::string> parameters = {}) {
  nixl::Options options;
  options.plugin = name;
  options.parameters = std::move(parameters);
  options.settle_ms = 1;
  options.kept_max = 1000;
  return options;
}
const nixl::Options uring = plugin("POSIX", {{"use_uring", "true"}}), linux_aio = plugin("POSIX"), posix_aio = plugin("POSIX", {{"use_posix_aio", "yes"}});
std::vector<Way> ways() {
  return {{"uring", uring}, {"aio", linux_aio}, {"posix_aio", posix_aio}, {"gds", plugin("GDS")}, {"gds_mt", plugin("GDS_MT")}, {"hf3fs", plugin("HF3FS")},
          {"hf3fs zero copy", plugin("HF3FS", {{"mem_config", "dram_zc"}})}, {"fancy", plugin("FANCY", {{"colour", "red"}})}};
}

class Bench {
 public:
  explicit Bench(const nixl::Options& options = linux_aio, bool with_direct = false, bool may_leave = false) : direct_(with_direct), may_leave_(may_leave) {
    for (const char* name : {"count.in_flight_max", "count.polls", "count.posts", "count.agents_made", "count.mapped_over", "count.descriptors"}) knobs->set(name, 0);
    kept_before_ = nixl::agents_kept();
    Refusal refusal;
    engine = nixl::try_create_nixl(options, refusal);
    if (engine == nullptr) check_failed(__FILE__, __LINE__, refusal.reason + ": " + refusal.remedy);
    memory = AlignedBuffer(region_bytes);
    region = MemoryRegistry::instance().add(memory.data(), memory.size());
  }
  ~Bench() {
    CHECK_EQ(engine->in_flight(), 0u);
    for (auto& job : jobs) CHECK_EQ(job->completions, 1);
    if (!may_leave_) {
      // Nothing is asked when nothing is in flight.
      CHECK(!readable(engine->event_fd(), 0));
    }
    const uint64_t failed = engine->statistics().failed, kept = engine->statistics().kept;
    engine.reset();
    MemoryRegistry::instance().remove(region->id);
    fault::clear();
    if (may_leave_) return;
    // What is kept stays as it is, and is not counted any more.
    CHECK_EQ(nixl::agents_kept() - kept_before_, kept);
    CHECK_EQ(knobs->get("count.agents"), static_cast<int64_t>(kept));
    CHECK_EQ(knobs->get("count.backends"), static_cast<int64_t>(kept));
    if (kept == 0) {
      for (const char* name : {"count.in_flight", "count.requests", "count.registrations"}) CHECK_EQ(knobs->get(name), 0);
      if (failed == 0) CHECK_EQ(knobs->get("count.requests_leaked"), 0);
    }
    for (const char* name : {"count.agents", "count.backends", "count.in_flight", "count.requests", "count.requests_leaked", "count.registrations", "count.file_registrations"}) {
      knobs->set(name, 0);
    }
  }
  // Of all memory that somebody has handed in.
  void fill(uint8_t byte) {
    std::memset(memory.data(), byte, memory.size());
    for (AlignedBuffer& one : own_) std::memset(one.data(), byte, one.size());
  }
  bool filled(uint8_t byte) {
    const auto is = [&](const AlignedBuffer& one) { return std::all_of(one.data(), one.data() + one.size(), [&](uint8_t there) { return there == byte; }); };
    return is(memory) && std::all_of(own_.begin(), own_.end(), is);
  }
  UniqueFd file(size_t bytes = 0, uint32_t seed = 7) {
    const std::string path = directory + "/nixl_test.file." + std::to_string(::getpid());
    {
      UniqueFd plain(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
      CHECK(plain.get() >= 0);
      std::vector<uint8_t> content(bytes);
      for (size_t i = 0; i < bytes; i++) content[i] = byte_at(i, seed);
      CHECK_EQ(::write(plain.get(), content.data(), bytes), static_cast<ssize_t>(bytes));
      if (direct_) ::fdatasync(plain.get());
    }
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | (direct_ ? O_DIRECT : 0)));
    CHECK(fd.get() >= 0);
    ::unlink(path.c_str());
    return fd;
  }
  // Of the region, if `of_region`; else ordinary memory. A tail is ordinary memory.
  Job& add(IoRequest::Kind kind, int fd, uint64_t offset, size_t bytes, size_t tail = 0, bool of_region = true, uint32_t seed = 7) {
    jobs.push_back(std::make_unique<Job>());
    Job& job = *jobs.back();
    collector.owners[&job.request] = &job;
    const size_t head = bytes - tail;
    uint8_t* first = nullptr;
    if (of_region) {
      CHECK(used_ + head <= region_bytes);
      first = memory.data() + used_;
      used_ += round_up(head);
      job.request.region = region.get();
    } else {
      first = own(head);
    }
    int count = 0;
    if (head > 0) job.request.iov[count++] = {first, head};
    if (tail > 0) job.request.iov[count++] = {own(tail), tail};
    job.request.iov_count = static_cast<uint8_t>(count);
    job.request.kind = kind;
    job.request.fd = fd;
    job.request.offset = offset;
    job.request.name = "page";
    uint64_t at = offset;
    for (int i = 0; i < count; i++) {
      auto* const data = static_cast<uint8_t*>(job.request.iov[i].iov_base);
      for (size_t k = 0; k < job.request.iov[i].iov_len; k++) data[k] = kind == writing ? byte_at(at + k, seed) : 0xee;
      at += job.request.iov[i].iov_len;
      buffers_[&job].push_back(job.request.iov[i]);
    }
    return job;
  }
  Job& submit(IoRequest::Kind kind, int fd, uint64_t offset, size_t bytes, size_t tail = 0, bool of_region = true, uint32_t seed = 7) {
    Job& job = add(kind, fd, offset, bytes, tail, of_region, seed);
    engine->submit(&job.request);
    return job;
  }
  bool holds(Job& job, uint64_t offset, size_t bytes, uint32_t seed = 7) {
    for (const iovec& buffer : buffers_[&job]) {
      for (size_t i = 0; i < buffer.iov_len && bytes > 0; i++, bytes--, offset++) {
        if (static_cast<uint8_t*>(buffer.iov_base)[i] != byte_at(offset, seed)) return false;
      }
    }
    return bytes == 0;
  }
  static bool in_file(int fd, uint64_t offset, size_t bytes, uint32_t seed = 7) {
    AlignedBuffer back(round_up(bytes));
    if (::pread(fd, back.data(), back.size(), static_cast<off_t>(offset)) < static_cast<ssize_t>(bytes)) return false;
    for (size_t i = 0; i < bytes; i++) {
      if (back.data()[i] != byte_at(offset + i, seed)) return false;
    }
    return true;
  }
  void drain(size_t leave = 0) {
    while (engine->in_flight() > leave) {
      CHECK(readable(engine->event_fd(), patience_ms));
      engine->reap(collector);
    }
  }
  void run() {
    engine->flush(collector);
    drain();
  }
  void done(Job& job, int64_t result) {
    CHECK_EQ(job.completions, 1);
    CHECK_EQ(job.request.result, result);
  }
  void reuse_region() { used_ = 0; }
  // As it was before it was submitted.
  void again(Job& job, uint64_t offset) {
    job.completions = 0;
    job.request.offset = offset;
    std::copy(buffers_[&job].begin(), buffers_[&job].end(), job.request.iov);
  }

  std::unique_ptr<nixl::NixlEngine> engine;
  Collector collector;
  std::vector<std::unique_ptr<Job>> jobs;
  AlignedBuffer memory;
  RegionRef region;

 private:
  static constexpr size_t region_bytes = 48 << 20;
  uint8_t* own(size_t bytes) {
    own_.emplace_back(std::max<size_t>(bytes, 1));
    return own_.back().data();
  }
  const bool direct_, may_leave_;
  size_t used_ = 0, kept_before_ = 0;
  std::vector<AlignedBuffer> own_;
  std::map<Job*, std::vector<iovec>> buffers_;
};

// ---- loading ----

void the_library_is_found(const std::string& library) {
  Refusal refusal;
  ::setenv("HICACHE_NIXL_LIBNIXL_PATH", "/nonexistent/libnixl_capi.so", 1);
  CHECK(nixl::load(refusal) == nullptr);
  CHECK(refusal.reason.find("/nonexistent/libnixl_capi.so") != std::string::npos);
  CHECK(refusal.remedy.find("HICACHE_NIXL_LIBNIXL_PATH") != std::string::npos);
  ::setenv("HICACHE_NIXL_LIBNIXL_PATH", directory.c_str(), 1);
  CHECK(nixl::load(refusal) == nullptr);
  CHECK(refusal.reason.find(directory) != std::string::npos);

  // As pip lays out a wheel, in a virtual environment.
  const std::string root = directory + "/nixl_test." + std::to_string(::getpid()), packages = root + "/lib/python3.11/site-packages", folder = packages + "/.nixl_cu12.mesonpy.libs";
  for (const std::string& one : {root, root + "/lib", root + "/lib/python3.11", packages, folder, packages + "/nixl_cu12-1.4.0.dist-info"}) CHECK_EQ(::mkdir(one.c_str(), 0700), 0);
  const std::string place = folder + "/libnixl_capi.so", sibling = folder + "/libnixl.so", first = folder + "/libserdes.so";
  for (const std::string& one : {place, sibling, first}) CHECK_EQ(::symlink(library.c_str(), one.c_str()), 0);
  ::unsetenv("HICACHE_NIXL_LIBNIXL_PATH");
  ::setenv("VIRTUAL_ENV", root.c_str(), 1);
  const std::vector<nixl::Place> places = nixl::places();
  CHECK(places.size() >= 3);
  CHECK_EQ(places[0].library, "libnixl_capi.so.0");
  CHECK_EQ(places[1].library, "libnixl_capi.so");
  CHECK_EQ(places[2].library, place);
  CHECK_EQ(places[2].siblings.size(), 2u);
  CHECK_EQ(places[2].siblings[0], first);
  CHECK_EQ(places[2].siblings[1], sibling);
  ::unlink(sibling.c_str());
  ::unlink(first.c_str());

  // Something that is no library beside it: what it lacks is said only if it mattered.
  ::setenv("HICACHE_NIXL_LIBNIXL_PATH", folder.c_str(), 1);
  knobs->set("param.stub", 1);
  CHECK(nixl::load(refusal) == nullptr);
  CHECK(refusal.reason.find("stub") != std::string::npos);
  knobs->set("param.stub", 0);
  ::setenv("NIXL_PLUGIN_DIR", "/somewhere/plugins", 1);
  const nixl::Api* const api = nixl::load(refusal);
  CHECK(api != nullptr);
  CHECK_EQ(api->path, place);
  CHECK_EQ(api->version, "1.4.0");
  CHECK_EQ(api->plugin_folder, "/somewhere/plugins");
  ::unsetenv("HICACHE_NIXL_LIBNIXL_PATH");
  CHECK(nixl::load(refusal) == api);

  ::unlink(place.c_str());
  for (const std::string& one : {packages + "/nixl_cu12-1.4.0.dist-info", folder, packages, root + "/lib/python3.11", root + "/lib", root}) CHECK_EQ(::rmdir(one.c_str()), 0);
}

void plugins_are_told() {
  nixl::Probe found = nixl::probe(linux_aio);
  CHECK(found.usable);
  CHECK_EQ(found.version, "1.4.0");
  CHECK_EQ(found.plugins.size(), 7u);
  CHECK_EQ(found.plugins[0].name, "POSIX");
  CHECK(found.plugins[0].described);
  CHECK_EQ(found.plugins[0].parameters.at("use_aio"), "true");
  CHECK_EQ(found.plugins[1].memory.size(), 3u);
  CHECK(found.plugins[4].parameters.empty());
  // Listed, and still not to be had.
  knobs->set("fault.plugin_params", 1);
  found = nixl::probe(linux_aio);
  CHECK(found.usable);
  CHECK(!found.plugins[0].described && !found.plugins[0].reason.empty());
  knobs->set("fault.create_agent", 1);
  found = nixl::probe(linux_aio);
  CHECK(!found.usable && found.reason.find("create_configured_agent") != std::string::npos);
  CHECK_EQ(knobs->get("count.agents"), 0);
}

void what_cannot_be_had_is_refused() {
  const auto refused = [](const nixl::Options& options, const char* part) {
    Refusal refusal;
    CHECK(nixl::try_create_nixl(options, refusal) == nullptr);
    if (refusal.reason.find(part) == std::string::npos) check_failed(__FILE__, __LINE__, refusal.reason);
    CHECK(!refusal.remedy.empty());
    CHECK_EQ(knobs->get("count.agents"), 0);
    CHECK_EQ(knobs->get("count.registrations"), 0);
  };
  refused(plugin("WONDER"), "has no plugin WONDER: it lists POSIX, GDS");
  refused(plugin("OBJ"), "does not move files");
  refused(plugin("POSIX", {{"use_uring", "perhaps"}}), "use_uring=perhaps");
  refused(plugin("GDS", {{"batch_limit", "many"}}), "(the plugin failed)");
  refused(plugin("HF3FS", {{"mem_config", "vram"}}), "mem_config=vram");
  knobs->set("param.hide_posix", 1);
  refused(linux_aio, "has no plugin POSIX");
  knobs->set("param.hide_posix", 0);
  for (const auto& [call, part] : std::map<const char*, const char*>{{"fault.plugin_params", "get_plugin_params"}, {"fault.create_backend", "create_backend"},
                                                                     {"fault.create_agent", "create_configured_agent"}, {"fault.register_memory", "register_mem"}}) {
    knobs->set(call, -1);
    refused(linux_aio, part);
    refused(uring, part);
    knobs->set(call, 0);
  }
  // A build without Linux AIO takes another interface, which is treated as the least tractable one.
  knobs->set("fault.create_backend", 1);
  Bench without;
  UniqueFd fd = without.file();
  Job& job = without.submit(writing, fd.get(), 0, 65536);
  without.run();
  without.done(job, 65536);
}

// ---- moving ----

void moves_everything(const Way& way, bool direct) {
  for (const int64_t polls : {0, 3}) {
    for (const int64_t at_once : {0, 1}) {
      // The timing is the engine's own business: one plugin is enough for all of its kinds.
      if ((polls != 0 || at_once != 0) && std::string(way.name) != "uring") continue;
      Bench bench(way.options, direct);
      knobs->set("param.polls", polls);
      knobs->set("param.post_completes", at_once);
      UniqueFd fd = bench.file();
      struct Piece {
        size_t bytes, tail;
        bool of_region;
      };
      std::vector<Piece> pieces;
      for (int i = 0; i < 200; i++) pieces.push_back({8192 + 4096, i % 2 == 0 ? 4096u : 0u, i % 5 != 0});
      pieces.push_back({1 << 20, 4096, true});
      // Ordinary memory goes through blocks, in rounds.
      pieces.push_back({600 << 10, 4096, false});
      pieces.push_back({4096, 4096, true});
      if (!direct) {
        pieces.push_back({100003, 11, true});
        pieces.push_back({300001, 0, false});
      }
      uint64_t offset = 0;
      for (const Piece& one : pieces) {
        bench.submit(writing, fd.get(), offset, one.bytes, one.tail, one.of_region);
        offset += one.bytes;
      }
      CHECK_EQ(bench.engine->in_flight(), pieces.size());
      bench.run();
      CHECK(Bench::in_file(fd.get(), 0, offset));
      bench.reuse_region();
      offset = 0;
      for (const Piece& one : pieces) {
        bench.submit(reading, fd.get(), offset, one.bytes, one.tail, one.of_region);
        offset += one.bytes;
      }
      bench.run();
      offset = 0;
      for (size_t i = 0; i < pieces.size(); i++) {
        bench.done(*bench.jobs[i], static_cast<int64_t>(pieces[i].bytes));
        bench.done(*bench.jobs[pieces.size() + i], static_cast<int64_t>(pieces[i].bytes));
        CHECK(bench.holds(*bench.jobs[pieces.size() + i], offset, pieces[i].bytes));
        offset += pieces[i].bytes;
      }
      CHECK(knobs->get("count.in_flight_max") <= 256);
      CHECK_EQ(knobs->get("count.agents_made"), 1);
      CHECK_EQ(bench.engine->statistics().failed, 0u);
      knobs->set("param.polls", 0);
      knobs->set("param.post_completes", 0);
    }
  }
}

void a_read_ends_at_the_end_of_the_file(const Way& way, bool direct) {
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{1536}, size_t{10000}, size_t{12288}, size_t{65536}}) {
    Bench bench(way.options, direct);
    UniqueFd fd = bench.file(bytes);
    Job& whole = bench.submit(reading, fd.get(), 0, 65536);
    Job& split = bench.submit(reading, fd.get(), 0, 65536, 4096);
    Job& ordinary = bench.submit(reading, fd.get(), 0, 65536, 4096, false);
    Job& beyond = bench.submit(reading, fd.get(), 1 << 20, 4096);
    Job& nothing = bench.submit(reading, fd.get(), 0, 0);
    bench.run();
    // POSIX AIO fails the last, partial block of a direct file: what lies before it is all that can be had, and all that is asked for.
    const bool partial = direct && bytes % 4096 != 0 && std::string(way.name) == "posix_aio";
    const size_t there = partial ? bytes / 4096 * 4096 : bytes;
    for (Job* job : {&whole, &split, &ordinary}) {
      bench.done(*job, static_cast<int64_t>(there));
      CHECK(bench.holds(*job, 0, there));
    }
    bench.done(beyond, 0);
    bench.done(nothing, 0);
    CHECK_EQ(bench.engine->statistics().failed, 0u);
  }
}

// NIXL says success where it read past the end, or fails, according to its interface.
void a_file_is_cut_during_a_read(const Way& way) {
  Bench bench(way.options);
  UniqueFd fd = bench.file(8 * 65536);
  knobs->set("param.polls", 4);
  for (size_t i = 0; i < 8; i++) bench.submit(reading, fd.get(), i * 65536, 65536, i % 2 * 4096);
  bench.engine->flush(bench.collector);
  CHECK_EQ(::ftruncate(fd.get(), 3 * 65536 + 5000), 0);
  bench.drain();
  knobs->set("param.polls", 0);
  for (size_t i = 0; i < 8; i++) {
    const size_t there = i < 3 ? 65536 : i == 3 ? 5000 : 0;
    bench.done(*bench.jobs[i], static_cast<int64_t>(there));
    CHECK(bench.holds(*bench.jobs[i], i * 65536, there));
  }
}

void never_more_than_256_in_flight(const Way& way) {
  Bench bench(way.options);
  UniqueFd fd = bench.file();
  knobs->set("param.polls", 2);
  for (size_t i = 0; i < 600; i++) bench.submit(writing, fd.get(), i * 8192, 8192, i % 2 * 4096);
  bench.run();
  knobs->set("param.polls", 0);
  for (auto& job : bench.jobs) bench.done(*job, 8192);
  CHECK(knobs->get("count.in_flight_max") <= 256);
  // Where all is copied, it is the blocks that bound it.
  if (std::string(way.name) != "hf3fs zero copy") CHECK(knobs->get("count.in_flight_max") > 128);
  CHECK_EQ(knobs->get("count.agents_made"), 1);
}

void small_depths() {
  for (unsigned depth : {0u, 1u, 2u, 3u}) {
    nixl::Options options = uring;
    options.queue_depth = depth;
    Bench bench(options);
    UniqueFd fd = bench.file();
    for (size_t i = 0; i < 20; i++) bench.submit(writing, fd.get(), i * 8192, 8192, 4096);
    bench.run();
    for (auto& job : bench.jobs) bench.done(*job, 8192);
    CHECK(Bench::in_file(fd.get(), 0, 20 * 8192));
    CHECK(knobs->get("count.in_flight_max") <= std::max(1u, depth));
  }
}

// ---- faults ----

void no_space(const Way& way) {
  for (const bool full : {true, false}) {
    for (const bool alone : {true, false}) {
      Bench bench(way.options);
      UniqueFd fd = bench.file();
      if (full) fault::set({{.point = "nixl.space", .times = 0, .error = ENOSPC}});
      // The last of them, so that the file shows it.
      for (size_t i = 0; i < (alone ? 1 : 5); i++) bench.submit(writing, fd.get(), i * 65536, 65536);
      knobs->set("fault.no_space", -1);
      bench.run();
      knobs->set("fault.no_space", 0);
      for (auto& job : bench.jobs) CHECK_EQ(job->request.result <= 0 || !alone, true);
      bench.done(*bench.jobs.back(), full ? -ENOSPC : -EIO);
    }
  }
}

// A write that is cut short, and called a success.
void a_short_write_is_no_success() {
  Bench bench(linux_aio);
  UniqueFd fd = bench.file();
  knobs->set("fault.short_io", 1);
  Job& job = bench.submit(writing, fd.get(), 0, 65536);
  bench.run();
  bench.done(job, -EIO);
  CHECK_EQ(bench.engine->statistics().short_writes, 1u);
  CHECK(bench.engine->last_problem().find("the file ends at 32768") != std::string::npos);
  // Nor is one that never happened.
  knobs->set("param.plain_file", 1);
  UniqueFd other = bench.file();
  Job& lie = bench.submit(writing, other.get(), 0, 65536);
  bench.run();
  knobs->set("param.plain_file", 0);
  bench.done(lie, -EIO);
}

// One failed I/O: the agent is thrown away, and all that it failed is tried again.
void one_failure(const Way& way) {
  Bench bench(way.options);
  UniqueFd fd = bench.file();
  for (size_t i = 0; i < 8; i++) bench.submit(writing, fd.get(), i * 65536, 65536, 4096);
  knobs->set(std::string(way.name) == "aio" ? "fault.submit" : "fault.io_error", 1);
  bench.run();
  // What is seen as a success is one until the file is read: the checksums of the layouts are there for that.
  const bool seen = bench.engine->statistics().failed > 0;
  for (auto& job : bench.jobs) CHECK_EQ(job->request.result, 65536);
  if (seen) {
    CHECK(Bench::in_file(fd.get(), 0, 8 * 65536));
    CHECK_EQ(knobs->get("count.agents_made"), 2);
    CHECK_EQ(bench.engine->statistics().retried, 8u);
    CHECK(!bench.engine->last_problem().empty());
  }
  // It goes on as before.
  Job& later = bench.submit(writing, fd.get(), 0, 65536);
  bench.run();
  bench.done(later, 65536);
}

void the_culprit_is_found(const Way& way) {
  Bench bench(way.options);
  UniqueFd fd = bench.file();
  // A descriptor that cannot be written.
  UniqueFd bad(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  for (size_t i = 0; i < 8; i++) bench.submit(writing, i == 3 ? bad.get() : fd.get(), i * 65536, 65536, 4096);
  Job& read = bench.submit(reading, fd.get(), 0, 65536);
  bench.run();
  for (size_t i = 0; i < 8; i++) {
    bench.done(*bench.jobs[i], i == 3 ? -EIO : 65536);
    if (i != 3) CHECK(Bench::in_file(fd.get(), i * 65536, 65536));
  }
  CHECK(read.request.result >= 0);
  CHECK(knobs->get("count.agents_made") <= 4);
}

void everything_fails() {
  for (const auto& options : {uring, linux_aio, posix_aio}) {
    Bench bench(options);
    UniqueFd fd = bench.file(256 * 8192);
    for (size_t i = 0; i < 256; i++) bench.submit(i % 2 ? reading : writing, fd.get(), i * 8192, 8192);
    const char* const fault = options.parameters.empty() ? "fault.submit" : "fault.io_error";
    knobs->set(fault, -1);
    bench.run();
    knobs->set(fault, 0);
    for (auto& job : bench.jobs) bench.done(*job, -EIO);
    // Not one agent for each of them for ever: they are a limited number before the rest is given up.
    CHECK(knobs->get("count.agents_made") <= 300);
    Job& later = bench.submit(reading, fd.get(), 0, 8192);
    bench.run();
    bench.done(later, 8192);
  }
}

// io_uring's one queue: the error goes to the request that asks, and the one that failed says success, without having read anything.
void an_error_may_be_anothers() {
  for (const bool direct : {false, true}) {
    Bench bench(uring, direct);
    UniqueFd fd = bench.file(16 * 65536);
    knobs->set("param.shared", 1);
    knobs->set("param.polls", 1000);
    for (size_t i = 0; i < 8; i++) bench.submit(reading, fd.get(), i * 65536, 65536, i % 2 * 4096);
    bench.engine->flush(bench.collector);
    knobs->set("param.polls", 0);
    knobs->set("fault.io_error", 1);
    for (size_t i = 8; i < 16; i++) bench.submit(reading, fd.get(), i * 65536, 65536, i % 2 * 4096);
    bench.run();
    knobs->set("param.shared", 0);
    for (size_t i = 0; i < 16; i++) {
      bench.done(*bench.jobs[i], 65536);
      CHECK(bench.holds(*bench.jobs[i], i * 65536, 65536));
    }
    CHECK_EQ(bench.engine->statistics().failed, 1u);
    CHECK_EQ(bench.engine->statistics().retried, 16u);
    CHECK_EQ(bench.engine->statistics().kept, 1u);
  }
}

// The kernel goes on after the error: into nobody's memory, and out of memory that still holds the same.
void what_was_in_flight_goes_on(const Way& way) {
  Bench bench(way.options);
  UniqueFd fd = bench.file(32 * 65536), other = bench.file();
  knobs->set("count.late_planned", 0);
  knobs->set("count.late_done", 0);
  knobs->set("param.late_io", 1);
  for (size_t i = 0; i < 16; i++) bench.submit(reading, fd.get(), i * 65536, 65536, i % 2 * 4096);
  for (size_t i = 0; i < 16; i++) bench.submit(writing, other.get(), i * 65536, 65536, i % 2 * 4096, i % 3 != 0);
  knobs->set("param.polls", 2);
  bench.engine->flush(bench.collector);
  knobs->set("fault.io_error", 1);
  bench.drain();
  knobs->set("param.late_io", 0);
  knobs->set("param.polls", 0);
  for (size_t i = 0; i < 32; i++) bench.done(*bench.jobs[i], 65536);
  for (size_t i = 0; i < 16; i++) CHECK(bench.holds(*bench.jobs[i], i * 65536, 65536));
  const int64_t planned = knobs->get("count.late_planned");
  CHECK(planned > 16);
  bench.fill(0x77);
  knobs->set("param.late_go", 1);
  const int64_t until = now_ns() + int64_t{patience_ms} * 1'000'000;
  while (knobs->get("count.late_done") < planned) {
    CHECK(now_ns() < until);
    std::this_thread::yield();
  }
  knobs->set("param.late_go", 0);
  CHECK(bench.filled(0x77));
  CHECK(Bench::in_file(other.get(), 0, 16 * 65536));
  CHECK_EQ(bench.engine->statistics().kept, 1u);

  // One at a time for a while, and then as before.
  const auto deepest = [&](size_t count) {
    knobs->set("count.in_flight", 0);
    knobs->set("count.in_flight_max", 0);
    for (size_t i = 0; i < count; i++) bench.submit(reading, fd.get(), i * 4096, 4096, 0, false);
    bench.run();
    return knobs->get("count.in_flight_max");
  };
  CHECK_EQ(deepest(50), 1);
  deepest(256);
  CHECK(deepest(20) > 1);
}

// No agent is kept where none may be: one descriptor at a time tells what it is about.
void nothing_may_be_kept() {
  nixl::Options options = uring;
  options.kept_max = 0;
  Bench bench(options);
  UniqueFd fd = bench.file(32 * 65536);
  knobs->set("param.late_io", 1);
  knobs->set("count.late_planned", 0);
  knobs->set("fault.io_error", 5);
  for (size_t i = 0; i < 32; i++) bench.submit(i % 2 ? writing : reading, fd.get(), i * 65536, 65536, i % 3 * 4096);
  bench.run();
  knobs->set("param.late_io", 0);
  CHECK_EQ(knobs->get("count.late_planned"), 0);
  CHECK_EQ(knobs->get("count.in_flight_max"), 1);
  CHECK(bench.engine->statistics().failed == 5);
  for (auto& job : bench.jobs) CHECK(job->request.result == 65536 || job->request.result == -EIO);
  CHECK_EQ(bench.engine->statistics().kept, 0u);
}

// Linux AIO: io_submit fails, and what others had queued is lost. Destroying the agent waits for the rest, on a thread of its own.
void queued_requests_are_dropped() {
  for (const bool slow : {false, true}) {
    nixl::Options options = linux_aio;
    if (slow) options.timeout_ms = 20;
    Bench bench(options);
    UniqueFd fd = bench.file(200 * 8192), other = bench.file(200 * 8192);
    if (slow) knobs->set("fault.destroy_hangs", 1);
    knobs->set("param.polls", 1000);
    for (size_t i = 0; i < 100; i++) bench.submit(reading, fd.get(), i * 8192, 8192);
    bench.engine->flush(bench.collector);
    knobs->set("fault.submit", 1);
    for (size_t i = 0; i < 100; i++) bench.submit(writing, other.get(), i * 8192, 8192, 4096);
    Job& staged = bench.submit(reading, fd.get(), 0, 4096, 0, false);
    bench.engine->flush(bench.collector);
    knobs->set("param.polls", 0);
    if (slow) {
      // What lies in the agent's blocks need not wait for it; the rest does.
      while (bench.engine->agents_given_up() == 0) {
        CHECK(readable(bench.engine->event_fd(), patience_ms));
        bench.engine->reap(bench.collector);
      }
      bench.drain(200);
      bench.done(staged, -ETIMEDOUT);
      Job& later = bench.submit(reading, fd.get(), 0, 8192);
      bench.engine->flush(bench.collector);
      bench.drain(200);
      bench.done(later, 8192);
      knobs->set("param.release", 1);
    }
    bench.drain();
    knobs->set("param.release", 0);
    for (size_t i = 0; i < 200; i++) bench.done(*bench.jobs[i], 8192);
    for (size_t i = 0; i < 100; i++) CHECK(bench.holds(*bench.jobs[i], i * 8192, 8192));
    CHECK(Bench::in_file(other.get(), 0, 100 * 8192));
    if (!slow) bench.done(staged, 4096);
    CHECK_EQ(bench.engine->agents_given_up(), 0u);
    CHECK_EQ(bench.engine->statistics().kept, 0u);
  }
}

// A write that meets the limit half way: POSIX AIO says so, and the others call it a success.
void space_ends_within_a_write() {
  for (const auto& options : {uring, linux_aio, posix_aio}) {
    Bench bench(options);
    UniqueFd fd = bench.file();
    knobs->set("fault.partial_space", -1);
    Job& job = bench.submit(writing, fd.get(), 0, 65536);
    bench.run();
    knobs->set("fault.partial_space", 0);
    bench.done(job, -EIO);
    CHECK_EQ(bench.engine->statistics().short_writes + bench.engine->statistics().failed / 2, 1u);
  }
}

// The call that collects the last completion does not say that it was the last: nobody waits for the timer for that.
void the_end_is_told_a_call_late() {
  for (const auto& options : {uring, linux_aio, posix_aio}) {
    for (const size_t count : {1, 64, 200}) {
      Bench bench(options);
      UniqueFd fd = bench.file(200 * 4096);
      knobs->set("param.late_end", 1);
      for (size_t i = 0; i < count; i++) bench.submit(reading, fd.get(), i * 4096, 4096);
      bench.engine->flush(bench.collector);
      knobs->set("param.late_end", 0);
      CHECK_EQ(bench.engine->in_flight(), 0u);
      CHECK(knobs->get("count.polls") <= static_cast<int64_t>(count / 64 + 3));
      for (auto& job : bench.jobs) bench.done(*job, 4096);
    }
  }
}

// What a failed transfer has still under way gets time to end before anybody gets its memory.
void a_failed_transfer_settles() {
  nixl::Options options = plugin("HF3FS");
  options.settle_ms = 300;
  Bench bench(options);
  UniqueFd fd = bench.file();
  knobs->set("param.late_us", 150'000);
  for (size_t i = 0; i < 16; i++) bench.submit(writing, fd.get(), i * 65536, 65536, 4096);
  knobs->set("fault.io_error", 1);
  bench.run();
  knobs->set("param.late_us", 0);
  for (auto& job : bench.jobs) bench.done(*job, 65536);
}

void calls_fail() {
  for (const char* call : {"fault.create_request", "fault.post"}) {
    for (const int64_t times : {1, 2, 20}) {
      Bench bench(linux_aio);
      UniqueFd fd = bench.file();
      for (size_t i = 0; i < 4; i++) bench.submit(writing, fd.get(), i * 65536, 65536, 4096);
      knobs->set(call, times);
      bench.run();
      knobs->set(call, 0);
      size_t failed = 0;
      for (auto& job : bench.jobs) failed += job->request.result == -EIO;
      CHECK_EQ(failed, times == 1 ? 0u : times == 2 ? 1u : 4u);
    }
  }
}

void files_are_refused() {
  Bench bench;
  UniqueFd first = bench.file(), second = bench.file(), third = bench.file();
  const auto three = [&] {
    const size_t from = bench.jobs.size();
    for (int fd : {first.get(), first.get(), second.get(), third.get()}) bench.submit(writing, fd, 0, 65536);
    bench.run();
    std::vector<int64_t> results;
    for (size_t i = from; i < bench.jobs.size(); i++) results.push_back(bench.jobs[i]->request.result);
    return results;
  };
  knobs->set("fault.register_file", 2);
  CHECK((three() == std::vector<int64_t>{-EIO, -EIO, 65536, 65536}));
  CHECK(bench.engine->last_problem().find("register_mem of the file") != std::string::npos);
  CHECK((three() == std::vector<int64_t>(4, 65536)));
  for (int fd : {first.get(), second.get(), third.get()}) bench.engine->forget_file(fd);
  CHECK_EQ(knobs->get("count.file_registrations"), 0);
  knobs->set("fault.register_file", 1);
  CHECK((three() == std::vector<int64_t>(4, 65536)));
  CHECK_EQ(knobs->get("count.file_registrations"), 3);
  Job& closed = bench.submit(reading, 9999, 0, 4096);
  bench.run();
  bench.done(closed, -EBADF);
}

void memory_is_refused() {
  Bench bench;
  UniqueFd fd = bench.file();
  knobs->set("fault.register_memory", 1);
  Job& job = bench.submit(writing, fd.get(), 0, 65536);
  bench.run();
  bench.done(job, -EIO);
  CHECK(bench.engine->last_problem().find("register_mem of a region") != std::string::npos);
  Job& again = bench.submit(writing, fd.get(), 0, 65536);
  bench.run();
  bench.done(again, 65536);
}

void agents_cannot_be_had() {
  for (const char* call : {"fault.create_agent", "fault.create_backend"}) {
    Bench bench(uring);
    UniqueFd fd = bench.file();
    knobs->set(call, -1);
    knobs->set("fault.io_error", 1);
    for (size_t i = 0; i < 3; i++) bench.submit(writing, fd.get(), i * 65536, 65536);
    bench.run();
    for (auto& job : bench.jobs) bench.done(*job, -EIO);
    // Not tried again at once.
    knobs->set(call, 0);
    Job& soon = bench.submit(writing, fd.get(), 0, 65536);
    bench.run();
    bench.done(soon, -EIO);
    CHECK(bench.engine->last_problem().find(call + 6) != std::string::npos || bench.engine->last_problem().find("create_configured_agent") != std::string::npos);
    const int64_t until = now_ns() + int64_t{patience_ms} * 1'000'000;
    for (bool works = false; !works;) {
      CHECK(now_ns() < until);
      Job& later = bench.submit(writing, fd.get(), 0, 65536);
      bench.run();
      works = later.request.result == 65536;
      bench.reuse_region();
      ::usleep(10'000);
    }
  }
}

// A transfer that does not end: what lies in blocks of the session is handed back; the rest waits until the library lets go.
void a_transfer_hangs() {
  nixl::Options options = linux_aio;
  options.timeout_ms = 20;
  Bench bench(options, false, true);
  UniqueFd fd = bench.file(8 * 65536), other = bench.file(65536);
  knobs->set("fault.hang", 2);
  Job& staged = bench.submit(reading, fd.get(), 0, 4096, 0, false);
  Job& direct = bench.submit(reading, fd.get(), 65536, 65536, 4096);
  Job& written = bench.submit(writing, other.get(), 0, 4096, 0, false);
  bench.engine->flush(bench.collector);
  bench.drain(2);
  bench.done(staged, -ETIMEDOUT);
  CHECK_EQ(direct.completions + written.completions, 0);
  CHECK_EQ(bench.engine->agents_given_up(), 1u);
  CHECK_EQ(bench.engine->statistics().given_up, 1u);
  CHECK(bench.engine->last_problem().find("did not end within 20 ms") != std::string::npos);
  // It goes on with another agent; calling off what hangs changes nothing.
  Job& later = bench.submit(reading, fd.get(), 0, 65536);
  bench.engine->cancel(&direct.request, bench.collector);
  bench.engine->flush(bench.collector);
  bench.drain(2);
  bench.done(later, 65536);
  CHECK(!bench.engine->wait(bench.collector, 0));
  knobs->set("param.release", 1);
  CHECK(bench.engine->wait(bench.collector, -1));
  bench.drain();
  knobs->set("param.release", 0);
  bench.done(direct, 65536);
  bench.done(written, 4096);
  CHECK(bench.holds(direct, 65536, 65536));
  CHECK_EQ(bench.engine->agents_given_up(), 0u);
  // The bytes of the one that was handed back are not touched afterwards.
  CHECK_EQ(static_cast<uint8_t*>(staged.request.iov[0].iov_base)[0], 0xee);
}

void everything_hangs() {
  nixl::Options options = linux_aio;
  options.timeout_ms = 5;
  Bench bench(options, false, true);
  UniqueFd fd = bench.file(65536);
  knobs->set("fault.hang", -1);
  for (size_t i = 0; i < 4; i++) {
    bench.submit(reading, fd.get(), 0, 65536);
    bench.engine->flush(bench.collector);
    while (bench.engine->agents_given_up() <= i) {
      CHECK(readable(bench.engine->event_fd(), patience_ms));
      bench.engine->reap(bench.collector);
    }
  }
  Job& refused = bench.submit(reading, fd.get(), 0, 65536);
  bench.engine->flush(bench.collector);
  bench.done(refused, -ETIMEDOUT);
  CHECK(bench.engine->last_problem().find("do not come to an end") != std::string::npos);
  knobs->set("fault.hang", 0);
  knobs->set("param.release", 1);
  bench.drain();
  knobs->set("param.release", 0);
  for (size_t i = 0; i < 4; i++) bench.done(*bench.jobs[i], 65536);
}

// Requests that nobody waits for any more outlive the engine.
void an_engine_leaves_something_behind() {
  const int64_t agents = knobs->get("count.agents");
  {
    nixl::Options options = linux_aio;
    options.timeout_ms = 5;
    Bench bench(options, false, true);
    UniqueFd fd = bench.file(65536);
    knobs->set("fault.hang", 1);
    Job& one = bench.submit(reading, fd.get(), 0, 4096, 0, false);
    bench.run();
    bench.done(one, -ETIMEDOUT);
    // Nobody waits: nothing is asked.
    CHECK(!readable(bench.engine->event_fd(), 0));
  }
  CHECK_EQ(nixl::agents_left_behind(), 1u);
  CHECK_EQ(knobs->get("count.agents"), agents + 1);
  CHECK_EQ(knobs->get("count.requests_leaked"), 0);
}

void requests_are_called_off() {
  Bench bench;
  UniqueFd fd = bench.file(65536);
  Job& queued = bench.submit(reading, fd.get(), 0, 65536);
  bench.engine->cancel(&queued.request, bench.collector);
  bench.done(queued, -ECANCELED);
  knobs->set("param.polls", 3);
  Job& going = bench.submit(reading, fd.get(), 0, 65536);
  // In rounds: it ends with the one that is under way.
  Job& rounds = bench.submit(reading, fd.get(), 0, 600000, 0, false);
  UniqueFd large = bench.file(1 << 20);
  rounds.request.fd = large.get();
  bench.engine->flush(bench.collector);
  bench.engine->cancel(&going.request, bench.collector);
  bench.engine->cancel(&rounds.request, bench.collector);
  bench.drain();
  knobs->set("param.polls", 0);
  bench.done(going, 65536);
  bench.done(rounds, -ECANCELED);
  // Called off between its failure and its second try.
  Bench other(uring, false, true);
  knobs->set("fault.io_error", 1);
  knobs->set("param.polls", 6);
  Job& failing = other.submit(reading, fd.get(), 0, 65536);
  other.engine->flush(other.collector);
  other.engine->cancel(&failing.request, other.collector);
  other.drain();
  knobs->set("param.polls", 0);
  other.done(failing, -ECANCELED);
}

void planned_faults() {
  Bench bench;
  UniqueFd fd = bench.file(65536);
  fault::set({{.point = "nixl.complete", .error = EIO}});
  Job& job = bench.submit(reading, fd.get(), 0, 65536);
  bench.run();
  bench.done(job, -EIO);
}

// ---- files and memory come and go ----

void descriptors_are_used_again() {
  Bench bench;
  UniqueFd first = bench.file(65536, 1), second = bench.file(65536, 2);
  const int number = first.get();
  Job& one = bench.submit(reading, number, 0, 65536);
  bench.run();
  CHECK(bench.holds(one, 0, 65536, 1));
  CHECK_EQ(::dup2(second.get(), number), number);
  Job& two = bench.submit(reading, number, 0, 65536);
  bench.run();
  CHECK(bench.holds(two, 0, 65536, 2));
  CHECK_EQ(knobs->get("count.file_registrations"), 1);
  bench.engine->forget_file(number);
  CHECK_EQ(knobs->get("count.file_registrations"), 0);
  bench.engine->forget_file(number);
  bench.engine->forget_file(12345);
  // While it is in use: as soon as it is not.
  knobs->set("param.polls", 3);
  bench.submit(reading, number, 0, 65536);
  bench.engine->flush(bench.collector);
  bench.engine->forget_file(number);
  CHECK_EQ(knobs->get("count.file_registrations"), 1);
  bench.drain();
  knobs->set("param.polls", 0);
  CHECK_EQ(knobs->get("count.file_registrations"), 0);
}

void many_files() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < 800) {
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 4096);
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  Bench bench;
  std::vector<UniqueFd> files;
  for (size_t i = 0; i < 600; i++) files.push_back(bench.file());
  for (size_t round = 0; round < 2; round++) {
    for (const UniqueFd& file : files) bench.submit(writing, file.get(), 0, 4096);
    bench.run();
    CHECK(knobs->get("count.file_registrations") <= 512);
  }
  for (auto& job : bench.jobs) bench.done(*job, 4096);
}

void regions_come_and_go() {
  Bench bench;
  UniqueFd fd = bench.file();
  const int64_t before = knobs->get("count.registrations");
  bench.submit(writing, fd.get(), 0, 65536);
  bench.submit(writing, fd.get(), 65536, 65536);
  bench.run();
  CHECK_EQ(knobs->get("count.registrations"), before + 2);  // the region and the file
  // The same memory as another region: the former one goes.
  MemoryRegistry::instance().remove(bench.region->id);
  bench.region = MemoryRegistry::instance().add(bench.memory.data(), bench.memory.size());
  bench.submit(writing, fd.get(), 0, 65536);
  bench.run();
  CHECK_EQ(knobs->get("count.registrations"), before + 2);
  bench.engine->forget_region(bench.region->id);
  CHECK_EQ(knobs->get("count.registrations"), before + 1);
  // More than are kept.
  std::vector<AlignedBuffer> memories;
  std::vector<RegionRef> regions;
  for (size_t i = 0; i < 100; i++) {
    memories.emplace_back(8192);
    regions.push_back(MemoryRegistry::instance().add(memories.back().data(), memories.back().size()));
    Job& job = bench.add(writing, fd.get(), i * 8192, 8192);
    job.request.iov[0].iov_base = memories.back().data();
    job.request.region = regions.back().get();
    bench.engine->submit(&job.request);
    bench.run();
    bench.done(job, 8192);
  }
  CHECK(knobs->get("count.registrations") <= before + 1 + 64);
  // Ended: nothing touches it any more.
  bench.region->gate.close();
  Job& late = bench.submit(writing, fd.get(), 0, 65536);
  bench.run();
  bench.done(late, -ECANCELED);
  for (const RegionRef& region : regions) MemoryRegistry::instance().remove(region->id);
}

// 3FS in a mode without copies maps over what it is given: it gets memory of the engine's own, and nothing else.
void hf3fs_maps_over_nothing_of_the_callers() {
  for (const char* mode : {"", "dram", "dram_zc", "auto"}) {
    Bench bench(*mode == '\0' ? plugin("HF3FS") : plugin("HF3FS", {{"mem_config", mode}}));
    UniqueFd fd = bench.file();
    bench.submit(writing, fd.get(), 0, 1 << 20, 4096);
    bench.run();
    const bool over = std::string(mode) == "dram_zc" || std::string(mode) == "auto";
    CHECK_EQ(knobs->get("count.mapped_over"), over ? 256 * 4096 + 16 * (256 << 10) : 0);
    // The gate of the memory is respected where bytes are copied.
    if (!over) continue;
    bench.region->gate.close();
    Job& late = bench.submit(writing, fd.get(), 0, 65536);
    bench.run();
    bench.done(late, -ECANCELED);
  }
}

// Memory that faults when the processor touches it.
void memory_of_a_gpu() {
  constexpr size_t bytes = 1 << 20;
  void* const device = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(device != MAP_FAILED);
  const RegionRef region = MemoryRegistry::instance().add(device, bytes, MemoryKind::device, 3);
  const int own_memory = ::open("/proc/self/mem", O_RDWR | O_CLOEXEC);
  std::vector<uint8_t> content(bytes);
  for (size_t i = 0; i < bytes; i++) content[i] = byte_at(i, 7);
  CHECK_EQ(::pwrite(own_memory, content.data(), bytes, static_cast<off_t>(reinterpret_cast<uintptr_t>(device))), static_cast<ssize_t>(bytes));
  for (const char* name : {"GDS", "GDS_MT"}) {
    Bench bench(plugin(name));
    CHECK(bench.engine->takes_device_memory());
    UniqueFd fd = bench.file();
    for (const auto kind : {writing, reading}) {
      std::vector<Job*> jobs;
      for (size_t i = 0; i < 8; i++) {
        // With a tail in ordinary memory: two lists, one request.
        Job& job = bench.add(kind, fd.get(), i * (65536 + 4096), 65536 + 4096, 4096, false);
        job.request.iov[0].iov_base = static_cast<uint8_t*>(device) + i * 65536;
        job.request.region = region.get();
        bench.engine->submit(&job.request);
        jobs.push_back(&job);
      }
      bench.run();
      for (Job* job : jobs) bench.done(*job, 65536 + 4096);
      if (kind == writing) {
        std::vector<uint8_t> zeros(bytes);
        CHECK_EQ(::pwrite(own_memory, zeros.data(), bytes, static_cast<off_t>(reinterpret_cast<uintptr_t>(device))), static_cast<ssize_t>(bytes));
      }
    }
    std::vector<uint8_t> back(8 * 65536);
    CHECK_EQ(::pread(own_memory, back.data(), back.size(), static_cast<off_t>(reinterpret_cast<uintptr_t>(device))), static_cast<ssize_t>(back.size()));
    CHECK(std::equal(back.begin(), back.end(), content.begin()));
    CHECK_EQ(::pwrite(own_memory, content.data(), bytes, static_cast<off_t>(reinterpret_cast<uintptr_t>(device))), static_cast<ssize_t>(bytes));
    // Failures go the same way.
    knobs->set("fault.create_request", 1);
    Job& job = bench.add(reading, fd.get(), 0, 65536 + 4096, 4096, false);
    job.request.iov[0].iov_base = device;
    job.request.region = region.get();
    bench.engine->submit(&job.request);
    bench.run();
    bench.done(job, 65536 + 4096);
  }
  Bench bench;
  CHECK(!bench.engine->takes_device_memory());
  UniqueFd fd = bench.file(65536);
  Job& job = bench.add(reading, fd.get(), 0, 65536, 0, false);
  job.request.iov[0].iov_base = device;
  job.request.region = region.get();
  bench.engine->submit(&job.request);
  bench.run();
  bench.done(job, -EOPNOTSUPP);
  // The tail of a page is ordinary memory, whatever the page lies in.
  Job& tail = bench.add(reading, fd.get(), 0, 4096, 4096, false);
  tail.request.region = region.get();
  bench.engine->submit(&tail.request);
  bench.run();
  bench.done(tail, 4096);
  MemoryRegistry::instance().remove(region->id);
  ::close(own_memory);
  ::munmap(device, bytes);
}

// Ownership passes on; and several agents are at work at the same time.
void threads() {
  Bench bench;
  UniqueFd fd = bench.file(65536);
  knobs->set("param.polls", 3);
  Job& job = bench.submit(reading, fd.get(), 0, 65536);
  bench.engine->flush(bench.collector);
  std::thread([&] { bench.drain(); }).join();
  bench.done(job, 65536);
  knobs->set("param.polls", 0);
  // What is left is counted when both are gone.
  Bench other(uring, false, true);
  UniqueFd file = other.file();
  std::thread worker([&] {
    for (size_t i = 0; i < 300; i++) other.submit(writing, file.get(), i * 8192, 8192, 4096);
    other.run();
  });
  for (size_t i = 0; i < 300; i++) bench.submit(reading, fd.get(), 0, 8192);
  bench.run();
  worker.join();
}

// Objects are not files: the stand-in is asked as the real library would be.
void objects_of_the_stand_in() {
  Refusal refusal;
  const nixl::Api& api = *nixl::load(refusal);
  const nixl::AgentConfig config;
  nixl::Agent* agent = nullptr;
  CHECK_EQ(api.create_configured_agent("objects", &config, &agent), 0);
  nixl::Params* params = nullptr;
  nixl::Backend* backend = nullptr;
  nixl::OptArgs* opt = nullptr;
  CHECK_EQ(api.create_params(&params), 0);
  CHECK_EQ(api.create_backend(agent, "OBJ", params, &backend), 0);
  api.destroy_params(params);
  api.create_opt_args(&opt);
  api.opt_args_add_backend(opt, backend);
  std::vector<uint8_t> memory(65536, 5), back(65536);
  const auto registered = [&](int type, uintptr_t address, size_t length, uint64_t device, const std::string& meta, bool in) {
    nixl::RegDlist* list = nullptr;
    api.create_reg_dlist(type, &list);
    api.reg_dlist_add_desc(list, address, length, device, meta.empty() ? nullptr : meta.data(), meta.size());
    const int answer = (in ? api.register_mem : api.deregister_mem)(agent, list, opt);
    api.destroy_reg_dlist(list);
    return answer;
  };
  const auto there = [&](const std::string& key) {
    nixl::RegDlist* list = nullptr;
    nixl::QueryRespList* answers = nullptr;
    api.create_reg_dlist(nixl::memory::object, &list);
    api.reg_dlist_add_desc(list, 0, 0, 9, key.data(), key.size());
    api.create_query_resp_list(&answers);
    CHECK_EQ(api.query_mem(agent, list, answers, opt), 0);
    bool has = false;
    CHECK_EQ(api.query_resp_list_has_value(answers, 0, &has), 0);
    api.destroy_query_resp_list(answers);
    api.destroy_reg_dlist(list);
    return has;
  };
  const auto move = [&](int operation, uint8_t* data) {
    nixl::XferDlist *local = nullptr, *remote = nullptr;
    nixl::XferReq* request = nullptr;
    api.create_xfer_dlist(nixl::memory::dram, &local);
    api.create_xfer_dlist(nixl::memory::object, &remote);
    api.xfer_dlist_add_desc(local, reinterpret_cast<uintptr_t>(data), 65536, 0);
    api.xfer_dlist_add_desc(remote, 0, 65536, 1);
    int answer = api.create_xfer_req(agent, operation, local, remote, "objects", &request, opt);
    api.destroy_xfer_dlist(local);
    api.destroy_xfer_dlist(remote);
    if (answer != 0) return answer;
    answer = api.post_xfer_req(agent, request, opt);
    while (answer == 1) answer = api.get_xfer_status(agent, request);
    api.release_xfer_req(agent, request);
    api.destroy_xfer_req(request);
    return answer;
  };
  CHECK_EQ(move(1, memory.data()), -2);
  CHECK_EQ(registered(nixl::memory::dram, reinterpret_cast<uintptr_t>(memory.data()), memory.size(), 0, "", true), 0);
  CHECK_EQ(registered(nixl::memory::dram, reinterpret_cast<uintptr_t>(back.data()), back.size(), 0, "", true), 0);
  CHECK_EQ(registered(nixl::memory::object, 0, 65536, 1, "key", true), 0);
  CHECK(!there("key"));
  CHECK_EQ(move(1, memory.data()), 0);
  CHECK(there("key"));
  CHECK_EQ(move(0, back.data()), 0);
  CHECK(back == memory);
  CHECK_EQ(registered(nixl::memory::object, 0, 65536, 1, "key", false), 0);
  api.destroy_opt_args(opt);
  api.destroy_backend(backend);
  CHECK_EQ(api.destroy_agent(agent), 0);
}

// Printed, not judged: what a page costs on our side, the stand-in doing nothing but copying.
void our_side(void* library) {
  const auto measure = reinterpret_cast<void (*)(bool)>(::dlsym(library, "nixl_stand_in_measure"));
  const auto inside = reinterpret_cast<int64_t (*)()>(::dlsym(library, "nixl_stand_in_ns"));
  CHECK(measure != nullptr && inside != nullptr);
  knobs->set("param.memcpy", 1);
  for (const bool many_files : {false, true}) {
    for (const auto kind : {writing, reading}) {
      Bench bench;
      std::vector<UniqueFd> files;
      for (size_t i = 0; i < (many_files ? 128 : 1); i++) {
        files.push_back(bench.file());
        CHECK_EQ(::ftruncate(files.back().get(), 128 * 69632), 0);
      }
      constexpr size_t rounds = 8;
      int64_t best = INT64_MAX;
      std::vector<Job*> jobs;
      for (size_t i = 0; i < 128; i++) jobs.push_back(&bench.add(kind, files[i % files.size()].get(), i * 69632, 69632, 4096));
      for (size_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < 128; i++) bench.again(*jobs[i], i * 69632);
        if (many_files) {
          for (const UniqueFd& file : files) bench.engine->forget_file(file.get());
        }
        measure(true);
        // Our time: the calls of the engine, less what the library spends; not the time in which the timer runs.
        int64_t ours = 0;
        const auto timed = [&](auto&& call) {
          const int64_t from = now_ns();
          call();
          ours += now_ns() - from;
        };
        timed([&] {
          for (Job* job : jobs) bench.engine->submit(&job->request);
          bench.engine->flush(bench.collector);
        });
        while (bench.engine->in_flight() > 0) {
          CHECK(readable(bench.engine->event_fd(), patience_ms));
          timed([&] { bench.engine->reap(bench.collector); });
        }
        best = std::min(best, ours - inside());
        measure(false);
      }
      std::printf("our side: %.2f us a page, 128 pages of 64 KiB and their records %s %s\n", static_cast<double>(best) / 128e3, kind == writing ? "written to" : "read from",
                  many_files ? "128 new files" : "one file");
    }
  }
  knobs->set("param.memcpy", 0);
}

}  // namespace

int main(int argc, char** argv) {
  const char* const temporary = std::getenv("TMPDIR");
  directory = argc > 1 ? argv[1] : temporary != nullptr ? temporary : "/tmp";
  const char* const stand_ins = std::getenv("HICACHE_STAND_INS");
  if (stand_ins == nullptr) check_failed(__FILE__, __LINE__, "HICACHE_STAND_INS does not name the folder of the stand-in libraries");
  const std::string library = std::string(stand_ins) + "/libnixl_capi.so", control = directory + "/nixl_test.control." + std::to_string(::getpid());
  ::setenv("HICACHE_STAND_IN_CONTROL", control.c_str(), 1);
  Knobs the_knobs(control, "nixl.");
  knobs = &the_knobs;
  const auto test = [](const std::string& name, const std::function<void()>& call) {
    test_context() = name;
    call();
  };
  test("loading", [&] { the_library_is_found(library); });
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD);
  test("probe", plugins_are_told);
  test("refusals", what_cannot_be_had_is_refused);
  for (const Way& way : ways()) {
    for (const bool direct : {false, true}) {
      const std::string suffix = std::string(" ") + way.name + (direct ? " direct" : "");
      test("moves" + suffix, [&] { moves_everything(way, direct); });
      test("end" + suffix, [&] { a_read_ends_at_the_end_of_the_file(way, direct); });
    }
    test(std::string("cut ") + way.name, [&] { a_file_is_cut_during_a_read(way); });
    test(std::string("256 ") + way.name, [&] { never_more_than_256_in_flight(way); });
    test(std::string("one failure ") + way.name, [&] { one_failure(way); });
  }
  test("depths", small_depths);
  for (const Way& way : {Way{"uring", uring}, Way{"aio", linux_aio}, Way{"posix_aio", posix_aio}}) {
    test(std::string("no space ") + way.name, [&] { no_space(way); });
    test(std::string("culprit ") + way.name, [&] { the_culprit_is_found(way); });
  }
  test("short write", a_short_write_is_no_success);
  test("everything fails", everything_fails);
  test("another's error", an_error_may_be_anothers);
  for (const Way& way : {Way{"uring", uring}, Way{"posix_aio", posix_aio}}) test(std::string("goes on ") + way.name, [&] { what_was_in_flight_goes_on(way); });
  test("none kept", nothing_may_be_kept);
  test("dropped", queued_requests_are_dropped);
  test("partial space", space_ends_within_a_write);
  test("late end", the_end_is_told_a_call_late);
  test("settles", a_failed_transfer_settles);
  test("calls fail", calls_fail);
  test("files refused", files_are_refused);
  test("memory refused", memory_is_refused);
  test("no agents", agents_cannot_be_had);
  test("called off", requests_are_called_off);
  test("planned", planned_faults);
  test("descriptors", descriptors_are_used_again);
  test("many files", many_files);
  test("regions", regions_come_and_go);
  test("hf3fs", hf3fs_maps_over_nothing_of_the_callers);
  test("gpu", memory_of_a_gpu);
  test("threads", threads);
  test("objects", objects_of_the_stand_in);
  test("cost", [&] { our_side(handle); });
  test("hangs", a_transfer_hangs);
  test("all hang", everything_hangs);
  test("left behind", an_engine_leaves_something_behind);
  ::unlink(control.c_str());
  std::printf("nixl_test passed\n");
  return 0;
}
