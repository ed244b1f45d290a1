// The agent without JavaScript: batches through every engine and through the pool alone, cancellation by words, hangs, and the end with work in flight.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "test/check.h"
#include "test/page_bench.h"
#include "util/clock.h"
#include "util/fault.h"

using namespace hicache;

namespace {

constexpr size_t memory_slot_bytes = 2 << 20, memory_slots = 16;

struct Bench : PageBench {
  Bench(const std::string& directory, const std::string& engine, bool direct, unsigned threads = 4)
      : PageBench(memory_slot_bytes, memory_slots, PosixDirectoryOptions{directory, direct, direct}, engine, threads) {}
};

void plan_hang(const char* point, const char* match, int64_t times = 1) {
  fault::Plan plan;
  plan.point = point;
  plan.match = match;
  plan.times = times;
  plan.hang = true;
  fault::set({plan});
}

void everything(const std::string& directory, const std::string& engine, bool direct) {
  Bench bench(directory, engine, direct);
  if (bench.agent == nullptr) {
    std::printf("agent: %s cannot be used here, NOT TESTED\n", engine.c_str());
    return;
  }
  std::vector<PageAsk> writes, reads;
  const size_t lengths[] = {1, 4096, 65536, 70001, (1 << 20) + 5};
  for (size_t i = 0; i < 5; i++) {
    bench.fill(i, lengths[i], static_cast<uint8_t>(i));
    writes.push_back({Op::page_write, "d1/page" + std::to_string(i), i, lengths[i], flag::replace, 0});
    reads.push_back({Op::page_read, writes[i].name, i + 5, lengths[i], 0, 0});
  }
  const auto written = bench.run(writes);
  for (size_t i = 0; i < 5; i++) CHECK(written->status(i) == Status::ok);
  const auto got = bench.run(reads);
  for (size_t i = 0; i < 5; i++) {
    CHECK(got->status(i) == Status::ok);
    CHECK(std::memcmp(bench.slot(i), bench.slot(i + 5), lengths[i]) == 0);
  }
  // Extents: the second time the file is open, and the transfer starts on this thread.
  const int fd = ::open((directory + "/segment").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  CHECK(fd >= 0 && ::ftruncate(fd, 1 << 20) == 0);
  ::close(fd);
  for (int round = 0; round < 2; round++) {
    bench.fill(0, 10000, static_cast<uint8_t>(round));
    CHECK(bench.run({{Op::extent_write, "segment", 0, 10000, 0, 8192}})->status(0) == Status::ok);
    std::memset(bench.slot(1), 0, 10000);
    CHECK(bench.run({{Op::extent_read, "segment", 1, 10000, 0, 8192}})->status(0) == Status::ok);
    CHECK(std::memcmp(bench.slot(0), bench.slot(1), 10000) == 0);
  }
  CHECK(bench.run({{Op::extent_read, "segment", 1, 10000, 0, (1 << 20) - 4096}})->status(0) == Status::length);
  CHECK(bench.run({{Op::extent_read, "nothing", 1, 10000, 0, 0}})->status(0) == Status::absent);
  CHECK(bench.run({{Op::page_check, "d1/page0"}, {Op::page_touch, "d1/page0"}, {Op::page_delete, "d1/page0"}})->status(2) == Status::ok);
  CHECK(bench.agent->idle());
}

void malformed(const std::string& directory) {
  Bench bench(directory, "aio", false);
  const auto refused = [&](PageAsk ask) {
    size_t first;
    std::string problem;
    bench.submit({{Op::page_check, "fine"}, ask}, first, &problem);
    CHECK(problem.find("Descriptor 1") == 0);
    // Nothing was started, not even what was in order.
    CHECK_EQ(bench.state(first), word_state::queued);
    CHECK(bench.agent->idle());
  };
  for (const char* name : {"", "/a", "a/../b", "..", "a//b", ".hicache-nixl-tmp-1"}) refused({Op::page_check, name});
  refused({static_cast<Op>(0), "a"});
  refused({static_cast<Op>(11), "a"});
  refused({Op::page_read, "a", memory_slots, 1});
  refused({Op::page_read, "a", memory_slots - 1, memory_slot_bytes + 1});
  refused({Op::page_read, "a", 0, 1, 256});
}

// Off the pool: what waits ends at once, what runs is answered at once, and its memory is given back when it really ends.
void cancellation(const std::string& directory) {
  Bench bench(directory, "aio", false, 1);
  bench.fill(0, 4096, 1);
  CHECK(bench.run({{Op::page_write, "c", 0, 4096, flag::replace}})->status(0) == Status::ok);
  plan_hang("preadv", "c");
  size_t first, other;
  const auto answer = bench.submit({{Op::page_read, "c", 1, 4096}, {Op::page_read, "c", 2, 4096}, {Op::page_read, "c", 3, 4096}}, first);
  const auto later = bench.submit({{Op::page_read, "c", 4, 4096}}, other);
  bench.process_until([&] { return bench.state(first) == word_state::started; });
  CHECK(bench.change(first + 1, word_state::queued, word_state::cancelled));
  // The word serves somebody else by the time the agent looks.
  CHECK(bench.change(first + 2, word_state::queued, word_state::cancelled));
  std::atomic_ref(bench.words[first + 2]).store((2 << word_state::bits) | word_state::queued);
  request_cancel_everywhere();
  bench.process_until([&] { return bench.agent->in_flight() == 2; });
  CHECK(!answer->there);
  CHECK(bench.change(first, word_state::started, word_state::cancelling));
  request_cancel_everywhere();
  bench.process_until([&] { return answer->there; });
  CHECK(answer->status(0) == Status::error && answer->error(0) == ECANCELED);
  CHECK(answer->status(1) == Status::cancelled && answer->status(2) == Status::cancelled);
  CHECK_EQ(bench.state(first), word_state::cancelling);
  CHECK_EQ(bench.state(first + 1), word_state::cancelled);
  CHECK_EQ(bench.words[first + 2], (2 << word_state::bits) | word_state::queued);
  CHECK(!later->there);
  fault::clear();
  bench.process_until([&] { return later->there && bench.agent->idle(); });
  CHECK(later->status(0) == Status::ok);
  CHECK_EQ(bench.state(first), word_state::done);
}

// Holds what it is given, until it is told to let go.
class Holding : public Plugin {
 public:
  std::function<void()> in_the_middle;  // of the next process()

  const char* engine() const override { return "holding"; }
  std::vector<int> event_fds() const override { return {}; }
  void process() override {
    if (in_the_middle) std::exchange(in_the_middle, nullptr)();
  }
  void start(Batch& batch) override {
    for (size_t i = 0; i < batch.size(); i++) CHECK(batch[i].claim());
  }
  void withdraw_called_off() override {}
  void cancel(Operation& operation) override { operation.finish(Outcome::failed(ECANCELED)); }
  void stop() override {}
  size_t directories() const override { return 1; }
  void list(size_t, std::string, bool, ListDone) override {}
  void sweep(size_t, std::string, SweepDone) override {}
  size_t calls() const override { return 0; }
};

// Called off while the agent is at work: nothing else would wake it for that.
void called_off_meanwhile() {
  auto plugin = std::make_unique<Holding>();
  Holding& holding = *plugin;
  PageBench bench(memory_slot_bytes, 1, std::move(plugin));
  size_t first;
  const auto answer = bench.submit({{Op::page_read, "page", 0, 1}}, first);
  holding.in_the_middle = [&] { bench.call_off(first); };
  bench.agent->process();
  while (!answer->there) {
    pollfd fd{bench.agent->poll_fd(), POLLIN, 0};
    CHECK_EQ(::poll(&fd, 1, 0), 1);
    bench.agent->process();
  }
  CHECK(answer->error() == ECANCELED);
  CHECK(bench.agent->idle());
}

// In the kernel, as far as anybody can tell: a completion that does not come.
void hanging_engine(const std::string& directory, const std::string& engine, const char* point) {
  Bench bench(directory, engine, true);
  if (bench.agent == nullptr) return;
  bench.fill(0, 65536, 1);
  CHECK(bench.run({{Op::page_write, "h", 0, 65536, flag::replace}})->status(0) == Status::ok);
  plan_hang(point, "h");
  size_t first;
  const auto answer = bench.submit({{Op::page_read, "h", 1, 65536}, {Op::page_read, "h", 2, 65536}}, first);
  bench.process_until([&] { return bench.agent->in_flight() == 1; });
  const size_t hung = bench.state(first) == word_state::started ? first : first + 1;
  CHECK(bench.change(hung, word_state::started, word_state::cancelling));
  request_cancel_everywhere();
  bench.process_until([&] { return answer->there; });
  CHECK(answer->error(hung - first) == ECANCELED && answer->status(first + 1 - hung) == Status::ok);
  CHECK_EQ(bench.state(hung), word_state::cancelling);
  fault::clear();
  bench.process_until([&] { return bench.agent->idle(); });
  CHECK_EQ(bench.state(hung), word_state::done);
}

// The owner goes with work in flight: what waits is given back, the rest by the reaper when it ends.
void abandonment(const std::string& directory, const std::string& engine, bool direct, const char* point) {
  Bench bench(directory, engine, direct, 1);
  if (bench.agent == nullptr) return;
  bench.fill(0, 65536, 1);
  CHECK(bench.run({{Op::page_write, "a", 0, 65536, flag::replace}})->status(0) == Status::ok);
  plan_hang(point, "a", 0);
  std::vector<PageAsk> reads;
  for (size_t i = 0; i < 8; i++) reads.push_back({Op::page_read, "a", i + 1, 65536});
  size_t first;
  const auto answer = bench.submit(reads, first);
  const auto started = [&] {
    size_t count = 0;
    for (size_t i = 0; i < 8; i++) count += bench.state(first + i) == word_state::started;
    return count;
  };
  if (direct) {
    // The pool has one thread and works in order: when the listing is there, the engine has all that came before.
    bool listed = false;
    bench.agent->plugin().list(0, "", false, [&](int, std::vector<ListedFile>&) { listed = true; });
    bench.process_until([&] { return listed; });
  } else {
    bench.process_until([&] { return started() > 0; });
  }
  bench.agent->stop();
  CHECK(!bench.agent->drain(20));
  const size_t left = bench.agent->in_flight();
  CHECK(left > 0 && started() == left);
  bench.agent->report_all();
  CHECK(answer->there);
  Agent::abandon(std::move(bench.agent));
  fault::clear();
  const int64_t end = now_ns() + 60'000'000'000;
  while (started() > 0) {
    CHECK(now_ns() < end);
    std::this_thread::yield();
  }
}

// The memory goes away under an operation: it ends without a touch.
void gone_memory(const std::string& directory) {
  Bench bench(directory, "aio", false, 1);
  bench.fill(0, 4096, 1);
  CHECK(bench.run({{Op::page_write, "g", 0, 4096}})->status(0) == Status::ok);
  plan_hang("open", "g");
  size_t first;
  const auto answer = bench.submit({{Op::page_read, "g", 1, 4096}, {Op::page_write, "other", 1, 4096}}, first);
  bench.process_until([&] { return bench.state(first) == word_state::started; });
  bench.region->gate.close();
  fault::clear();
  bench.process_until([&] { return answer->there; });
  CHECK(answer->error(0) == ECANCELED && answer->error(1) == ECANCELED);
  CHECK(!std::filesystem::exists(directory + "/other"));
}

void calls(const std::string& directory) {
  Bench bench(directory, "aio", false, 1);
  plan_hang("list", "");
  int errors = 0, done = 0;
  for (int i = 0; i < 3; i++) {
    bench.agent->plugin().list(0, "", true, [&](int error, std::vector<ListedFile>&) {
      done++;
      errors += error == ECANCELED;
    });
  }
  CHECK_EQ(bench.agent->in_flight(), 3u);
  bench.agent->stop();
  bench.process_until([&] { return done >= 2; });
  fault::clear();
  bench.process_until([&] { return done == 3; });
  CHECK(errors >= 2);
  CHECK(bench.agent->idle());
}

}  // namespace

int main(int argc, char** argv) {
  std::string base = std::string(argc > 1 ? argv[1] : "/tmp") + "/agent-test-XXXXXX";
  CHECK(::mkdtemp(base.data()) != nullptr);
  const int probe = ::open(base.c_str(), O_TMPFILE | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600);
  const bool direct = probe >= 0;
  if (direct) ::close(probe);
  const std::pair<const char*, const char*> engines[] = {{"aio", "aio.complete"}, {"io_uring", "ring.complete"}, {"posix_aio", "paio.complete"}};
  everything(base, "aio", false);
  for (const auto& [engine, point] : engines) {
    if (!direct) break;
#if defined(__SANITIZE_THREAD__)
    // glibc makes the threads of POSIX AIO behind the sanitizer's back, which then crashes in them.
    if (std::string(engine) == "posix_aio") continue;
#endif
    test_context() = engine;
    everything(base, engine, true);
    hanging_engine(base, engine, point);
    abandonment(base, engine, true, point);
  }
  test_context() = "the pool";
  malformed(base);
  cancellation(base);
  called_off_meanwhile();
  abandonment(base, "aio", false, "preadv");
  gone_memory(base);
  calls(base);
  std::filesystem::remove_all(base);
  std::printf("agent: ok%s\n", direct ? "" : ", without O_DIRECT here");
  return 0;
}
