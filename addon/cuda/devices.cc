#include "cuda/devices.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <new>

namespace hicache::cuda {
namespace {

constexpr size_t name_bytes = 256;
constexpr int ranges_max = 1 << 20;  // mappings that one buffer may be made of

std::string hex(Address address) {
  char text[24];
  std::snprintf(text, sizeof(text), "0x%" PRIx64, address);
  return text;
}

std::string remedy_for(Result result) {
  switch (result) {
    case result::out_of_memory: return "free memory of the device, or ask for less: nvidia-smi says who has it";
    case result::no_device: return "there is no GPU that this process may see: check nvidia-smi, CUDA_VISIBLE_DEVICES, and that the container was given the device";
    case result::invalid_device: return "name a device from 0 to the number of devices - 1";
    case result::invalid_context: return "an IPC handle is opened by another process than the one that made it; otherwise the device was reset, and this process must be started again";
    case result::map_failed:
    case result::already_mapped: return "the memory cannot be mapped here: the process that exported it must be alive, on this machine, and must still have it allocated";
    case result::peer_access_unsupported: return "open the handle on the device that its memory lies on";
    case result::invalid_handle:
    case result::invalid_value: return "check the address, length or handle: the process that gave it must be alive and must still have it allocated";
    case result::host_memory_registered: return "the memory is registered with CUDA already: register it once";
    case result::not_supported: return "this device or platform cannot do it; in a virtual machine or container the driver may forbid it";
    case result::stub_library: return "the libcuda.so.1 that was loaded is the linker's stub: put the driver's folder before the toolkit's stubs, or name the file in HICACHE_NIXL_CUDA_PATH";
    case result::system_not_ready: return "start the services of the machine's GPUs (nvidia-fabricmanager), then try again";
    case result::system_driver_mismatch: return "the driver's kernel module and libcuda.so.1 are of different versions: restart the machine after an update of the driver";
    case result::illegal_address: return "an earlier call harmed the device's context: start this process again";
    default: return "see what the kernel says of the device (dmesg, nvidia-smi)";
  }
}

}  // namespace

// The context is current within this scope only: the thread may be one of somebody who uses CUDA himself.
class Devices::Current {
 public:
  Current(Devices& devices, int device, Failure& failure) : devices_(devices), pushed_(devices.push(device, failure)) {}
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  ~Current() {
    if (pushed_) devices_.pop();
  }
  explicit operator bool() const { return pushed_; }

 private:
  Devices& devices_;
  const bool pushed_;
};

// A stream for one copy. Without one of their own, copies of all threads would wait for each other, and for whatever else the process has in the default stream.
class Devices::Borrowed {
 public:
  // The device's context is current.
  Borrowed(Devices& devices, int device) : devices_(devices), device_(device) {
    {
      std::lock_guard lock(devices.mutex_);
      auto& idle = devices.slots_[static_cast<size_t>(device)].streams;
      if (!idle.empty()) {
        stream_ = idle.back();
        idle.pop_back();
        return;
      }
    }
    if (devices.api_.stream_create(&stream_, stream_non_blocking) != result::success) stream_ = nullptr;
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() {
    if (stream_ == nullptr) return;
    std::lock_guard lock(devices_.mutex_);
    try {
      devices_.slots_[static_cast<size_t>(device_)].streams.push_back(stream_);
    } catch (const std::bad_alloc&) {
      // It ends with the context.
    }
  }
  Stream* get() const { return stream_; }

 private:
  Devices& devices_;
  const int device_;
  Stream* stream_ = nullptr;
};

DeviceMemory::~DeviceMemory() { devices_.give_back(*this, handle_); }

Devices* Devices::get(Failure& failure) {
  static std::mutex mutex;
  static Devices* ready = nullptr;
  std::lock_guard lock(mutex);
  if (ready != nullptr) return ready;
  Refusal refusal;
  const Api* const api = load(refusal);
  if (api == nullptr) {
    failure = {"CUDA_UNAVAILABLE", refusal.reason, refusal.remedy};
    return nullptr;
  }
  std::unique_ptr<Devices> devices(new Devices(*api));
  if (!devices->open(failure)) return nullptr;
  ready = devices.release();
  return ready;
}

bool Devices::open(Failure& failure) {
  if (!succeeded(api_.init(0), "starting the CUDA driver", failure)) return false;
  int count = 0;
  if (!succeeded(api_.device_get_count(&count), "counting the devices", failure)) return false;
  if (count <= 0) return succeeded(result::no_device, "counting the devices", failure);
  slots_.resize(static_cast<size_t>(count));
  for (int i = 0; i < count; i++) {
    if (!succeeded(api_.device_get(&slots_[static_cast<size_t>(i)].handle, i), "asking for device " + std::to_string(i), failure)) return false;
  }
  return true;
}

bool Devices::succeeded(Result result, const std::string& what, Failure& failure) const {
  if (result == result::success) return true;
  const char* name = nullptr;
  if (api_.error_name(result, &name) != result::success || name == nullptr) failure.code = "CUDA error " + std::to_string(result);
  else failure.code = name;
  failure.what = what + " failed: " + failure.code;
  failure.remedy = remedy_for(result);
  return false;
}

Context* Devices::context_of(int device, Failure& failure) {
  if (device < 0 || device >= count()) {
    failure = {"CUDA_ERROR_INVALID_DEVICE", "there is no device " + std::to_string(device) + ": this process sees " + std::to_string(count()), remedy_for(result::invalid_device)};
    return nullptr;
  }
  std::lock_guard lock(mutex_);
  Slot& slot = slots_[static_cast<size_t>(device)];
  if (slot.context == nullptr) {
    Context* context = nullptr;
    if (!succeeded(api_.primary_context_retain(&context, slot.handle), "retaining the context of device " + std::to_string(device), failure)) return nullptr;
    slot.context = context;
  }
  return slot.context;
}

bool Devices::push(int device, Failure& failure) {
  Context* const context = context_of(device, failure);
  return context != nullptr && succeeded(api_.context_push(context), "making the context of device " + std::to_string(device) + " current", failure);
}

void Devices::pop() {
  Context* former = nullptr;
  api_.context_pop(&former);
}

// One whose context is there already, so that no memory of another device is taken for nothing.
int Devices::any_device() {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < slots_.size(); i++) {
    if (slots_[i].context != nullptr) return static_cast<int>(i);
  }
  return 0;
}

std::string Devices::name_of(int device) const {
  char name[name_bytes] = {};
  if (api_.device_name == nullptr || device < 0 || device >= count()) return "";
  if (api_.device_name(name, static_cast<int>(sizeof(name)) - 1, slots_[static_cast<size_t>(device)].handle) != result::success) return "";
  return name;
}

int Devices::driver_version() const {
  int version = 0;
  return api_.driver_version != nullptr && api_.driver_version(&version) == result::success ? version : 0;
}

std::shared_ptr<DeviceMemory> Devices::allocate(int device, size_t bytes, Failure& failure) {
  const std::string what = "allocating " + std::to_string(bytes) + " bytes of device " + std::to_string(device);
  const Current current(*this, device, failure);
  if (!current) return nullptr;
  Address address = 0;
  if (!succeeded(api_.allocate(&address, bytes), what, failure)) return nullptr;
  {
    std::lock_guard lock(mutex_);
    held_++;
  }
  try {
    return std::make_shared<DeviceMemory>(*this, DeviceMemory::Origin::allocated, device, address, bytes);
  } catch (const std::bad_alloc&) {
    api_.free(address);
    std::lock_guard lock(mutex_);
    held_--;
    succeeded(result::out_of_memory, what, failure);
    return nullptr;
  }
}

Result Devices::attributes_of(Address address, unsigned& type, int& ordinal, int& ipc, Address& start, size_t& bytes) {
  // Of an address that it does not know the driver leaves zeros, or the values alone.
  type = 0;
  ordinal = -1;
  ipc = 0;
  start = 0;
  bytes = 0;
  int names[] = {attribute::memory_type, attribute::device_ordinal, attribute::legacy_ipc_capable, attribute::range_start, attribute::range_size};
  void* values[] = {&type, &ordinal, &ipc, &start, &bytes};
  return api_.pointer_attributes(5, names, values, address);
}

bool Devices::place_of(Address address, Placement& placement, Failure& failure) {
  placement = {};
  unsigned type = 0;
  int ordinal = -1, ipc = 0;
  Address start = 0;
  size_t bytes = 0;
  Result answer = attributes_of(address, type, ordinal, ipc, start, bytes);
  if (answer == result::invalid_context) {
    // Some drivers want a context for it, any will do; a device's first context takes hundreds of megabytes, so it is not made before it is wanted.
    const Current current(*this, any_device(), failure);
    if (!current) return false;
    answer = attributes_of(address, type, ordinal, ipc, start, bytes);
  }
  if (answer == result::invalid_value) return true;
  if (!succeeded(answer, "asking what lies at " + hex(address), failure)) return false;
  if (type == memory_type::host) placement.kind = Placement::Kind::host;
  if (type != memory_type::device) return true;
  placement = {Placement::Kind::device, ordinal, start, bytes, ipc != 0};
  return true;
}

bool Devices::check(Address address, size_t length, Placement& placement, Failure& failure) {
  const std::string asked = std::to_string(length) + " bytes at " + hex(address);
  if (length == 0 || address + length < address) {
    failure = {"OUT_OF_RANGE", asked + " are no range of memory", "give the address and the length of memory that is allocated on a device"};
    return false;
  }
  if (!place_of(address, placement, failure)) return false;
  if (placement.kind != Placement::Kind::device) {
    failure = {"NOT_DEVICE_MEMORY", hex(address) + (placement.kind == Placement::Kind::host ? " is host memory" : " is no address that the CUDA driver of this process knows"),
               "give an address of memory that this process has allocated on a device, or has opened from an IPC handle"};
    return false;
  }
  if (placement.device < 0 || placement.device >= count() || placement.range_start > address) {
    failure = {"NOT_DEVICE_MEMORY", "the driver says of " + hex(address) + " what cannot be: device " + std::to_string(placement.device) + ", range from " + hex(placement.range_start),
               "give an address of memory that this process has allocated on a device"};
    return false;
  }
  // What one allocation does not hold may be several mappings of one range (expandable segments). Neighbours that were allocated apart are not one buffer.
  for (int i = 0; address + length > placement.range_start + placement.range_bytes; i++) {
    Placement next;
    const Address end = placement.range_start + placement.range_bytes;
    const bool goes_on = !placement.ipc_capable && i < ranges_max && end > address && place_of(end, next, failure) && next.kind == Placement::Kind::device && next.device == placement.device &&
                         next.range_start == end && next.range_bytes > 0 && !next.ipc_capable;
    if (!goes_on) {
      const uint64_t left = end > address ? end - address : 0;
      failure = {"OUT_OF_RANGE", asked + " go beyond the end of their allocation: it has " + std::to_string(left) + " bytes from there", "check the buffer's address and length"};
      return false;
    }
    placement.range_bytes += next.range_bytes;
  }
  return true;
}

bool Devices::ipc_export(Address address, IpcExport& out, Failure& failure) {
  Placement placement;
  if (!check(address, 1, placement, failure)) return false;
  if (!placement.ipc_capable) {
    failure = {"NOT_IPC_CAPABLE", "memory at " + hex(address) + " cannot be exported by CUDA IPC: it was made by CUDA's virtual memory functions or by a stream's pool",
               "allocate it plainly (PyTorch: PYTORCH_CUDA_ALLOC_CONF without expandable_segments, no cudaMallocAsync)"};
    return false;
  }
  const Current current(*this, placement.device, failure);
  if (!current) return false;
  Address start = 0;
  size_t bytes = 0;
  if (!succeeded(api_.get_address_range(&start, &bytes, address), "asking for the allocation around " + hex(address), failure)) return false;
  if (!succeeded(api_.ipc_get_handle(&out.handle, start), "exporting the memory at " + hex(address), failure)) return false;
  out.offset = address - start;
  return true;
}

std::shared_ptr<DeviceMemory> Devices::ipc_open(const IpcHandle& handle, int device, Failure& failure) {
  const std::string what = "opening an IPC handle on device " + std::to_string(device);
  const Current current(*this, device, failure);
  if (!current) return nullptr;
  std::lock_guard ipc_lock(ipc_mutex_);
  bool opened_here = false;
  Opened* opened = nullptr;
  std::string key;
  try {
    key = std::to_string(device).append(1, ':').append(handle.bytes, sizeof(handle.bytes));
    opened = &opened_[key];
    if (opened->holders == 0) {
      if (!succeeded(api_.ipc_open(&opened->address, handle, ipc_lazy_peer_access), what, failure)) {
        opened_.erase(key);
        return nullptr;
      }
      opened_here = true;
      Address start = 0;
      if (!succeeded(api_.get_address_range(&start, &opened->bytes, opened->address), "asking for the length of opened memory", failure)) {
        api_.ipc_close(opened->address);
        opened_.erase(key);
        return nullptr;
      }
    }
    auto memory = std::make_shared<DeviceMemory>(*this, DeviceMemory::Origin::ipc, device, opened->address, opened->bytes, handle);
    opened->holders++;
    std::lock_guard lock(mutex_);
    held_++;
    return memory;
  } catch (const std::bad_alloc&) {
    if (opened_here) {
      api_.ipc_close(opened->address);
      opened_.erase(key);
    }
    succeeded(result::out_of_memory, what, failure);
    return nullptr;
  }
}

void Devices::give_back(const DeviceMemory& memory, const IpcHandle& handle) {
  Failure failure;
  {
    const Current current(*this, memory.device(), failure);
    // What the driver answers is nothing that anybody could act upon: the memory is gone, or the context is.
    if (memory.origin() == DeviceMemory::Origin::allocated) {
      if (current) api_.free(memory.address());
    } else {
      std::lock_guard ipc_lock(ipc_mutex_);
      for (auto at = opened_.begin(); at != opened_.end(); ++at) {
        const size_t prefix = at->first.size() - sizeof(handle.bytes);
        if (at->second.address != memory.address() || std::memcmp(at->first.data() + prefix, handle.bytes, sizeof(handle.bytes)) != 0) continue;
        if (--at->second.holders > 0) break;
        if (current) api_.ipc_close(memory.address());
        opened_.erase(at);
        break;
      }
    }
  }
  std::lock_guard lock(mutex_);
  held_--;
}

bool Devices::copy(int device, void* host, Address address, size_t bytes, bool to_host, Failure& failure) {
  if (bytes == 0) return true;
  const auto what = [&] {
    return "copying " + std::to_string(bytes) + (to_host ? " bytes from " : " bytes to ") + hex(address) + " of device " + std::to_string(device);
  };
  const Current current(*this, device, failure);
  if (!current) return false;
  const Borrowed stream(*this, device);
  if (stream.get() == nullptr) {
    // Slower, and as good.
    const Result result = to_host ? api_.copy_to_host(host, address, bytes) : api_.copy_to_device(address, host, bytes);
    return result == result::success || succeeded(result, what(), failure);
  }
  const Result started = to_host ? api_.copy_to_host_async(host, address, bytes, stream.get()) : api_.copy_to_device_async(address, host, bytes, stream.get());
  // Waited for in any case: a copy that began and then failed must not write into memory that its owner has back.
  const Result ended = api_.stream_synchronize(stream.get());
  const Result result = started != result::success ? started : ended;
  return result == result::success || succeeded(result, what(), failure);
}

bool Devices::copy_to_host(int device, void* to, Address from, size_t bytes, Failure& failure) { return copy(device, to, from, bytes, true, failure); }

bool Devices::copy_to_device(int device, Address to, const void* from, size_t bytes, Failure& failure) {
  return copy(device, const_cast<void*>(from), to, bytes, false, failure);
}

bool Devices::register_host(void* address, size_t bytes, Failure& failure) {
  const Current current(*this, any_device(), failure);
  if (!current) return false;
  const Result result = api_.host_register(address, bytes, host_register_portable);
  if (result == result::success) return true;
  succeeded(result, "pinning " + std::to_string(bytes) + " bytes of host memory", failure);
  if (result == result::out_of_memory) failure.remedy = "raise the limit of locked memory (ulimit -l unlimited), or pin less";
  return false;
}

bool Devices::unregister_host(void* address, Failure& failure) {
  const Current current(*this, any_device(), failure);
  if (!current) return false;
  return succeeded(api_.host_unregister(address), "unpinning host memory", failure);
}

bool Devices::make_current(int device, Failure& failure) {
  Context* const context = context_of(device, failure);
  if (context == nullptr) return false;
  return succeeded(api_.context_set_current(context), "making the context of device " + std::to_string(device) + " current", failure);
}

bool Devices::release_contexts(Failure& failure) {
  std::lock_guard lock(mutex_);
  if (held_ > 0) {
    failure = {"IN_USE", std::to_string(held_) + " pieces of device memory are still held", "give them back first"};
    return false;
  }
  for (Slot& slot : slots_) {
    if (slot.context == nullptr) continue;
    if (!succeeded(api_.primary_context_release(slot.handle), "releasing a context", failure)) return false;
    slot.context = nullptr;
    slot.streams.clear();
  }
  return true;
}

}  // namespace hicache::cuda
