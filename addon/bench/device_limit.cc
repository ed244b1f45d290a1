#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "bench/bench_support.h"
#include "engine/engine.h"
#include "util/unique_fd.h"

namespace hicache::bench {
namespace {

constexpr size_t layout_chunk_bytes = size_t{4} << 20;

// The extents must have been written before: unwritten ones cost half the speed. Kept between calls, so that only the first one pays.
void lay_out(int fd, uint64_t bytes, Result& result) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return fail(result, "fstat", errno);
  const auto there = static_cast<uint64_t>(status.st_size) / layout_chunk_bytes * layout_chunk_bytes;
  if (there >= bytes) return;
  const Buffers buffer(layout_chunk_bytes);
  for (uint64_t at = there; at < bytes; at += layout_chunk_bytes) {
    const ssize_t moved = ::pwrite(fd, buffer.data(), layout_chunk_bytes, static_cast<off_t>(at));
    if (moved != static_cast<ssize_t>(layout_chunk_bytes)) return fail(result, "laying out the bench's file", moved < 0 ? errno : ENOSPC);
  }
  if (::fdatasync(fd) != 0) fail(result, "fdatasync", errno);
}

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
  const std::string folder = folder_of(options.directory), path = folder + "/device";
  if (const int error = make_folder(folder)) {
    fail(result, "making the bench's folder", error);
    return result;
  }
  bool direct = true;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_DIRECT, 0600));
  std::string reason, remedy;
  EngineOptions engine_options;
  engine_options.queue_depth = options.queue_depth;
  std::unique_ptr<Engine> engine;
  if (fd) {
    engine = try_create_io_uring(engine_options, reason, remedy);
    if (engine == nullptr) engine = try_create_linux_aio(engine_options, reason, remedy);
  }
  if (!fd || engine == nullptr) {
    direct = false;
    fd = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  }
  if (!fd) {
    fail(result, "opening the bench's file", errno);
    return result;
  }
  lay_out(fd.get(), options.bytes, result);
  if (result.error != 0) return result;
  const Buffers buffers(options.page_bytes * options.queue_depth);
  result.latency_us.reserve(options.bytes / options.page_bytes);
  const double cpu_before = cpu_seconds();
  const int64_t started = now_ns();
  if (direct) Ring(*engine, options, fd.get(), result).run(buffers.data());
  else run_threads(options, fd.get(), buffers.data(), result);
  result.seconds = static_cast<double>(now_ns() - started) / 1e9;
  result.cpu_seconds = cpu_seconds() - cpu_before;
  return result;
}

}  // namespace hicache::bench
