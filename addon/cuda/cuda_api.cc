#include "cuda/cuda_api.h"

#include <memory>

namespace hicache::cuda {
namespace {

constexpr char path_variable[] = "HICACHE_NIXL_CUDA_PATH";

std::unique_ptr<Api> open(const std::string& name, std::string& why) {
  SharedLibrary library(name, SharedLibrary::plain, why);
  if (!library) return nullptr;
  auto api = std::make_unique<Api>();
  // The versioned names: the plain ones are an older interface, with other types.
  library.find(api->init, "cuInit");
  library.find(api->device_get_count, "cuDeviceGetCount");
  library.find(api->device_get, "cuDeviceGet");
  library.find(api->primary_context_retain, "cuDevicePrimaryCtxRetain");
  library.find(api->primary_context_release, "cuDevicePrimaryCtxRelease_v2");
  library.find(api->context_set_current, "cuCtxSetCurrent");
  library.find(api->context_push, "cuCtxPushCurrent_v2");
  library.find(api->context_pop, "cuCtxPopCurrent_v2");
  library.find(api->allocate, "cuMemAlloc_v2");
  library.find(api->free, "cuMemFree_v2");
  library.find(api->get_address_range, "cuMemGetAddressRange_v2");
  library.find(api->copy_to_host, "cuMemcpyDtoH_v2");
  library.find(api->copy_to_device, "cuMemcpyHtoD_v2");
  library.find(api->copy_to_host_async, "cuMemcpyDtoHAsync_v2");
  library.find(api->copy_to_device_async, "cuMemcpyHtoDAsync_v2");
  library.find(api->host_register, "cuMemHostRegister_v2");
  library.find(api->host_unregister, "cuMemHostUnregister");
  library.find(api->pointer_attributes, "cuPointerGetAttributes");
  library.find(api->ipc_get_handle, "cuIpcGetMemHandle");
  library.find(api->ipc_open, "cuIpcOpenMemHandle_v2");
  library.find(api->ipc_close, "cuIpcCloseMemHandle");
  library.find(api->stream_create, "cuStreamCreate");
  library.find(api->stream_synchronize, "cuStreamSynchronize");
  library.find(api->error_name, "cuGetErrorName");
  library.look_for(api->driver_version, "cuDriverGetVersion");
  library.look_for(api->device_name, "cuDeviceGetName");
  if (!library.complete(why)) return nullptr;
  api->path = library.path_of(api->init);
  return api;
}

}  // namespace

const Api* load(Refusal& refusal) {
  std::string reasons;
  const Api* const api = load_once<Api>([] { return library_names(path_variable, {"libcuda.so.1"}); }, open, reasons);
  if (api != nullptr) return api;
  refusal.reason = "the CUDA driver cannot be loaded: " + reasons;
  refusal.remedy = text_of(path_variable).empty() ? "install NVIDIA's driver (in a container: the NVIDIA container runtime brings libcuda.so.1), or name the file in HICACHE_NIXL_CUDA_PATH"
                                                  : "HICACHE_NIXL_CUDA_PATH must name a libcuda.so.1 that loads, or be empty";
  return nullptr;
}

}  // namespace hicache::cuda
