// Memory of a GPU that ends with its last holder: allocated here, or opened from another process.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/cuda_api.h"

namespace hicache::cuda {

class Devices;

class DeviceMemory {
 public:
  enum class Origin : uint8_t { allocated, ipc };

  DeviceMemory(Devices& devices, Origin origin, int device, Address address, size_t bytes, const IpcHandle& handle = {})
      : devices_(devices), origin_(origin), device_(device), address_(address), bytes_(bytes), handle_(handle) {}
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  // May wait for what the device still does.
  ~DeviceMemory();

  int device() const { return device_; }
  Address address() const { return address_; }
  size_t bytes() const { return bytes_; }
  Origin origin() const { return origin_; }

 private:
  Devices& devices_;
  const Origin origin_;
  const int device_;
  const Address address_;
  const size_t bytes_;
  const IpcHandle handle_;
};

}  // namespace hicache::cuda
