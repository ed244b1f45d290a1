// The CUDA driver, loaded when it is first needed. Its headers are not: what is declared here is the part of its stable interface that we use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "util/shared_library.h"

namespace hicache::cuda {

// A device address, as the driver passes it: never a pointer, for this processor cannot follow it.
using Address = uint64_t;
using Result = int;
using Device = int;
struct Context;
struct Stream;
// Passed by value to the driver.
struct IpcHandle {
  char bytes[64];
};
static_assert(sizeof(IpcHandle) == 64);

// CUresult: those that get a text of their own.
namespace result {
inline constexpr Result success = 0, invalid_value = 1, out_of_memory = 2, not_initialized = 3, deinitialized = 4, stub_library = 34, no_device = 100, invalid_device = 101, invalid_context = 201,
                        map_failed = 205, already_mapped = 208, peer_access_unsupported = 217, invalid_handle = 400, illegal_address = 700, host_memory_registered = 712, not_supported = 801,
                        system_not_ready = 802, system_driver_mismatch = 803, unknown = 999;
}
namespace attribute {
inline constexpr int memory_type = 2, device_ordinal = 9, legacy_ipc_capable = 10, range_start = 11, range_size = 12;
}
namespace memory_type {
inline constexpr unsigned host = 1, device = 2;
}
inline constexpr unsigned host_register_portable = 1, ipc_lazy_peer_access = 1, stream_non_blocking = 1;

// The functions. One instance for the process; never unloaded.
struct Api {
  std::string path;  // what was loaded

  Result (*init)(unsigned) = nullptr;
  Result (*device_get_count)(int*) = nullptr;
  Result (*device_get)(Device*, int) = nullptr;
  Result (*primary_context_retain)(Context**, Device) = nullptr;
  Result (*primary_context_release)(Device) = nullptr;
  Result (*context_set_current)(Context*) = nullptr;
  Result (*context_push)(Context*) = nullptr;
  Result (*context_pop)(Context**) = nullptr;
  Result (*allocate)(Address*, size_t) = nullptr;
  Result (*free)(Address) = nullptr;
  Result (*get_address_range)(Address*, size_t*, Address) = nullptr;
  Result (*copy_to_host)(void*, Address, size_t) = nullptr;
  Result (*copy_to_device)(Address, const void*, size_t) = nullptr;
  Result (*copy_to_host_async)(void*, Address, size_t, Stream*) = nullptr;
  Result (*copy_to_device_async)(Address, const void*, size_t, Stream*) = nullptr;
  Result (*host_register)(void*, size_t, unsigned) = nullptr;
  Result (*host_unregister)(void*) = nullptr;
  Result (*pointer_attributes)(unsigned, int*, void**, Address) = nullptr;
  Result (*ipc_get_handle)(IpcHandle*, Address) = nullptr;
  Result (*ipc_open)(Address*, IpcHandle, unsigned) = nullptr;
  Result (*ipc_close)(Address) = nullptr;
  Result (*stream_create)(Stream**, unsigned) = nullptr;
  Result (*stream_synchronize)(Stream*) = nullptr;
  Result (*error_name)(Result, const char**) = nullptr;
  // Not in every driver.
  Result (*driver_version)(int*) = nullptr;
  Result (*device_name)(char*, int, Device) = nullptr;
};

// nullptr, with the refusal, where it cannot be had; asked again it is tried again. May read files: for threads that may wait.
const Api* load(Refusal&);

}  // namespace hicache::cuda
