// Files as the file layout writes them, by the same system calls as its pool job, in a loop of plain threads.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "bench/bench_support.h"
#include "pool/record.h"
#include "util/aligned_buffer.h"
#include "util/unique_fd.h"
#include "util/spread_folders.h"

namespace hicache::bench {
namespace {

constexpr unsigned buckets = 256;
constexpr size_t buffered_pages_max = 64;
constexpr std::string_view identity = "hicache-nixl bench", meta = "bench";

struct Loop {
  const LoopOptions& options;
  std::vector<UniqueFd> folders;
  uint8_t* memory = nullptr;
  size_t memory_pages = 0;
  std::atomic<uint64_t> next{0};
  std::atomic<int> error{0};
  std::vector<double> latency_us;

  int folder(uint64_t page) const { return folders[page % buckets].get(); }
  uint8_t* memory_of(uint64_t page) const { return memory + page % memory_pages * options.page_bytes; }
  int direct() const { return options.direct ? O_DIRECT : 0; }

  int write(uint64_t page, const uint8_t* block) {
    char name[32], temporary[48], self[32];
    std::snprintf(name, sizeof(name), "page-%08llx", static_cast<unsigned long long>(page));
    std::snprintf(temporary, sizeof(temporary), ".hicache-nixl-tmp-b%08llx", static_cast<unsigned long long>(page));
    uint8_t* const payload = memory_of(page);
    Record record;
    record.payload_length = options.page_bytes;
    record.payload_crc = payload_crc(identity, payload, options.page_bytes);
    record.identity = identity;
    record.meta = meta;
    encode_record(const_cast<uint8_t*>(block), record);
    const UniqueFd there(::openat(folder(page), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (there) {
      struct stat status;
      alignas(64) uint8_t old[record_bytes];
      if (::fstat(there.get(), &status) != 0) return errno;
      if (status.st_size >= static_cast<off_t>(record_bytes) && ::pread(there.get(), old, record_bytes, status.st_size - static_cast<off_t>(record_bytes)) < 0) return errno;
      Record ignored;
      decode_record(old, ignored);
    }
    const UniqueFd fd(::openat(folder(page), ".", O_TMPFILE | O_WRONLY | O_CLOEXEC | direct(), 0600));
    if (!fd) return errno;
    const iovec iov[2] = {{payload, options.page_bytes}, {const_cast<uint8_t*>(block), record_bytes}};
    const ssize_t moved = ::pwritev(fd.get(), iov, 2, 0);
    if (moved != static_cast<ssize_t>(options.page_bytes + record_bytes)) return moved < 0 ? errno : ENOSPC;
    std::snprintf(self, sizeof(self), "/proc/self/fd/%d", fd.get());
    if (!there) return ::linkat(AT_FDCWD, self, folder(page), name, AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
    if (::flock(fd.get(), LOCK_EX) != 0) return errno;
    if (::linkat(AT_FDCWD, self, folder(page), temporary, AT_SYMLINK_FOLLOW) != 0) return errno;
    return ::renameat(folder(page), temporary, folder(page), name) == 0 ? 0 : errno;
  }

  int read(uint64_t page, uint8_t* block) {
    char name[32];
    std::snprintf(name, sizeof(name), "page-%08llx", static_cast<unsigned long long>(page));
    const UniqueFd fd(::openat(folder(page), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | direct()));
    if (!fd) return errno;
    struct stat status;
    if (::fstat(fd.get(), &status) != 0) return errno;
    if (static_cast<uint64_t>(status.st_size) != page_file_bytes(options.page_bytes)) return EBADMSG;
    uint8_t* const payload = memory_of(page);
    const iovec iov[2] = {{payload, options.page_bytes}, {block, record_bytes}};
    const ssize_t moved = ::preadv(fd.get(), iov, 2, 0);
    if (moved != static_cast<ssize_t>(options.page_bytes + record_bytes)) return moved < 0 ? errno : EIO;
    Record record;
    if (decode_record(block, record) != RecordState::whole || record.payload_crc != payload_crc(identity, payload, options.page_bytes)) return EBADMSG;
    return 0;
  }

  // One page each until all are done.
  int run(bool writing) {
    next = 0;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < options.threads; i++) {
      threads.emplace_back([this, writing] {
        const AlignedBuffer block(record_bytes);
        for (uint64_t page; error == 0 && (page = next++) < options.pages;) {
          const int64_t started = now_ns();
          if (const int failed = writing ? write(page, block.data()) : read(page, block.data())) error = failed;
          latency_us[page] = static_cast<double>(now_ns() - started) / 1e3;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return error;
  }

  bool all_there() const {
    struct stat status;
    char name[32];
    for (uint64_t page = 0; page < options.pages; page++) {
      std::snprintf(name, sizeof(name), "page-%08llx", static_cast<unsigned long long>(page));
      if (::fstatat(folder(page), name, &status, AT_SYMLINK_NOFOLLOW) != 0 || static_cast<uint64_t>(status.st_size) != page_file_bytes(options.page_bytes)) return false;
    }
    return true;
  }
  void remove_all() const {
    char name[32];
    for (uint64_t page = 0; page < options.pages; page++) {
      std::snprintf(name, sizeof(name), "page-%08llx", static_cast<unsigned long long>(page));
      ::unlinkat(folder(page), name, 0);
    }
  }
};

}  // namespace

Result file_loop(const LoopOptions& options) {
  Result result;
  const std::string folder = folder_of(options.directory), files = folder + "/files";
  int error = make_folder(folder);
  if (error == 0) error = make_folder(files);
  // As the store does with its directory.
  if (error == 0) spread_folders(UniqueFd(::open(files.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)).get());
  Loop loop{options, {}, nullptr, 0, {}, {}, std::vector<double>(options.pages)};
  for (unsigned i = 0; i < buckets && error == 0; i++) {
    char name[8];
    std::snprintf(name, sizeof(name), "/%02x", i);
    error = make_folder(files + name);
    if (error != 0) break;
    loop.folders.emplace_back(::open((files + name).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!loop.folders.back()) error = errno;
  }
  if (error != 0) {
    fail(result, "making the bench's folders", error);
    return result;
  }
  loop.memory_pages = std::min<uint64_t>(std::max<uint64_t>(options.pages, 1), buffered_pages_max);
  const Buffers buffers(loop.memory_pages * options.page_bytes);
  loop.memory = buffers.data();

  // Outside of the clock: a write of new files starts without them, everything else with all of them.
  if (options.write && !options.replace) {
    loop.remove_all();
  } else if (!loop.all_there() && (loop.remove_all(), error = loop.run(true)) != 0) {
    fail(result, "writing the bench's files", error);
    return result;
  }
  const double cpu_before = cpu_seconds();
  const int64_t started = now_ns();
  if ((error = loop.run(options.write)) != 0) fail(result, options.write ? "writing" : "reading", error);
  result.seconds = static_cast<double>(now_ns() - started) / 1e9;
  result.cpu_seconds = cpu_seconds() - cpu_before;
  result.bytes = options.pages * options.page_bytes;
  result.latency_us = std::move(loop.latency_us);
  return result;
}

}  // namespace hicache::bench
