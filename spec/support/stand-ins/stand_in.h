// How a spec and a stand-in library talk, over whatever threads and processes there are between them: a file of 8192 bytes, named by HICACHE_STAND_IN_CONTROL and mapped
// by the library, with 128 entries of 64 bytes: a name (48 bytes, NUL-padded), a signed 64-bit value, 8 unused bytes. The spec writes values with a plain pwrite, or reads
// the counters. Names that the library does not know are the spec's mistake, and end the process: a fault that is never injected would prove nothing.
//
//   fault.NAME   how many times more it strikes (-1: always)      param.NAME   a number      count.NAME   counted by the library
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace stand_in {

struct Entry {
  char name[48];
  int64_t value;
  int64_t unused;
};
inline constexpr int entries_max = 128;

class Control {
 public:
  // `prefix` is the library's own, before every name (`cufile.`), so that several libraries can share one file; `names` is all that it knows, without the prefix.
  Control(const char* prefix, std::initializer_list<const char*> names) : prefix_(prefix) {
    const char* const path = std::getenv("HICACHE_STAND_IN_CONTROL");
    const int fd = path == nullptr || *path == '\0' ? -1 : ::open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
      entries_ = static_cast<Entry*>(std::calloc(entries_max, sizeof(Entry)));
    } else {
      ::flock(fd, LOCK_EX);
      if (::lseek(fd, 0, SEEK_END) < static_cast<off_t>(entries_max * sizeof(Entry)) && ::ftruncate(fd, entries_max * sizeof(Entry)) != 0) std::abort();
      void* const mapped = ::mmap(nullptr, entries_max * sizeof(Entry), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      if (mapped == MAP_FAILED) std::abort();
      entries_ = static_cast<Entry*>(mapped);
    }
    for (const char* name : names) add(name);
    for (int i = 0; i < entries_max && entries_[i].name[0] != '\0'; i++) {
      if (std::strncmp(entries_[i].name, prefix_, std::strlen(prefix_)) == 0 && !known(entries_[i].name, names)) {
        std::fprintf(stderr, "stand-in: nothing is called %.48s\n", entries_[i].name);
        std::abort();
      }
    }
    // Said in so many words: the mapping holds on to the open file, and with it to the lock.
    if (fd >= 0) ::flock(fd, LOCK_UN);
    if (fd >= 0) ::close(fd);
  }

  int64_t param(const char* name) const { return at(name).load(std::memory_order_acquire); }
  void count(const char* name, int64_t by = 1) { at(name).fetch_add(by, std::memory_order_acq_rel); }
  void raise_to(const char* name, int64_t value) {
    auto entry = at(name);
    int64_t now = entry.load();
    while (now < value && !entry.compare_exchange_weak(now, value)) {
    }
  }
  // Shall it strike now?
  bool strikes(const char* name) {
    auto entry = at(name);
    int64_t left = entry.load(std::memory_order_acquire);
    while (left > 0 && !entry.compare_exchange_weak(left, left - 1)) {
    }
    return left != 0;
  }

 private:
  std::atomic_ref<int64_t> at(const char* name) const {
    char whole[48];
    std::snprintf(whole, sizeof(whole), "%s%s", prefix_, name);
    for (int i = 0; i < entries_max && entries_[i].name[0] != '\0'; i++) {
      if (std::strncmp(entries_[i].name, whole, sizeof(whole)) == 0) return std::atomic_ref<int64_t>(entries_[i].value);
    }
    std::fprintf(stderr, "stand-in: %s was not declared\n", whole);
    std::abort();
  }
  void add(const char* name) {
    char whole[48] = {};
    std::snprintf(whole, sizeof(whole), "%s%s", prefix_, name);
    for (int i = 0; i < entries_max; i++) {
      if (std::strncmp(entries_[i].name, whole, sizeof(whole)) == 0) return;
      if (entries_[i].name[0] != '\0') continue;
      std::memcpy(entries_[i].name, whole, sizeof(whole));
      return;
    }
    std::abort();
  }
  bool known(const char* whole, std::initializer_list<const char*> names) const {
    for (const char* name : names) {
      if (std::strncmp(whole + std::strlen(prefix_), name, sizeof(Entry::name) - std::strlen(prefix_)) == 0) return true;
    }
    return false;
  }

  const char* const prefix_;
  Entry* entries_ = nullptr;
};

}  // namespace stand_in
