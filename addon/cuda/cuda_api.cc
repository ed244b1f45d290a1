#include "cuda/cuda_api.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <type_traits>

namespace hicache::cuda {
namespace {

constexpr char path_variable[] = "HICACHE_NIXL_CUDA_PATH";
constexpr char library_name[] = "libcuda.so.1";

std::unique_ptr<Api> open(const std::string& name, std::string& why) {
  void* const library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const text = ::dlerror();
    why = text == nullptr ? name + " does not load" : text;
    return nullptr;
  }
  auto api = std::make_unique<Api>();
  bool complete = true;
  const auto find = [&](auto& function, const char* symbol, bool mandatory = true) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, symbol));
    if (function != nullptr || !mandatory || !complete) return;
    complete = false;
    why = name + " has no " + symbol;
  };
  // The versioned names: the plain ones are an older interface, with other types.
  find(api->init, "cuInit");
  find(api->device_get_count, "cuDeviceGetCount");
  find(api->device_get, "cuDeviceGet");
  find(api->primary_context_retain, "cuDevicePrimaryCtxRetain");
  find(api->primary_context_release, "cuDevicePrimaryCtxRelease_v2");
  find(api->context_set_current, "cuCtxSetCurrent");
  find(api->context_push, "cuCtxPushCurrent_v2");
  find(api->context_pop, "cuCtxPopCurrent_v2");
  find(api->allocate, "cuMemAlloc_v2");
  find(api->free, "cuMemFree_v2");
  find(api->get_address_range, "cuMemGetAddressRange_v2");
  find(api->copy_to_host, "cuMemcpyDtoH_v2");
  find(api->copy_to_device, "cuMemcpyHtoD_v2");
  find(api->copy_to_host_async, "cuMemcpyDtoHAsync_v2");
  find(api->copy_to_device_async, "cuMemcpyHtoDAsync_v2");
  find(api->host_register, "cuMemHostRegister_v2");
  find(api->host_unregister, "cuMemHostUnregister");
  find(api->pointer_attributes, "cuPointerGetAttributes");
  find(api->ipc_get_handle, "cuIpcGetMemHandle");
  find(api->ipc_open, "cuIpcOpenMemHandle_v2");
  find(api->ipc_close, "cuIpcCloseMemHandle");
  find(api->stream_create, "cuStreamCreate");
  find(api->stream_synchronize, "cuStreamSynchronize");
  find(api->error_name, "cuGetErrorName");
  find(api->driver_version, "cuDriverGetVersion", false);
  find(api->device_name, "cuDeviceGetName", false);
  if (!complete) return nullptr;
  Dl_info place{};
  api->path = ::dladdr(reinterpret_cast<void*>(api->init), &place) != 0 && place.dli_fname != nullptr ? place.dli_fname : name;
  return api;
}

}  // namespace

const Api* load(Refusal& refusal) {
  static std::mutex mutex;
  static const Api* loaded = nullptr;
  std::lock_guard lock(mutex);
  if (loaded != nullptr) return loaded;
  // A library that somebody has named is the one, or none is.
  const char* const named = std::getenv(path_variable);
  const bool is_named = named != nullptr && *named != '\0';
  std::string why;
  if (auto api = open(is_named ? named : library_name, why)) {
    loaded = api.release();
    return loaded;
  }
  refusal.reason = "the CUDA driver cannot be loaded: " + why;
  refusal.remedy = is_named ? "HICACHE_NIXL_CUDA_PATH must name a libcuda.so.1 that loads, or be empty"
                            : "install NVIDIA's driver (in a container: the NVIDIA container runtime brings libcuda.so.1), or name the file in HICACHE_NIXL_CUDA_PATH";
  return nullptr;
}

}  // namespace hicache::cuda
