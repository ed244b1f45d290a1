#include "bench/bench_support.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <new>

#include "util/aligned_buffer.h"

namespace hicache::bench {
namespace {

constexpr size_t layout_chunk_bytes = size_t{4} << 20;

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

}  // namespace

std::string folder_of(const std::string& directory) { return directory + "/.hicache-nixl-bench"; }

int make_folder(const std::string& path) { return ::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST ? 0 : errno; }

double cpu_seconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Buffers::Buffers(size_t bytes) : bytes_(round_up(bytes, size_t{2} << 20)) {
  void* const memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  ::madvise(memory, bytes_, MADV_HUGEPAGE);
  data_ = static_cast<uint8_t*>(memory);
  uint64_t state = 0x9e3779b97f4a7c15;
  for (size_t i = 0; i < bytes_; i += 8) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    *reinterpret_cast<uint64_t*>(data_ + i) = state;
  }
}

Buffers::~Buffers() { ::munmap(data_, bytes_); }

DeviceFile open_device_file(const std::string& directory, uint64_t bytes, unsigned queue_depth, bool or_any, Result& result) {
  DeviceFile file;
  const std::string folder = folder_of(directory), path = folder + "/device";
  if (const int error = make_folder(folder)) {
    fail(result, "making the bench's folder", error);
    return file;
  }
  std::string reason, remedy;
  EngineOptions options;
  options.queue_depth = queue_depth;
  const auto make_engine = [&] {
    file.engine = try_create_io_uring(options, reason, remedy);
    if (file.engine == nullptr) file.engine = try_create_linux_aio(options, reason, remedy);
    if (file.engine == nullptr && or_any) file.engine = try_create_posix_aio(options, reason, remedy);
  };
  file.fd = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_DIRECT, 0600));
  if (file.fd || or_any) make_engine();
  file.direct = file.fd && file.engine != nullptr;
  if (!file.direct) file.fd = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.fd) fail(result, "opening the bench's file", errno);
  else if (or_any && file.engine == nullptr) fail(result, "making a ring", ENOSYS);
  else lay_out(file.fd.get(), bytes, result);
  return file;
}

int cleanup(const std::string& directory) {
  std::error_code error;
  std::filesystem::remove_all(folder_of(directory), error);
  return error ? error.value() : 0;
}

}  // namespace hicache::bench
