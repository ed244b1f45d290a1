// Reads under a load of writes: what a ring makes of it that does nothing else.
#include <algorithm>
#include <vector>

#include "bench/bench_support.h"

namespace hicache::bench {
namespace {

struct Slot : IoRequest {
  uint8_t* memory = nullptr;
  int64_t started_ns = 0;
};

class Mix final : public Sink {
 public:
  Mix(Engine& engine, const MixOptions& options, int fd, Result& result)
      : engine_(engine), options_(options), fd_(fd), result_(result), pages_(options.bytes / options.page_bytes) {}

  void run(uint8_t* memory) {
    std::vector<Slot> slots(options_.writes_in_flight + options_.reads_in_flight);
    for (size_t i = 0; i < slots.size(); i++) {
      slots[i].memory = memory + i * options_.page_bytes;
      slots[i].kind = i < options_.writes_in_flight ? IoRequest::Kind::write : IoRequest::Kind::read;
      next(slots[i]);
    }
    engine_.flush(*this);
    while (engine_.in_flight() > 0) engine_.wait(*this, -1);
  }

  void completed(IoRequest* request) override {
    auto& slot = static_cast<Slot&>(*request);
    const bool write = slot.kind == IoRequest::Kind::write;
    if (slot.result != static_cast<int64_t>(options_.page_bytes)) {
      fail(result_, write ? "writing" : "reading", slot.result < 0 ? static_cast<int>(-slot.result) : EIO);
      return;
    }
    const double took = static_cast<double>(now_ns() - slot.started_ns) / 1e3;
    (write ? result_.write_bytes : result_.read_bytes) += options_.page_bytes;
    // What is read once the load falls is not under load.
    if (write) result_.write_latency_us.push_back(took);
    else if (full_) result_.latency_us.push_back(took);
    next(slot);
  }

 private:
  void next(Slot& slot) {
    const bool write = slot.kind == IoRequest::Kind::write;
    uint64_t& mine = write ? written_ : read_;
    if (result_.error != 0 || !full_) return;
    if ((write || options_.writes_in_flight == 0) && mine == pages_) {
      full_ = false;
      return;
    }
    uint64_t page = mine++;
    if (!write) {
      state_ ^= state_ << 13;
      state_ ^= state_ >> 7;
      state_ ^= state_ << 17;
      page = state_ % pages_;
    }
    slot.fd = fd_;
    slot.offset = page * options_.page_bytes;
    slot.iov_count = 1;
    slot.iov[0] = {slot.memory, options_.page_bytes};
    slot.started_ns = now_ns();
    engine_.submit(&slot);
  }

  Engine& engine_;
  const MixOptions& options_;
  const int fd_;
  Result& result_;
  const uint64_t pages_;
  uint64_t written_ = 0, read_ = 0;
  uint64_t state_ = 0x9e3779b97f4a7c15;
  bool full_ = true;
};

}  // namespace

Result mix_loop(const MixOptions& options) {
  Result result;
  const unsigned depth = options.writes_in_flight + options.reads_in_flight;
  const DeviceFile file = open_device_file(options.directory, options.bytes, depth, true, result);
  if (result.error != 0) return result;
  const Buffers buffers(options.page_bytes * depth);
  result.write_latency_us.reserve(options.bytes / options.page_bytes);
  result.latency_us.reserve(options.bytes / options.page_bytes);
  const double cpu_before = cpu_seconds();
  const int64_t started = now_ns();
  Mix(*file.engine, options, file.fd.get(), result).run(buffers.data());
  result.seconds = static_cast<double>(now_ns() - started) / 1e9;
  result.cpu_seconds = cpu_seconds() - cpu_before;
  result.bytes = result.read_bytes + result.write_bytes;
  return result;
}

}  // namespace hicache::bench
