// NVIDIA's cuFile, loaded when it is first needed. Neither its library nor its headers may be passed on: what is declared here is the part of its binary interface that we use.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>

#include "cuda/devices.h"

namespace hicache::cufile {

using cuda::Failure;
using Handle = void*;
using BatchHandle = void*;

// By value.
struct Error {
  int32_t code;  // 0: none
  int32_t cuda;  // the driver's own, where code is `cuda_error`
};
struct Description {
  int32_t type;  // 1: a file descriptor
  union {
    int fd;
    void* whole;
  } file;
  const void* operations;
};
struct BatchEntry {
  int32_t mode;  // 1
  void* base;
  off_t file_offset;
  off_t buffer_offset;
  size_t size;
  Handle handle;
  int32_t operation;
  void* cookie;
};
struct BatchEvent {
  void* cookie;
  int32_t status;
  ssize_t count;
};
static_assert(sizeof(Error) == 8 && sizeof(Description) == 24 && sizeof(BatchEntry) == 64 && sizeof(BatchEvent) == 24);
static_assert(offsetof(Description, file) == 8 && offsetof(Description, operations) == 16);
static_assert(offsetof(BatchEntry, base) == 8 && offsetof(BatchEntry, file_offset) == 16 && offsetof(BatchEntry, buffer_offset) == 24 && offsetof(BatchEntry, size) == 32);
static_assert(offsetof(BatchEntry, handle) == 40 && offsetof(BatchEntry, operation) == 48 && offsetof(BatchEntry, cookie) == 56);
static_assert(offsetof(BatchEvent, status) == 8 && offsetof(BatchEvent, count) == 16);

inline constexpr int descriptor_type = 1, batch_mode = 1, operation_read = 0, operation_write = 1;
namespace status {
inline constexpr int waiting = 1, pending = 2, invalid = 4, canceled = 8, complete = 0x10, timed_out = 0x20, failed = 0x40;
}
namespace code {
inline constexpr int first = 5000, driver_not_open = 5001, platform = 5007, file_system = 5008, cuda_error = 5011, memory_type = 5013, invalid = 5022, already_registered = 5023, already_open = 5026,
                     not_registered = 5027, internal = 5030, no_cuda = 5033, pin = 5036, batch_full = 5037;
}

// The functions. One instance for the process; never unloaded.
struct Api {
  std::string path;     // what was loaded
  std::string version;  // "1.15"; empty where the library does not say

  Error (*driver_open)() = nullptr;
  Error (*driver_close)() = nullptr;
  Error (*handle_register)(Handle*, Description*) = nullptr;
  void (*handle_deregister)(Handle) = nullptr;
  Error (*buffer_register)(const void*, size_t, int) = nullptr;
  Error (*buffer_deregister)(const void*) = nullptr;
  ssize_t (*read)(Handle, void*, size_t, off_t, off_t) = nullptr;
  ssize_t (*write)(Handle, const void*, size_t, off_t, off_t) = nullptr;
  Error (*batch_setup)(BatchHandle*, unsigned) = nullptr;
  Error (*batch_submit)(BatchHandle, unsigned, BatchEntry*, unsigned) = nullptr;
  Error (*batch_status)(BatchHandle, unsigned, unsigned*, BatchEvent*, timespec*) = nullptr;
  Error (*batch_cancel)(BatchHandle) = nullptr;
  void (*batch_destroy)(BatchHandle) = nullptr;
  // Not in every version.
  Error (*get_version)(int*) = nullptr;
  Error (*set_parameter_bool)(int, bool) = nullptr;
};

// nullptr, with the failure, where it cannot be had; asked again it is tried again. May read files: for threads that may wait.
const Api* load(Failure&);

// Of a code of cuFile (5001 and above) or an errno; `cuda_code` is the driver's where the code is cuda_error.
Failure failure_of(const std::string& what, int code, int cuda_code = 0);
// What a request answers to its submitter.
int errno_of(int code);

}  // namespace hicache::cufile
