#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "bench/bench_support.h"

namespace hicache::bench {
namespace {

struct Slot : IoRequest {
  uint8_t* memory = nullptr;
  int64_t started_ns = 0;
};

class Ring final : public Sink {
 public:
  Ring(Engine& engine, const DeviceOptions& options, int fd, Result& result) : engine_(engine), options_(options), fd_(fd), result_(result) {}

  void run(uint8_t* memory) {
    std::vector<Slot> slots(options_.queue_depth);
    for (size_t i = 0; i < slots.size(); i++) {
      slots[i].memory = memory + i * options_.page_bytes;
      next(slots[i]);
    }
    engine_.flush(*this);
    while (engine_.in_flight() > 0) engine_.wait(*this, -1);
  }

  void completed(IoRequest* request) override {
    auto& slot = static_cast<Slot&>(*request);
    if (slot.result != static_cast<int64_t>(options_.page_bytes)) {
      fail(result_, options_.write ? "writing" : "reading", slot.result < 0 ? static_cast<int>(-slot.result) : EIO);
      return;
    }
    result_.latency_us.push_back(static_cast<double>(now_ns() - slot.started_ns) / 1e3);
    result_.bytes += options_.page_bytes;
    next(slot);
  }

 private:
  void next(Slot& slot) {
    if (result_.error != 0 || offset_ + options_.page_bytes > options_.bytes) return;
    slot.kind = options_.write ? IoRequest::Kind::write : IoRequest::Kind::read;
    slot.fd = fd_;
    slot.offset = offset_;
    slot.iov_count = 1;
    slot.iov[0] = {slot.memory, options_.page_bytes};
    offset_ += options_.page_bytes;
    slot.started_ns = now_ns();
    engine_.submit(&slot);
  }

  Engine& engine_;
  const DeviceOptions& options_;
  const int fd_;
  Result& result_;
  uint64_t offset_ = 0;
};

// Memory file systems: nothing beats plain calls there, one thread a processor.
void run_threads(const DeviceOptions& options, int fd, uint8_t* memory, Result& result) {
  const unsigned count = std::clamp(std::thread::hardware_concurrency(), 1u, options.queue_depth);
  const uint64_t pages = options.bytes / options.page_bytes;
  result.latency_us.resize(pages);
  std::atomic<uint64_t> next{0};
  std::atomic<int> error{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < count; i++) {
    threads.emplace_back([&, mine = memory + i * options.page_bytes] {
      for (uint64_t page; error == 0 && (page = next++) < pages;) {
        const int64_t started = now_ns();
        const auto offset = static_cast<off_t>(page * options.page_bytes);
        const ssize_t moved = options.write ? ::pwrite(fd, mine, options.page_bytes, offset) : ::pread(fd, mine, options.page_bytes, offset);
        if (moved != static_cast<ssize_t>(options.page_bytes)) error = moved < 0 ? errno : EIO;
        result.latency_us[page] = static_cast<double>(now_ns() - started) / 1e3;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (error != 0) fail(result, options.write ? "writing" : "reading", error);
  result.bytes = pages * options.page_bytes;
}

}  // namespace

Result device_limit(const DeviceOptions& options) {
  Result result;
  const DeviceFile file = open_device_file(options.directory, options.bytes, options.queue_depth, false, result);
  if (result.error != 0) return result;
  const Buffers buffers(options.page_bytes * options.queue_depth);
  result.latency_us.reserve(options.bytes / options.page_bytes);
  const double cpu_before = cpu_seconds();
  const int64_t started = now_ns();
  if (file.direct) Ring(*file.engine, options, file.fd.get(), result).run(buffers.data());
  else run_threads(options, file.fd.get(), buffers.data(), result);
  result.seconds = static_cast<double>(now_ns() - started) / 1e9;
  result.cpu_seconds = cpu_seconds() - cpu_before;
  return result;
}

}  // namespace hicache::bench
