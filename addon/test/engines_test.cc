// Every engine through one suite, buffered and with O_DIRECT, over real files in argv[1] (or $TMPDIR, or /tmp).
// Nothing here sleeps: a test waits for completions by the engine's eventfd, as an event loop does, so that a signal
// that is missing fails it.
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <dirent.h>
#include <functional>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>
#include <vector>

#include "check.h"
#include "engine/engine.h"
#include "util/aligned_buffer.h"
#include "util/fault.h"
#include "util/unique_fd.h"

#if defined(__SANITIZE_THREAD__)
#include "aio_for_tsan.h"
constexpr bool under_tsan = true;
#else
constexpr bool under_tsan = false;
#endif

using namespace hicache;

namespace {

using Create = std::unique_ptr<Engine> (*)(const EngineOptions&, std::string&, std::string&);
struct EngineKind {
  const char* name;
  Create create;
  const char* submit_point;
  const char* complete_point;
  bool vectors;  // two buffers in one call
};
const EngineKind kinds[] = {
    {"io_uring", try_create_io_uring, "ring.enter", "ring.complete", true},
    {"aio", try_create_linux_aio, "aio.submit", "aio.complete", true},
    {"posix_aio", try_create_posix_aio, "paio.submit", "paio.complete", false},
};

// Long enough for any disk, and never waited for unless something is wrong.
constexpr int patience_ms = 30000;

std::string directory;

// One request with its own memory and a name.
struct Job {
  IoRequest request;
  AlignedBuffer memory;
  std::string name;
  int completions = 0;

  Job(IoRequest::Kind kind, int fd, uint64_t offset, size_t bytes, std::string job_name, size_t tail = 0)
      : memory(std::max<size_t>(bytes, 1)), name(std::move(job_name)) {
    request.kind = kind;
    request.fd = fd;
    request.offset = offset;
    request.name = name.c_str();
    // With a tail: two buffers, the second one `tail` bytes long.
    request.iov_count = tail > 0 ? 2 : 1;
    request.iov[0] = {memory.data(), bytes - tail};
    if (tail > 0) request.iov[1] = {memory.data() + bytes - tail, tail};
  }
  void fill(uint32_t seed) {
    std::mt19937 random(seed);
    for (size_t i = 0; i < memory.size(); i++) memory.data()[i] = static_cast<uint8_t>(random());
  }
};
using Jobs = std::vector<std::unique_ptr<Job>>;

class Collector final : public Sink {
 public:
  void expect(Job& job) { owners_[&job.request] = &job; }
  void completed(IoRequest* request) override {
    auto found = owners_.find(request);
    CHECK(found != owners_.end());
    CHECK_EQ(++found->second->completions, 1);
    count_++;
    if (then_) then_(*found->second);
  }
  size_t count() const { return count_; }
  void then(std::function<void(Job&)> call) { then_ = std::move(call); }

 private:
  std::map<IoRequest*, Job*> owners_;
  std::function<void(Job&)> then_;
  size_t count_ = 0;
};

bool readable(int fd, int timeout_ms) {
  pollfd event{fd, POLLIN, 0};
  for (;;) {
    const int ready = poll(&event, 1, timeout_ms);
    if (ready < 0 && errno == EINTR) continue;
    return ready == 1;
  }
}

// As an event loop does it.
void drain(Engine& engine, Sink& sink, size_t leave = 0) {
  while (engine.in_flight() > leave) {
    CHECK(readable(engine.event_fd(), patience_ms));
    engine.reap(sink);
  }
}

struct Bench {
  EngineKind kind;
  bool direct;
  std::unique_ptr<Engine> engine;
  Collector sink;
  Jobs jobs;

  Bench(const EngineKind& engine_kind, bool with_direct, unsigned depth = 16, unsigned ring_entries = 0)
      : kind(engine_kind), direct(with_direct) {
    std::string reason, remedy;
    engine = kind.create({.queue_depth = depth, .ring_entries = ring_entries}, reason, remedy);
    if (engine == nullptr) check_failed(__FILE__, __LINE__, std::string(kind.name) + ": " + reason + " " + remedy);
    CHECK_EQ(std::string(engine->name()), std::string(kind.name));
  }
  ~Bench() {
    CHECK_EQ(engine->in_flight(), 0u);
    for (auto& job : jobs) CHECK_EQ(job->completions, 1);
    fault::clear();
  }
  UniqueFd file(size_t bytes = 0, uint32_t seed = 7) {
    const std::string path = directory + "/engines_test." + std::to_string(getpid());
    {
      UniqueFd plain(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
      CHECK(plain.get() >= 0);
      std::vector<uint8_t> content = expected(0, bytes, seed);
      CHECK_EQ(write(plain.get(), content.data(), bytes), static_cast<ssize_t>(bytes));
      if (direct) fdatasync(plain.get());
    }
    UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0)));
    CHECK(fd.get() >= 0);
    unlink(path.c_str());
    return fd;
  }
  static uint8_t byte_at(size_t position, uint32_t seed) {
    return static_cast<uint8_t>((position * 2654435761u + seed) >> 13 ^ position >> 9);
  }
  static std::vector<uint8_t> expected(size_t from, size_t bytes, uint32_t seed = 7) {
    std::vector<uint8_t> content(bytes);
    for (size_t i = 0; i < bytes; i++) content[i] = byte_at(from + i, seed);
    return content;
  }
  // What a job's memory holds, against the file's content at `offset`.
  static bool holds(const Job& job, size_t offset, size_t bytes, uint32_t seed = 7) {
    for (size_t i = 0; i < bytes; i++) {
      if (job.memory.data()[i] != byte_at(offset + i, seed)) return false;
    }
    return true;
  }
  Job& add(IoRequest::Kind request_kind, int fd, uint64_t offset, size_t bytes, size_t tail = 0) {
    jobs.push_back(std::make_unique<Job>(request_kind, fd, offset, bytes, "page-" + std::to_string(jobs.size()), tail));
    sink.expect(*jobs.back());
    return *jobs.back();
  }
  Job& submit(IoRequest::Kind request_kind, int fd, uint64_t offset, size_t bytes, size_t tail = 0) {
    Job& job = add(request_kind, fd, offset, bytes, tail);
    if (request_kind == IoRequest::Kind::write) {
      for (size_t i = 0; i < bytes; i++) job.memory.data()[i] = byte_at(offset + i, 7);
    } else {
      memset(job.memory.data(), 0xee, job.memory.size());
    }
    engine->submit(&job.request);
    return job;
  }
  void run() {
    engine->flush(sink);
    drain(*engine, sink);
  }
};

constexpr auto reading = IoRequest::Kind::read;
constexpr auto writing = IoRequest::Kind::write;

void moves_every_size(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct, 16);
  UniqueFd fd = bench.file();
  const std::vector<size_t> sizes =
      direct ? std::vector<size_t>{4096, 8192, 65536, 69632, 1 << 20}
             : std::vector<size_t>{1, 511, 4096, 4097, 65536, 100003, 1 << 20};
  struct Place {
    uint64_t offset;
    size_t bytes, tail;
  };
  std::vector<Place> places;
  uint64_t offset = 0;
  for (size_t i = 0; i < 300; i++) {
    const size_t bytes = sizes[i % 40 == 39 ? sizes.size() - 1 : i % (sizes.size() - 1)];
    const size_t tail = i % 3 == 0 && bytes > 4096 ? 4096 : 0;
    places.push_back({offset, bytes, tail});
    offset += bytes;
  }
  // All at once: far more than the queue depth.
  for (const Place& at : places) bench.submit(writing, fd.get(), at.offset, at.bytes, at.tail);
  CHECK_EQ(bench.engine->in_flight(), places.size());
  CHECK_EQ(bench.sink.count(), 0u);
  bench.run();
  for (size_t i = 0; i < places.size(); i++) {
    CHECK_EQ(bench.jobs[i]->request.result, static_cast<int64_t>(places[i].bytes));
  }
  for (const Place& at : places) bench.submit(reading, fd.get(), at.offset, at.bytes, at.tail);
  bench.run();
  for (size_t i = 0; i < places.size(); i++) {
    Job& job = *bench.jobs[places.size() + i];
    CHECK_EQ(job.request.result, static_cast<int64_t>(places[i].bytes));
    CHECK(Bench::holds(job, places[i].offset, places[i].bytes));
  }
  CHECK_EQ(bench.sink.count(), 600u);
}

void an_empty_request_completes(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct);
  UniqueFd fd = bench.file(4096);
  for (auto which : {reading, writing}) {
    Job& job = bench.submit(which, fd.get(), 0, 0);
    bench.engine->flush(bench.sink);
    CHECK_EQ(job.completions, 1);
    CHECK_EQ(job.request.result, 0);
  }
  Job& second_only = bench.add(reading, fd.get(), 0, 4096, 4096);  // first buffer empty
  bench.engine->submit(&second_only.request);
  bench.run();
  CHECK_EQ(second_only.request.result, 4096);
  CHECK(Bench::holds(second_only, 0, 4096));
}

void ends_at_the_end_of_the_file(const EngineKind& kind, bool direct) {
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{1536}, size_t{10000}, size_t{12288}, size_t{65536}}) {
    Bench bench(kind, direct);
    UniqueFd fd = bench.file(bytes);
    Job& whole = bench.submit(reading, fd.get(), 0, 65536);
    Job& split = bench.submit(reading, fd.get(), 0, 65536, 4096);
    Job& beyond = bench.submit(reading, fd.get(), 1 << 20, 4096);
    bench.run();
    for (Job* job : {&whole, &split}) {
      CHECK_EQ(job->request.result, static_cast<int64_t>(bytes));
      CHECK(Bench::holds(*job, 0, bytes));
    }
    CHECK_EQ(beyond.request.result, 0);
  }
}

void continues_short_transfers(const EngineKind& kind, bool direct) {
  const std::vector<int64_t> cuts =
      direct ? std::vector<int64_t>{4096, 61440} : std::vector<int64_t>{1, 5000, 61441, 65535};
  for (const char* point : {kind.submit_point, kind.complete_point}) {
    for (int64_t cut : cuts) {
      for (int64_t times : {1, 3}) {
        for (size_t tail : {size_t{0}, size_t{4096}}) {
          Bench bench(kind, direct);
          UniqueFd fd = bench.file(65536 * 2);
          fault::set({{.point = point, .match = "page-1", .times = times, .short_bytes = cut}});
          Job& other = bench.submit(reading, fd.get(), 0, 65536, tail);
          Job& job = bench.submit(reading, fd.get(), 65536, 65536, tail);
          bench.run();
          CHECK_EQ(other.request.result, 65536);
          CHECK_EQ(job.request.result, 65536);
          CHECK(Bench::holds(job, 65536, 65536));
          // An iovec's rest that is smaller than the cut is not cut again.
          CHECK(fault::clear()[0] >= 1);
        }
        // Written short: what the file holds afterwards is read past the engines.
        Bench bench(kind, direct);
        UniqueFd fd = bench.file();
        fault::set({{.point = point, .times = times, .short_bytes = cut}});
        Job& job = bench.submit(writing, fd.get(), 0, 65536, 4096);
        bench.run();
        CHECK_EQ(job.request.result, 65536);
        CHECK(fault::clear()[0] >= 1);
        AlignedBuffer back(65536);
        CHECK_EQ(pread(fd.get(), back.data(), 65536, 0), 65536);
        CHECK(memcmp(back.data(), Bench::expected(0, 65536).data(), 65536) == 0);
      }
    }
  }
}

void a_submitted_cut_really_cuts(const EngineKind& kind, bool direct) {
  // The rest of a short write fails: only what the kernel was given may be in the file.
  Bench bench(kind, direct);
  UniqueFd fd = bench.file();
  fault::set({{.point = kind.submit_point, .short_bytes = 8192}, {.point = kind.submit_point, .error = ENOSPC}});
  Job& job = bench.submit(writing, fd.get(), 0, 65536);
  bench.run();
  CHECK_EQ(job.request.result, -ENOSPC);
  CHECK_EQ(lseek(fd.get(), 0, SEEK_END), 8192);
}

void nothing_moved(const EngineKind& kind, bool direct) {
  for (const char* point : {kind.submit_point, kind.complete_point}) {
    Bench bench(kind, direct);
    UniqueFd fd = bench.file(65536);
    fault::set({{.point = point, .match = "page-0", .short_bytes = 0},
                {.point = point, .match = "page-1", .short_bytes = 0}});
    Job& read_job = bench.submit(reading, fd.get(), 0, 65536);
    Job& write_job = bench.submit(writing, fd.get(), 0, 65536);
    bench.run();
    CHECK_EQ(read_job.request.result, 0);       // the end of the file
    CHECK_EQ(write_job.request.result, -EIO);   // not a loop
  }
}

void an_unaligned_cut_of_a_direct_transfer(const EngineKind& kind) {
  for (const char* point : {kind.submit_point, kind.complete_point}) {
    Bench bench(kind, true);
    UniqueFd fd = bench.file(65536);
    fault::set({{.point = point, .match = "page-0", .short_bytes = 5000},
                {.point = point, .match = "page-1", .short_bytes = 5000},
                {.point = point, .match = "page-2", .short_bytes = 512}});
    Job& odd_read = bench.submit(reading, fd.get(), 0, 65536);
    Job& odd_write = bench.submit(writing, fd.get(), 0, 65536);
    Job& sector_read = bench.submit(reading, fd.get(), 0, 65536);
    bench.run();
    // Inside a sector: taken as the end of the file, never resubmitted into EINVAL.
    CHECK_EQ(odd_read.request.result, 5000);
    CHECK(Bench::holds(odd_read, 0, 5000));
    // Where the file system takes any place (tmpfs), the write goes on; so does a read at a sector where the device
    // can, else it ends there.
    AlignedBuffer trial(8192);
    const bool bytes = pwrite(fd.get(), trial.data() + 1, 1, 65537) == 1;
    const bool sectors = pread(fd.get(), trial.data() + 512, 512, 512) == 512;
    CHECK_EQ(odd_write.request.result, bytes ? 65536 : -EIO);
    CHECK_EQ(sector_read.request.result, sectors ? 65536 : 512);
  }
}

void tries_again_what_is_nobodys_fault(const EngineKind& kind, bool direct) {
  for (const char* point : {kind.submit_point, kind.complete_point}) {
    for (int error : {EINTR, EAGAIN, EBUSY}) {
      if (error == EBUSY && point == kind.complete_point) continue;  // a real failure there
      for (int64_t times : {5, 40, 0}) {  // 0: until cleared, which must neither spin nor hang
        Bench bench(kind, direct, 4);
        UniqueFd fd = bench.file(65536 * 4);
        fault::set({{.point = point, .match = "page", .times = times, .error = error}});
        for (size_t i = 0; i < 12; i++) {
          bench.submit(i < 10 ? reading : writing, fd.get(), 65536 * (i % 4), 65536, i % 2 ? 4096 : 0);
        }
        bench.run();
        for (auto& job : bench.jobs) {
          CHECK_EQ(job->request.result, 65536);
          CHECK(Bench::holds(*job, job->request.offset - 65536, 65536));
        }
        CHECK(fault::clear()[0] >= (times == 0 ? 12 : 1));
      }
    }
  }
}

// Even the plain system call, the last resort, answers EINTR or EAGAIN: a while, and for ever.
void the_last_resort_fails(const EngineKind& kind, bool direct) {
  for (const char* point : {kind.submit_point, kind.complete_point}) {
    for (int64_t times : {3, 0}) {
      Bench bench(kind, direct, 4);
      UniqueFd fd = bench.file(65536);
      fault::set({{.point = point, .times = 0, .error = EAGAIN},
                  {.point = "preadv", .times = times, .error = EINTR},
                  {.point = "pwritev", .times = times, .error = EAGAIN}});
      Job& read_job = bench.submit(reading, fd.get(), 0, 65536, 4096);
      Job& write_job = bench.submit(writing, fd.get(), 0, 65536, 4096);
      bench.run();
      CHECK_EQ(read_job.request.result, times == 0 ? -EAGAIN : 65536);
      CHECK_EQ(write_job.request.result, times == 0 ? -EAGAIN : 65536);
      const auto struck = fault::clear();
      CHECK(struck[1] >= 3 && struck[2] >= 3);
    }
  }
}

void an_error_is_the_requests_own(const EngineKind& kind, bool direct) {
  for (const char* point : {kind.submit_point, kind.complete_point}) {
    for (int error : {ENOSPC, EIO, ENOMEM, EBADF, EDQUOT}) {
      // The first, one in the midst, the last.
      Bench bench(kind, direct, 8);
      UniqueFd fd = bench.file(20 * 4096);
      fault::set({{.point = point, .match = "page-0", .times = 0, .error = error},
                  {.point = point, .match = "page-3", .times = 0, .error = error},
                  {.point = point, .match = "page-19", .times = 0, .error = error}});
      for (size_t i = 0; i < 20; i++) bench.submit(i % 2 ? writing : reading, fd.get(), i * 4096, 4096);
      bench.run();
      for (size_t i = 0; i < 20; i++) {
        CHECK_EQ(bench.jobs[i]->request.result, i == 0 || i == 3 || i == 19 ? -error : 4096);
      }
    }
  }
  // Several in a row in the midst of one batch.
  Bench bench(kind, direct, 32);
  UniqueFd fd = bench.file(20 * 4096);
  fault::set({{.point = kind.submit_point, .after = 5, .times = 3, .error = ENOMEM}});
  for (size_t i = 0; i < 20; i++) bench.submit(reading, fd.get(), i * 4096, 4096);
  bench.run();
  size_t failed = 0;
  for (auto& job : bench.jobs) failed += job->request.result == -ENOMEM;
  CHECK_EQ(failed, 3u);
}

void the_kernels_own_errors(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct, 32);
  UniqueFd fd = bench.file(20 * 4096);
  for (size_t i = 0; i < 20; i++) {
    Job& job = bench.add(reading, i % 5 == 2 ? -1 : fd.get(), i * 4096, 4096);
    if (i == 8) job.request.iov[0].iov_base = reinterpret_cast<void*>(4096);  // nobody's memory
    bench.engine->submit(&job.request);
  }
  bench.run();
  for (size_t i = 0; i < 20; i++) {
    CHECK_EQ(bench.jobs[i]->request.result, i % 5 == 2 ? -EBADF : i == 8 ? -EFAULT : 4096);
  }

  if (direct) {
    Job& odd = bench.submit(reading, fd.get(), 100, 4096);
    bench.run();
    CHECK(odd.request.result == -EINVAL || odd.request.result == 4096);  // some file systems take it
  }
  UniqueFd closed_for_writing(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  Job& read_only = bench.submit(writing, closed_for_writing.get(), 0, 4096);
  bench.run();
  CHECK_EQ(read_only.request.result, -EBADF);
}

// A real short write: the file may grow to 40960 bytes and no further.
void a_limit_in_the_midst_of_a_write(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct);
  UniqueFd fd = bench.file();
  rlimit before{};
  CHECK_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 40960;
  CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  Job& over = bench.submit(writing, fd.get(), 0, 65536, 4096);
  bench.run();
  Job& within = bench.submit(writing, fd.get(), 0, 36864);
  bench.run();
  CHECK_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  CHECK_EQ(over.request.result, -EFBIG);
  CHECK_EQ(within.request.result, 36864);
}

void a_withheld_completion(const EngineKind& kind, bool direct) {
  for (const char* point : {kind.submit_point, kind.complete_point}) {
    Bench bench(kind, direct, 4);
    UniqueFd fd = bench.file(8 * 4096);
    fault::set({{.point = point, .match = "page-2", .hang = true}});
    for (size_t i = 0; i < 8; i++) bench.submit(reading, fd.get(), i * 4096, 4096);
    bench.engine->flush(bench.sink);
    drain(*bench.engine, bench.sink, 1);
    CHECK_EQ(bench.jobs[2]->completions, 0);
    CHECK_EQ(bench.engine->in_flight(), 1u);
    // It cannot be had by waiting or cancelling.
    CHECK(!bench.engine->wait(bench.sink, 0));
    bench.engine->cancel(&bench.jobs[2]->request, bench.sink);
    CHECK(!bench.engine->wait(bench.sink, 1));
    CHECK_EQ(bench.engine->in_flight(), 1u);
    // It blocks nobody else.
    Job& other = bench.submit(reading, fd.get(), 0, 4096);
    bench.engine->flush(bench.sink);
    drain(*bench.engine, bench.sink, 1);
    CHECK_EQ(other.request.result, 4096);
    // Released, from another thread: the eventfd says so.
    std::thread([] { fault::clear(); }).join();
    CHECK(readable(bench.engine->event_fd(), patience_ms));
    bench.engine->reap(bench.sink);
    CHECK_EQ(bench.jobs[2]->request.result, 4096);
    CHECK(Bench::holds(*bench.jobs[2], 2 * 4096, 4096));
  }
}

void all_slots_withheld(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct, 4);
  UniqueFd fd = bench.file(16 * 4096);
  fault::set({{.point = kind.complete_point, .times = 4, .hang = true}});
  for (size_t i = 0; i < 16; i++) bench.submit(reading, fd.get(), i * 4096, 4096);
  bench.engine->flush(bench.sink);
  // All four places in the kernel are taken for ever: nothing moves, and what is queued can still be cancelled.
  CHECK(!bench.engine->wait(bench.sink, 1));
  bench.engine->cancel(&bench.jobs[10]->request, bench.sink);
  CHECK_EQ(bench.jobs[10]->request.result, -ECANCELED);
  CHECK_EQ(bench.engine->in_flight(), 15u);
  // wait() without end, and the release comes from another thread.
  std::thread releaser([] { fault::clear(); });
  while (bench.engine->in_flight() > 0) CHECK(bench.engine->wait(bench.sink, -1));
  releaser.join();
  for (size_t i = 0; i < 16; i++) CHECK_EQ(bench.jobs[i]->request.result, i == 10 ? -ECANCELED : 4096);
}

// One at a time, so that the order shows: somebody waits for a read.
void reads_go_first(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct, 1);
  UniqueFd fd = bench.file(64 * 4096);
  std::string order;
  bench.sink.then([&](Job& job) { order += job.request.kind == reading ? 'r' : 'w'; });
  for (size_t i = 0; i < 3; i++) bench.submit(writing, fd.get(), i * 4096, 4096);
  for (size_t i = 0; i < 40; i++) bench.submit(reading, fd.get(), (8 + i) * 4096, 4096);
  bench.run();
  // And yet no write waits for ever.
  CHECK_EQ(order, std::string(16, 'r') + 'w' + std::string(16, 'r') + 'w' + std::string(8, 'r') + 'w');
}

void cancelled_before_it_was_submitted(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct, 4);
  UniqueFd fd = bench.file(20 * 4096);
  for (size_t i = 0; i < 20; i++) bench.submit(reading, fd.get(), i * 4096, 4096);
  // Not flushed: all are queued. First, last, and some of the midst.
  for (size_t i : {size_t{0}, size_t{19}, size_t{7}, size_t{8}, size_t{18}}) {
    bench.engine->cancel(&bench.jobs[i]->request, bench.sink);
    CHECK_EQ(bench.jobs[i]->completions, 1);
    CHECK_EQ(bench.jobs[i]->request.result, -ECANCELED);
  }
  CHECK_EQ(bench.engine->in_flight(), 15u);
  bench.submit(reading, fd.get(), 0, 4096);  // the end of the queue is still in order
  bench.run();
  size_t whole = 0;
  for (auto& job : bench.jobs) whole += job->request.result == 4096;
  CHECK_EQ(whole, 16u);
}

void cancelled_after_it_was_submitted(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct, 32);
  UniqueFd fd = bench.file(64 * 65536);
  for (int round = 0; round < 5; round++) {
    const size_t first = bench.jobs.size();
    for (size_t i = 0; i < 64; i++) bench.submit(reading, fd.get(), i * 65536, 65536);
    bench.engine->flush(bench.sink);
    for (size_t i = first; i < bench.jobs.size(); i++) {
      if (bench.jobs[i]->completions == 0) bench.engine->cancel(&bench.jobs[i]->request, bench.sink);
      if (bench.jobs[i]->completions == 0) bench.engine->cancel(&bench.jobs[i]->request, bench.sink);  // twice is once
    }
    drain(*bench.engine, bench.sink);
    for (size_t i = first; i < bench.jobs.size(); i++) {
      const int64_t result = bench.jobs[i]->request.result;
      CHECK(result == 65536 || result == -ECANCELED);
      if (result == 65536) CHECK(Bench::holds(*bench.jobs[i], (i - first) * 65536, 65536));
    }
  }
}

// A cancelled request whose piece came back short is not continued.
void cancelled_between_two_halves(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct);
  UniqueFd fd = bench.file(65536);
  fault::set({{.point = kind.submit_point, .short_bytes = 8192, .hang = true},
              {.point = kind.submit_point, .error = EINTR, .hang = true}});
  Job& job = bench.submit(reading, fd.get(), 0, 65536);
  bench.engine->flush(bench.sink);
  bench.engine->cancel(&job.request, bench.sink);
  CHECK(!bench.engine->wait(bench.sink, 0));
  fault::clear();
  drain(*bench.engine, bench.sink);
  CHECK_EQ(job.request.result, -ECANCELED);
}

// The kernel can let go of a read that waits for a pipe.
void cancelled_for_good(const EngineKind& kind) {
  if (std::string(kind.name) == "aio") return;  // Linux AIO would block in io_submit on a pipe
  Bench bench(kind, false);
  int ends[2];
  CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd in(ends[0]), out(ends[1]);
  Job& first = bench.submit(reading, in.get(), 0, 16);
  Job& second = bench.submit(reading, in.get(), 0, 16);
  bench.engine->flush(bench.sink);
  CHECK(!bench.engine->wait(bench.sink, 0));
  // POSIX AIO has begun with one of them, and lets go of the other alone.
  bench.engine->cancel(&second.request, bench.sink);
  drain(*bench.engine, bench.sink, 1);
  CHECK_EQ(second.request.result, -ECANCELED);
  CHECK_EQ(write(out.get(), "sixteen letters!", 16), 16);
  drain(*bench.engine, bench.sink);
  CHECK_EQ(first.request.result, 16);
  CHECK(memcmp(first.memory.data(), "sixteen letters!", 16) == 0);
}

// While no thread is free both wait, one behind the other. What is taken out takes nothing with it.
void cancelled_before_others_of_its_file(const EngineKind& kind) {
  if (std::string(kind.name) == "aio") return;  // Linux AIO would block in io_submit on a pipe
  constexpr size_t threads = 20 - 1;            // of glibc's POSIX AIO; the engine's waiter has one
  for (const size_t cancelled : {size_t{1}, size_t{2}, size_t{4}}) {
    Bench busy(kind, false, threads);
    std::vector<UniqueFd> pipes;
    for (size_t i = 0; i < threads; i++) {
      int ends[2];
      CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
      pipes.emplace_back(ends[0]);
      pipes.emplace_back(ends[1]);
      busy.submit(reading, ends[0], 0, 1);
    }
    busy.engine->flush(busy.sink);
    Bench bench(kind, false);
    UniqueFd fd = bench.file(4 * 4096);
    for (size_t i = 0; i < 4; i++) bench.submit(writing, fd.get(), i * 4096, 4096);
    bench.engine->flush(bench.sink);
    for (size_t i = 0; i < cancelled; i++) bench.engine->cancel(&bench.jobs[i]->request, bench.sink);
    for (size_t i = 1; i < pipes.size(); i += 2) CHECK_EQ(write(pipes[i].get(), "x", 1), 1);
    drain(*bench.engine, bench.sink);
    for (size_t i = 0; i < 4; i++) CHECK(bench.jobs[i]->request.result == 4096 || (i < cancelled && bench.jobs[i]->request.result == -ECANCELED));
    drain(*busy.engine, busy.sink);
  }
}

void wait_knows_its_limits(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct);
  CHECK(!bench.engine->wait(bench.sink, -1));  // nothing in flight: at once
  UniqueFd fd = bench.file(65536);
  bench.submit(reading, fd.get(), 0, 65536);
  CHECK(bench.engine->wait(bench.sink, patience_ms));  // flushes by itself
  CHECK_EQ(bench.sink.count(), 1u);
  CHECK(!bench.engine->wait(bench.sink, patience_ms));
}

// The sink may start what comes next, and a chain of instant failures must not pile up on the stack.
void a_sink_that_submits(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct, 2);
  UniqueFd fd = bench.file(4096);
  Job& job = bench.add(reading, -1, 0, 4096);
  size_t left = 50000;
  fault::set({{.point = kind.submit_point, .times = 0, .error = EIO}});
  bench.sink.then([&](Job& done) {
    if (left == 0) return;
    CHECK_EQ(done.request.result, -EIO);
    if (--left == 0) {
      fault::clear();
      done.request.fd = fd.get();
    }
    done.completions = 0;
    bench.engine->submit(&done.request);
    bench.engine->flush(bench.sink);
  });
  bench.engine->submit(&job.request);
  bench.run();
  CHECK_EQ(job.request.result, 4096);

  // And it may cancel: a neighbour that is queued, one that is finished but not yet handed back, itself.
  Bench cancelling(kind, direct, 8);
  for (size_t i = 0; i < 6; i++) cancelling.add(reading, fd.get(), 0, i < 3 ? 0 : 4096);
  cancelling.sink.then([&](Job& done) {
    if (&done != cancelling.jobs[0].get()) return;
    cancelling.engine->cancel(&done.request, cancelling.sink);
    for (size_t i = 1; i < 6; i++) cancelling.engine->cancel(&cancelling.jobs[i]->request, cancelling.sink);
  });
  for (auto& each : cancelling.jobs) cancelling.engine->submit(&each->request);
  cancelling.run();
  for (size_t i = 0; i < 3; i++) CHECK_EQ(cancelling.jobs[i]->request.result, 0);
}

// What a worker leaves behind is drained by another thread, after the one that submitted has ended.
void ownership_passes_on(const EngineKind& kind, bool direct) {
  Bench bench(kind, direct, 8);
  UniqueFd fd = bench.file(64 * 65536);
  std::thread([&] {
    for (size_t i = 0; i < 64; i++) bench.submit(i % 2 ? writing : reading, fd.get(), i * 65536, 65536);
    bench.engine->flush(bench.sink);
  }).join();
  while (bench.engine->in_flight() > 0) CHECK(bench.engine->wait(bench.sink, patience_ms));
  for (auto& job : bench.jobs) CHECK_EQ(job->request.result, 65536);
}

// Several engines at once, each with its own thread, on one file.
void engines_side_by_side(const EngineKind& kind, bool direct) {
  Bench first(kind, direct, 4), second(kind, direct, 4);
  UniqueFd fd = first.file(32 * 4096);
  std::thread threads[2];
  Bench* benches[] = {&first, &second};
  for (int t = 0; t < 2; t++) {
    threads[t] = std::thread([&, t] {
      for (size_t i = 0; i < 100; i++) benches[t]->submit(reading, fd.get(), i % 32 * 4096, 4096);
      benches[t]->run();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (Bench* bench : benches) {
    for (size_t i = 0; i < 100; i++) CHECK(Bench::holds(*bench->jobs[i], i % 32 * 4096, 4096));
  }
}

// A submission ring of 2 entries (so 4 completions) under 64 requests: the overflow of the completion queue is real
// here.
void the_completion_queue_overflows(bool direct) {
  Bench bench(kinds[0], direct, 64, 2);
  UniqueFd fd = bench.file(64 * 4096);
  for (int round = 0; round < 20; round++) {
    for (size_t i = 0; i < 100; i++) bench.submit(reading, fd.get(), i % 64 * 4096, 4096);
    // Cancellations take room in it, too.
    bench.engine->flush(bench.sink);
    for (size_t i = 0; i < 10; i++) {
      Job& job = *bench.jobs[bench.jobs.size() - 100 + i];
      if (job.completions == 0) bench.engine->cancel(&job.request, bench.sink);
    }
    drain(*bench.engine, bench.sink);
  }
  for (size_t i = 0; i < bench.jobs.size(); i++) {
    Job& job = *bench.jobs[i];
    CHECK(job.request.result == 4096 || (job.request.result == -ECANCELED && i % 100 < 10));
    if (job.request.result == 4096) CHECK(Bench::holds(job, i % 100 % 64 * 4096, 4096));
  }
}

size_t open_descriptors() {
  size_t count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (readdir(folder) != nullptr) count++;
  closedir(folder);
  return count;
}

std::set<std::string> ring_mappings() {
  std::set<std::string> found;
  FILE* maps = fopen("/proc/self/maps", "r");
  char line[512];
  while (fgets(line, sizeof line, maps) != nullptr) {
    if (strstr(line, "io_uring") != nullptr || strstr(line, "[aio]") != nullptr) found.insert(line);
  }
  fclose(maps);
  return found;
}

size_t threads_alive() {
  size_t count = 0;
  DIR* folder = opendir("/proc/self/task");
  while (readdir(folder) != nullptr) count++;
  closedir(folder);
  return count;
}

void leaves_nothing_behind(const EngineKind& kind) {
  const size_t descriptors = open_descriptors();
  const auto mappings = ring_mappings();
  // 1000 in all. By several threads, because io_destroy() waits tens of milliseconds for other processors.
  std::vector<std::thread> threads;
  for (int t = 0; t < 20; t++) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; i++) {
        std::string why, what_to_do;
        auto engine = kind.create({.queue_depth = 8}, why, what_to_do);
        if (engine == nullptr) check_failed(__FILE__, __LINE__, why);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(open_descriptors(), descriptors);
  CHECK(ring_mappings() == mappings);
  CHECK(threads_alive() < 40);
}

// In a child: what a system that lacks the engine makes of it.
void in_a_child(const std::function<void()>& call) {
  fflush(nullptr);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    call();
    fflush(nullptr);
    _exit(0);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void forbid(long call, int error) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{4, filter};
  CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

void refuses(Create create, long call, int error, const char* says) {
  in_a_child([&] {
    const size_t descriptors = open_descriptors();
    std::string reason, remedy;
    forbid(call, error);
    CHECK(create({}, reason, remedy) == nullptr);
    if (reason.find(says) == std::string::npos) {
      check_failed(__FILE__, __LINE__, "'" + reason + "' does not say " + says);
    }
    CHECK(!remedy.empty());
    CHECK_EQ(open_descriptors(), descriptors);
  });
}

void says_why_it_cannot_be_had() {
  refuses(try_create_io_uring, __NR_io_uring_setup, EPERM, "io_uring_setup: EPERM");
  refuses(try_create_io_uring, __NR_io_uring_setup, ENOSYS, "io_uring_setup: ENOSYS");
  refuses(try_create_io_uring, __NR_io_uring_setup, ENOMEM, "RLIMIT_MEMLOCK");
  refuses(try_create_io_uring, __NR_io_uring_setup, EINVAL, "io_uring_setup: EINVAL");
  refuses(try_create_io_uring, __NR_io_uring_register, EPERM, "io_uring_register: EPERM");
  refuses(try_create_io_uring, __NR_io_uring_register, EINVAL, "io_uring_register: EINVAL");
  refuses(try_create_io_uring, __NR_io_uring_enter, EPERM, "a NOP through the ring: EPERM");
  refuses(try_create_linux_aio, __NR_io_setup, ENOSYS, "io_setup: ENOSYS");
  refuses(try_create_linux_aio, __NR_io_setup, EPERM, "io_setup: EPERM");
  refuses(try_create_linux_aio, __NR_io_setup, EAGAIN, "fs.aio-max-nr");
  for (const EngineKind& kind : kinds) refuses(kind.create, __NR_eventfd2, EMFILE, "eventfd: EMFILE");
  // A plain program: no more threads.
  refuses(try_create_posix_aio, __NR_clone3, EAGAIN, "EAGAIN");

  // The system call is allowed at first and forbidden later: every request ends, by the error or by the plain system
  // call.
  for (int error : {EPERM, EAGAIN, EINTR, ENOMEM}) {
    for (int which : {0, 1}) {
      in_a_child([&] {
        Bench bench(kinds[which], false, 4);
        UniqueFd fd = bench.file(20 * 4096);
        for (size_t i = 0; i < 20; i++) bench.submit(reading, fd.get(), i * 4096, 4096);
        forbid(which == 0 ? __NR_io_uring_enter : __NR_io_submit, error);
        bench.run();
        const bool retried = error == EAGAIN || error == EINTR;
        for (auto& job : bench.jobs) CHECK_EQ(job->request.result, retried ? 4096 : -error);
      });
    }
  }
}

void linux_aio_runs_out() {
  // Takes what fs.aio-max-nr has left, engine by engine.
  std::vector<std::unique_ptr<Engine>> engines;
  std::string reason, remedy;
  for (int i = 0; i < 64; i++) {
    auto engine = try_create_linux_aio({.queue_depth = 32768}, reason, remedy);
    if (engine == nullptr) break;
    engines.push_back(std::move(engine));
  }
  if (engines.size() == 64) return;  // a generous system
  CHECK(reason.find("fs.aio-max-nr") != std::string::npos || reason.find("ENOMEM") != std::string::npos);
  CHECK(!remedy.empty());
}

bool can_direct() {
  const std::string path = directory + "/engines_test.probe." + std::to_string(getpid());
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT, 0600));
  unlink(path.c_str());
  if (!fd) return false;
  AlignedBuffer block(4096);
  memset(block.data(), 0, 4096);
  return pwrite(fd.get(), block.data(), 4096, 0) == 4096;
}

}  // namespace

int main(int argc, char** argv) {
  const char* temporary = std::getenv("TMPDIR");
  directory = argc > 1 ? argv[1] : temporary != nullptr && *temporary != '\0' ? temporary : "/tmp";
  const bool direct_works = can_direct();
  const std::string only = argc > 2 ? argv[2] : "";

  if (only.empty() && !under_tsan) {
    // First of all: glibc's POSIX AIO does not survive a fork once it has threads. (And the thread sanitizer does not
    // follow one.)
    test_context() = "systems that lack an engine";
    says_why_it_cannot_be_had();
  }
  int usable = 0;
  for (const EngineKind& kind : kinds) {
    if (!only.empty() && only != kind.name) continue;
    std::string reason, remedy;
    if (kind.create({}, reason, remedy) == nullptr) {
      std::printf("engines_test: %s is not to be had here and was NOT tested: %s\n", kind.name, reason.c_str());
      continue;
    }
    usable++;
    for (bool direct : {false, true}) {
      if (direct && !direct_works) continue;
      const auto test = [&](const char* name, auto&& call) {
        test_context() = std::string(kind.name) + (direct ? ", O_DIRECT, " : ", buffered, ") + name;
        call();
      };
#define TEST(name) test(#name, [&] { name(kind, direct); })
      TEST(moves_every_size);
      TEST(an_empty_request_completes);
      TEST(ends_at_the_end_of_the_file);
      TEST(continues_short_transfers);
      TEST(a_submitted_cut_really_cuts);
      TEST(nothing_moved);
      TEST(tries_again_what_is_nobodys_fault);
      TEST(the_last_resort_fails);
      TEST(an_error_is_the_requests_own);
      TEST(the_kernels_own_errors);
      TEST(a_limit_in_the_midst_of_a_write);
      TEST(a_withheld_completion);
      TEST(all_slots_withheld);
      TEST(reads_go_first);
      TEST(cancelled_before_it_was_submitted);
      TEST(cancelled_after_it_was_submitted);
      TEST(cancelled_between_two_halves);
      TEST(wait_knows_its_limits);
      TEST(a_sink_that_submits);
      TEST(ownership_passes_on);
      TEST(engines_side_by_side);
#undef TEST
      if (direct) test("an_unaligned_cut_of_a_direct_transfer", [&] { an_unaligned_cut_of_a_direct_transfer(kind); });
      if (!direct) test("cancelled_for_good", [&] { cancelled_for_good(kind); });
      if (!direct) test("cancelled_before_others_of_its_file", [&] { cancelled_before_others_of_its_file(kind); });
      if (!direct) test("leaves_nothing_behind", [&] { leaves_nothing_behind(kind); });
      if (kind.create == try_create_io_uring) {
        test("the_completion_queue_overflows", [&] { the_completion_queue_overflows(direct); });
      }
    }
  }
  CHECK(usable > 0);
  test_context() = "fs.aio-max-nr";
  linux_aio_runs_out();
  std::printf("engines_test: ok%s\n",
              direct_works ? "" : " (O_DIRECT does not work in this directory and was NOT tested)");
}
