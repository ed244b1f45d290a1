// A stand-in for the CUDA driver (libcuda.so.1), for tests: our own code, never shipped. It has devices of host memory: an address that callers see is reserved and can be
// neither read nor written, so that a processor that touches "device" memory faults; the bytes lie in a memfd that is mapped a second time for the stand-in alone. It proves our
// logic, and nothing about the real driver. Where the real one is said to be lenient about contexts, this one is strict: a call about a device's memory wants a context of
// that device to be current on the calling thread.
//
//   fault.CALL       that call answers param.error (0: CUDA_ERROR_UNKNOWN)
//   fault.no_device  cuInit answers CUDA_ERROR_NO_DEVICE
//   fault.needs_context  cuPointerGetAttributes wants a current context
//   fault.virtual    cuMemAlloc makes memory as the virtual memory functions do: not exportable, and in two mappings when it has more than 2 MiB
//   param.devices    0: one           param.memory   bytes of each device, 0: 4 GiB
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "stand_in.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

enum : int {
  success = 0, invalid_value = 1, out_of_memory = 2, not_initialized = 3, no_device = 100, invalid_device = 101, invalid_context = 201, map_failed = 205, invalid_handle = 400,
  host_memory_registered = 712, host_memory_not_registered = 713, unknown = 999
};
constexpr int devices_max = 8;
constexpr size_t page_bytes = 4096;
constexpr size_t virtual_unit = 2 << 20;

struct Context {
  int device = -1;
  int retained = 0;
};
struct Stream {
  int device;
};
struct Memory {
  uint64_t address = 0;
  size_t bytes = 0;
  size_t reserved = 0;
  char* shadow = nullptr;
  int fd = -1;
  int device = 0;
  bool opened = false;   // from another process's handle
  bool exportable = true;
};
struct Handle {
  uint64_t magic;
  int32_t pid, fd;
  uint64_t inode, bytes;
  int32_t device;
  char rest[28];
};
static_assert(sizeof(Handle) == 64);
struct HandleBytes {
  char bytes[64];
};
constexpr uint64_t handle_magic = 0x5f636975;  // "uic_"

stand_in::Control& control() {
  static auto* const the_control = new stand_in::Control(
      "cuda.", {"fault.init",          "fault.no_device",     "fault.device_count",  "fault.device_get",   "fault.retain",       "fault.release",      "fault.set_current", "fault.push",
                "fault.pop",           "fault.alloc",         "fault.free",          "fault.range",        "fault.copy",         "fault.host_alloc",   "fault.register",    "fault.unregister",
                "fault.attributes",    "fault.needs_context", "fault.virtual",       "fault.ipc_get",      "fault.ipc_open",     "fault.ipc_close",    "fault.stream",      "fault.synchronize",
                "param.error",         "param.devices",       "param.memory",        "count.allocations",  "count.contexts",     "count.registrations", "count.ipc_open",   "count.copies",
                "count.copied_bytes",  "count.host_allocations"});
  return *the_control;
}

struct State {
  std::mutex mutex;
  bool initialized = false;
  Context contexts[devices_max];
  std::map<uint64_t, Memory> memory;           // by address
  std::map<void*, size_t> registered, pinned;  // host memory
  size_t used[devices_max] = {};
};
State& state() {
  static State* const the_state = new State;
  return *the_state;
}

thread_local std::vector<Context*> stack;

int devices() {
  const int64_t count = control().param("param.devices");
  return count <= 0 ? 1 : static_cast<int>(count > devices_max ? devices_max : count);
}

int failure() {
  const int64_t error = control().param("param.error");
  return error == 0 ? unknown : static_cast<int>(error);
}

int current_device() { return stack.empty() || stack.back() == nullptr || stack.back()->retained == 0 ? -1 : stack.back()->device; }

#define BEGIN(fault)                                  \
  State& s = state();                                 \
  std::lock_guard lock(s.mutex);                      \
  if (!s.initialized) return not_initialized;         \
  if (control().strikes("fault." fault)) return failure()

// nullptr unless it lies in a piece of device memory.
Memory* memory_at(State& s, uint64_t address) {
  auto at = s.memory.upper_bound(address);
  if (at == s.memory.begin()) return nullptr;
  --at;
  return address < at->second.address + at->second.bytes ? &at->second : nullptr;
}

bool map(Memory& memory) {
  memory.reserved = (memory.bytes + page_bytes - 1) / page_bytes * page_bytes;
  void* const shadow = ::mmap(nullptr, memory.reserved, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd, 0);
  if (shadow == MAP_FAILED) return false;
  // One page more: what lies behind faults, too.
  void* const seen = ::mmap(nullptr, memory.reserved + page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (seen == MAP_FAILED) {
    ::munmap(shadow, memory.reserved);
    return false;
  }
  memory.shadow = static_cast<char*>(shadow);
  memory.address = reinterpret_cast<uint64_t>(seen);
  return true;
}

void unmap(State& s, const Memory& memory) {
  ::munmap(memory.shadow, memory.reserved);
  ::munmap(reinterpret_cast<void*>(memory.address), memory.reserved + page_bytes);
  ::close(memory.fd);
  s.memory.erase(memory.address);
}

int copy(uint64_t address, void* host, size_t bytes, bool to_host, const Stream* stream) {
  char* shadow;
  {
    BEGIN("copy");
    const int device = current_device();
    if (device < 0 || (stream != nullptr && stream->device != device)) return invalid_context;
    Memory* const memory = memory_at(s, address);
    if (memory == nullptr || address + bytes > memory->address + memory->bytes) return invalid_value;
    if (memory->device != device) return invalid_context;
    shadow = memory->shadow + (address - memory->address);
    control().count("count.copies");
    control().count("count.copied_bytes", static_cast<int64_t>(bytes));
  }
  // Faults for host memory that is none, as it should.
  std::memcpy(to_host ? host : shadow, to_host ? shadow : host, bytes);
  return success;
}

}  // namespace

// ---- for the other stand-ins ----

// Where the bytes of device memory really are. 0; 1: not device memory; 2: it goes beyond its allocation.
EXPORTED int hicache_stand_in_cuda_backing(uint64_t address, size_t bytes, void** shadow, int* device) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  Memory* const memory = memory_at(s, address);
  if (memory == nullptr) return 1;
  if (bytes > memory->address + memory->bytes - address) return 2;
  *shadow = memory->shadow + (address - memory->address);
  *device = memory->device;
  return 0;
}

// -1: no context is current on this thread.
EXPORTED int hicache_stand_in_cuda_current_device() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  return current_device();
}

// ---- the driver's interface ----

EXPORTED int cuInit(unsigned flags) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (flags != 0) return invalid_value;
  if (control().strikes("fault.no_device")) return no_device;
  if (control().strikes("fault.init")) return failure();
  s.initialized = true;
  return success;
}

EXPORTED int cuDriverGetVersion(int* version) {
  *version = 12040;
  return success;
}

EXPORTED int cuDeviceGetCount(int* count) {
  BEGIN("device_count");
  *count = devices();
  return success;
}

EXPORTED int cuDeviceGet(int* device, int ordinal) {
  BEGIN("device_get");
  if (ordinal < 0 || ordinal >= devices()) return invalid_device;
  *device = ordinal;
  return success;
}

EXPORTED int cuDeviceGetName(char* name, int bytes, int device) {
  if (device < 0 || device >= devices()) return invalid_device;
  std::snprintf(name, static_cast<size_t>(bytes), "Stand-in device %d", device);
  return success;
}

EXPORTED int cuDevicePrimaryCtxRetain(Context** context, int device) {
  BEGIN("retain");
  if (device < 0 || device >= devices()) return invalid_device;
  Context& primary = s.contexts[device];
  primary.device = device;
  if (primary.retained++ == 0) control().count("count.contexts");
  *context = &primary;
  return success;
}

EXPORTED int cuDevicePrimaryCtxRelease_v2(int device) {
  BEGIN("release");
  if (device < 0 || device >= devices()) return invalid_device;
  if (s.contexts[device].retained == 0) return invalid_context;
  if (--s.contexts[device].retained == 0) control().count("count.contexts", -1);
  return success;
}

EXPORTED int cuCtxSetCurrent(Context* context) {
  BEGIN("set_current");
  if (context != nullptr && context->retained == 0) return invalid_context;
  if (stack.empty()) stack.push_back(context);
  else stack.back() = context;
  return success;
}

EXPORTED int cuCtxPushCurrent_v2(Context* context) {
  BEGIN("push");
  if (context == nullptr || context->retained == 0) return invalid_context;
  stack.push_back(context);
  return success;
}

EXPORTED int cuCtxPopCurrent_v2(Context** context) {
  BEGIN("pop");
  if (stack.empty()) return invalid_context;
  if (context != nullptr) *context = stack.back();
  stack.pop_back();
  return success;
}

EXPORTED int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  BEGIN("alloc");
  const int device = current_device();
  if (device < 0) return invalid_context;
  if (bytes == 0) return invalid_value;
  const int64_t limit = control().param("param.memory");
  if (bytes > (limit > 0 ? static_cast<size_t>(limit) : size_t{4} << 30) - s.used[device]) return out_of_memory;
  Memory memory;
  memory.bytes = bytes;
  memory.device = device;
  memory.exportable = !control().strikes("fault.virtual");
  memory.fd = ::memfd_create("stand-in-device", MFD_CLOEXEC);
  if (memory.fd < 0 || ::ftruncate(memory.fd, static_cast<off_t>((bytes + page_bytes - 1) / page_bytes * page_bytes)) != 0 || !map(memory)) {
    if (memory.fd >= 0) ::close(memory.fd);
    return out_of_memory;
  }
  s.memory[memory.address] = memory;
  s.used[device] += bytes;
  control().count("count.allocations");
  *address = memory.address;
  return success;
}

EXPORTED int cuMemFree_v2(uint64_t address) {
  BEGIN("free");
  const auto at = s.memory.find(address);
  if (at == s.memory.end() || at->second.opened) return invalid_value;
  if (current_device() != at->second.device) return invalid_context;
  s.used[at->second.device] -= at->second.bytes;
  unmap(s, Memory(at->second));
  control().count("count.allocations", -1);
  return success;
}

EXPORTED int cuMemGetAddressRange_v2(uint64_t* start, size_t* bytes, uint64_t address) {
  BEGIN("range");
  if (current_device() < 0) return invalid_context;
  const Memory* const memory = memory_at(s, address);
  if (memory == nullptr) return invalid_value;
  *start = memory->address;
  *bytes = memory->bytes;
  return success;
}

EXPORTED int cuMemcpyDtoH_v2(void* host, uint64_t address, size_t bytes) { return copy(address, host, bytes, true, nullptr); }
EXPORTED int cuMemcpyHtoD_v2(uint64_t address, const void* host, size_t bytes) { return copy(address, const_cast<void*>(host), bytes, false, nullptr); }
EXPORTED int cuMemcpyDtoHAsync_v2(void* host, uint64_t address, size_t bytes, Stream* stream) { return copy(address, host, bytes, true, stream); }
EXPORTED int cuMemcpyHtoDAsync_v2(uint64_t address, const void* host, size_t bytes, Stream* stream) { return copy(address, const_cast<void*>(host), bytes, false, stream); }

EXPORTED int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  BEGIN("host_alloc");
  if (current_device() < 0) return invalid_context;
  void* const mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return out_of_memory;
  s.pinned[mapped] = bytes;
  control().count("count.host_allocations");
  *memory = mapped;
  return success;
}

EXPORTED int cuMemFreeHost(void* memory) {
  BEGIN("host_alloc");
  const auto at = s.pinned.find(memory);
  if (at == s.pinned.end()) return invalid_value;
  ::munmap(memory, at->second);
  s.pinned.erase(at);
  control().count("count.host_allocations", -1);
  return success;
}

EXPORTED int cuMemHostRegister_v2(void* memory, size_t bytes, unsigned flags) {
  BEGIN("register");
  if (current_device() < 0) return invalid_context;
  if (memory == nullptr || bytes == 0 || flags > 15) return invalid_value;
  for (const auto& [start, length] : s.registered) {
    if (static_cast<char*>(memory) < static_cast<char*>(start) + length && static_cast<char*>(start) < static_cast<char*>(memory) + bytes) return host_memory_registered;
  }
  s.registered[memory] = bytes;
  control().count("count.registrations");
  return success;
}

EXPORTED int cuMemHostUnregister(void* memory) {
  BEGIN("unregister");
  if (current_device() < 0) return invalid_context;
  if (s.registered.erase(memory) == 0) return host_memory_not_registered;
  control().count("count.registrations", -1);
  return success;
}

EXPORTED int cuPointerGetAttributes(unsigned count, int* names, void** values, uint64_t address) {
  BEGIN("attributes");
  if (stack.empty() && control().strikes("fault.needs_context")) return invalid_context;
  const Memory* const memory = memory_at(s, address);
  bool host = false;
  for (const auto* known : {&s.registered, &s.pinned}) {
    for (const auto& [start, length] : *known) host |= address >= reinterpret_cast<uint64_t>(start) && address < reinterpret_cast<uint64_t>(start) + length;
  }
  uint64_t start = memory == nullptr ? 0 : memory->address;
  size_t bytes = memory == nullptr ? 0 : memory->bytes;
  if (memory != nullptr && !memory->exportable && bytes > virtual_unit) {
    // Two mappings, side by side.
    const bool second = address - start >= virtual_unit;
    bytes = second ? bytes - virtual_unit : virtual_unit;
    if (second) start += virtual_unit;
  }
  for (unsigned i = 0; i < count; i++) {
    switch (names[i]) {
      case 2: *static_cast<unsigned*>(values[i]) = memory != nullptr ? 2 : host ? 1 : 0; break;
      case 9: *static_cast<int*>(values[i]) = memory != nullptr ? memory->device : host ? 0 : -2; break;
      case 10: *static_cast<bool*>(values[i]) = memory != nullptr && memory->exportable; break;
      case 11: *static_cast<uint64_t*>(values[i]) = start; break;
      case 12: *static_cast<size_t*>(values[i]) = bytes; break;
      default: return invalid_value;
    }
  }
  return success;
}

EXPORTED int cuIpcGetMemHandle(HandleBytes* out, uint64_t address) {
  BEGIN("ipc_get");
  const Memory* const memory = memory_at(s, address);
  if (memory == nullptr || !memory->exportable || memory->opened) return invalid_value;
  if (current_device() != memory->device) return invalid_context;
  struct stat status;
  if (::fstat(memory->fd, &status) != 0) return map_failed;
  Handle handle{};
  handle.magic = handle_magic;
  handle.pid = ::getpid();
  handle.fd = memory->fd;
  handle.inode = status.st_ino;
  handle.bytes = memory->bytes;
  handle.device = memory->device;
  std::memcpy(out->bytes, &handle, sizeof(handle));
  return success;
}

EXPORTED int cuIpcOpenMemHandle_v2(uint64_t* address, HandleBytes bytes, unsigned flags) {
  BEGIN("ipc_open");
  if (flags > 1) return invalid_value;
  const int device = current_device();
  if (device < 0) return invalid_context;
  Handle handle;
  std::memcpy(&handle, bytes.bytes, sizeof(handle));
  if (handle.magic != handle_magic) return invalid_value;
  // The real one refuses its own handles, too.
  if (handle.pid == ::getpid() || handle.device != device) return invalid_context;
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/fd/%d", handle.pid, handle.fd);
  Memory memory;
  memory.fd = ::open(path, O_RDWR | O_CLOEXEC);
  if (memory.fd < 0) return map_failed;
  struct stat status;
  if (::fstat(memory.fd, &status) != 0 || status.st_ino != handle.inode) {
    ::close(memory.fd);
    return map_failed;
  }
  for (const auto& [start, other] : s.memory) {
    struct stat seen;
    // Each handle opens once at a time: our own counting is what is tested.
    if (other.opened && ::fstat(other.fd, &seen) == 0 && seen.st_ino == handle.inode) {
      std::fprintf(stderr, "stand-in cuda: an IPC handle was opened again\n");
      std::abort();
    }
  }
  memory.bytes = handle.bytes;
  memory.device = device;
  memory.opened = true;
  memory.exportable = true;
  if (!map(memory)) {
    ::close(memory.fd);
    return map_failed;
  }
  s.memory[memory.address] = memory;
  control().count("count.ipc_open");
  *address = memory.address;
  return success;
}

EXPORTED int cuIpcCloseMemHandle(uint64_t address) {
  BEGIN("ipc_close");
  const auto at = s.memory.find(address);
  if (at == s.memory.end() || !at->second.opened) return invalid_value;
  if (current_device() != at->second.device) return invalid_context;
  unmap(s, Memory(at->second));
  control().count("count.ipc_open", -1);
  return success;
}

EXPORTED int cuStreamCreate(Stream** stream, unsigned flags) {
  BEGIN("stream");
  if (flags > 1) return invalid_value;
  const int device = current_device();
  if (device < 0) return invalid_context;
  // They live as long as the process, as the primary context mostly does.
  static Stream streams[devices_max];
  streams[device].device = device;
  *stream = &streams[device];
  return success;
}

EXPORTED int cuStreamSynchronize(Stream* stream) {
  BEGIN("synchronize");
  return current_device() != stream->device ? invalid_context : success;
}

EXPORTED int cuGetErrorName(int error, const char** name) {
  switch (error) {
    case success: *name = "CUDA_SUCCESS"; return success;
    case invalid_value: *name = "CUDA_ERROR_INVALID_VALUE"; return success;
    case out_of_memory: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return success;
    case not_initialized: *name = "CUDA_ERROR_NOT_INITIALIZED"; return success;
    case no_device: *name = "CUDA_ERROR_NO_DEVICE"; return success;
    case invalid_device: *name = "CUDA_ERROR_INVALID_DEVICE"; return success;
    case invalid_context: *name = "CUDA_ERROR_INVALID_CONTEXT"; return success;
    case map_failed: *name = "CUDA_ERROR_MAP_FAILED"; return success;
    case invalid_handle: *name = "CUDA_ERROR_INVALID_HANDLE"; return success;
    case host_memory_registered: *name = "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"; return success;
    case host_memory_not_registered: *name = "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"; return success;
    case unknown: *name = "CUDA_ERROR_UNKNOWN"; return success;
    default: *name = nullptr; return invalid_value;
  }
}
