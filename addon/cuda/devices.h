// The GPUs of this process, through the CUDA driver: memory, copies, and what an address is. Any thread; nothing here throws. Calls may block (the driver starts a
// context when a device is first used), so they are not for an event loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/cuda_api.h"
#include "cuda/device_memory.h"

namespace hicache::cuda {

struct Failure {
  std::string code;    // the driver's own name for it (CUDA_ERROR_OUT_OF_MEMORY), or one of ours: CUDA_UNAVAILABLE, NOT_DEVICE_MEMORY, OUT_OF_RANGE, NOT_IPC_CAPABLE
  std::string what;    // what was asked, with its values
  std::string remedy;
};

// What the driver says of an address.
struct Placement {
  enum class Kind : uint8_t { unknown, host, device };  // unknown: ordinary memory, or none at all
  Kind kind = Kind::unknown;
  int device = -1;
  Address range_start = 0;  // of the allocation, or of the mapping, that the address lies in
  size_t range_bytes = 0;
  bool ipc_capable = false;
};

struct IpcExport {
  IpcHandle handle{};
  uint64_t offset = 0;  // of the address within what the handle opens
};

class Devices {
 public:
  // nullptr where there is no driver or no device; asked again it is tried again.
  static Devices* get(Failure&);

  const Api& api() const { return api_; }
  int count() const { return static_cast<int>(slots_.size()); }
  std::string name_of(int device) const;  // empty where the driver does not say
  int driver_version() const;             // 12040 is 12.4; 0 where the driver does not say

  // nullptr, with the failure.
  std::shared_ptr<DeviceMemory> allocate(int device, size_t bytes, Failure&);
  // False only where the driver does not answer: an address that it does not know is Kind::unknown.
  bool place_of(Address address, Placement&, Failure&);
  // False unless all of it is memory of one device.
  bool check(Address address, size_t length, Placement&, Failure&);

  bool ipc_export(Address address, IpcExport&, Failure&);
  // One handle of another process opens once here, however often it is asked for: all its holders get the same address. nullptr, with the failure.
  std::shared_ptr<DeviceMemory> ipc_open(const IpcHandle& handle, int device, Failure&);

  // Block until the bytes are there. Fast from and to memory that is registered; right with any.
  bool copy_to_host(int device, void* to, Address from, size_t bytes, Failure&);
  bool copy_to_device(int device, Address to, const void* from, size_t bytes, Failure&);

  // Pins host memory, for all devices.
  bool register_host(void* address, size_t bytes, Failure&);
  bool unregister_host(void* address, Failure&);

  // For threads of our own that call something else that wants the device's context (cuFile). It stays current.
  bool make_current(int device, Failure&);
  // Calls it with the device's context current on this thread, and puts back what was. False, and no call, where that cannot be.
  template <typename Call>
  bool with_current(int device, Failure& failure, Call&& call) {
    if (!push(device, failure)) return false;
    call();
    pop();
    return true;
  }

  // For tests, and the end of a service: gives the contexts back. False, and nothing is done, while device memory is held.
  bool release_contexts(Failure&);

 private:
  friend class DeviceMemory;
  class Current;
  class Borrowed;
  struct Slot {
    Device handle = 0;
    Context* context = nullptr;    // retained at the device's first use
    std::vector<Stream*> streams;  // idle ones; they end with the context
  };
  struct Opened {
    Address address = 0;
    size_t bytes = 0;
    int holders = 0;
  };

  explicit Devices(const Api& api) : api_(api) {}
  bool open(Failure&);
  bool push(int device, Failure&);
  void pop();
  Context* context_of(int device, Failure&);
  int any_device();
  bool succeeded(Result result, const std::string& what, Failure& failure) const;
  Result attributes_of(Address address, unsigned& type, int& ordinal, int& ipc, Address& start, size_t& bytes);
  bool copy(int device, void* host, Address address, size_t bytes, bool to_host, Failure&);
  void give_back(const DeviceMemory& memory, const IpcHandle& handle);

  const Api& api_;
  std::mutex mutex_;  // slots, held_, opened_
  std::vector<Slot> slots_;
  size_t held_ = 0;  // allocations and openings
  std::mutex ipc_mutex_;  // held over opening and closing: the last holder's close and the next one's open must not cross
  std::map<std::string, Opened> opened_;  // by device and handle
};

}  // namespace hicache::cuda
