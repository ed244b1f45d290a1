// The other end of stand_in.h's file: faults and parameters of a stand-in library, and its counters.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../../spec/support/stand-ins/stand_in.h"
#include "test/check.h"
#include "util/unique_fd.h"

class Knobs {
 public:
  // `prefix`: of the library's names.
  Knobs(const std::string& path, std::string prefix) : prefix_(std::move(prefix)) {
    hicache::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    CHECK(fd.get() >= 0);
    CHECK_EQ(::ftruncate(fd.get(), bytes), 0);
    void* const mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    CHECK(mapped != MAP_FAILED);
    entries_ = static_cast<stand_in::Entry*>(mapped);
  }
  int64_t get(const std::string& name) { return std::atomic_ref<int64_t>(find(name).value).load(); }
  void set(const std::string& name, int64_t value) { std::atomic_ref<int64_t>(find(name).value).store(value); }

 private:
  static constexpr size_t bytes = stand_in::entries_max * sizeof(stand_in::Entry);
  stand_in::Entry& find(const std::string& name) {
    const std::string whole = prefix_ + name;
    for (int i = 0; i < stand_in::entries_max; i++) {
      if (whole == entries_[i].name) return entries_[i];
      if (entries_[i].name[0] != '\0') continue;
      std::memcpy(entries_[i].name, whole.c_str(), whole.size() + 1);
      return entries_[i];
    }
    check_failed(__FILE__, __LINE__, "no room for " + whole);
    std::abort();
  }
  const std::string prefix_;
  stand_in::Entry* entries_;
};
