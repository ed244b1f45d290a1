#include "plugins/gds/cufile_api.h"

#include <cerrno>
#include <memory>

#include "engine/engine_base.h"
#include "util/shared_library.h"

namespace hicache::cufile {
namespace {

constexpr char path_variable[] = "HICACHE_NIXL_CUFILE_PATH";

std::unique_ptr<Api> open(const std::string& name, std::string& why) {
  SharedLibrary library(name, SharedLibrary::plain, why);
  if (!library) return nullptr;
  auto api = std::make_unique<Api>();
  library.find(api->driver_open, "cuFileDriverOpen");
  library.find(api->driver_close, "cuFileDriverClose_v2");
  library.find(api->handle_register, "cuFileHandleRegister");
  library.find(api->handle_deregister, "cuFileHandleDeregister");
  library.find(api->buffer_register, "cuFileBufRegister");
  library.find(api->buffer_deregister, "cuFileBufDeregister");
  library.find(api->read, "cuFileRead");
  library.find(api->write, "cuFileWrite");
  library.find(api->batch_setup, "cuFileBatchIOSetUp");
  library.find(api->batch_submit, "cuFileBatchIOSubmit");
  library.find(api->batch_status, "cuFileBatchIOGetStatus");
  library.find(api->batch_cancel, "cuFileBatchIOCancel");
  library.find(api->batch_destroy, "cuFileBatchIODestroy");
  library.look_for(api->get_version, "cuFileGetVersion");
  library.look_for(api->set_parameter_bool, "cuFileSetParameterBool");
  if (!library.complete(why)) {
    why.append(": it is older than 1.4");
    return nullptr;
  }
  api->path = library.path_of(api->read);
  int version = 0;
  if (api->get_version != nullptr && api->get_version(&version).code == 0 && version > 0) {
    api->version = std::to_string(version / 1000).append(1, '.').append(std::to_string(version % 1000 / 10));
  }
  return api;
}

struct Known {
  int code;
  const char* name;
  const char* meaning;
  const char* remedy;
};
constexpr Known known[] = {
    {code::driver_not_open, "CU_FILE_DRIVER_NOT_INITIALIZED", "its driver is not open", "load nvidia-fs (modprobe nvidia-fs), or allow compatibility mode: properties.allow_compat_mode = true in the file that CUFILE_ENV_PATH_JSON names"},
    {code::platform, "CU_FILE_PLATFORM_NOT_SUPPORTED", "it does not support this platform", "use the plugin POSIX, which stages GPU memory through host memory"},
    {code::file_system, "CU_FILE_IO_NOT_SUPPORTED", "it does not support this file system or file", "put the data on ext4 or XFS of a local disk, or on a file system that is certified for GPUDirect Storage; a tmpfs never works"},
    {code::cuda_error, "CU_FILE_CUDA_DRIVER_ERROR", "a call of the CUDA driver failed", "see what the CUDA error says; the calling thread needs the memory's context"},
    {code::memory_type, "CU_FILE_CUDA_MEMORY_TYPE_INVALID", "the memory is not of a kind that it takes", "give memory that was allocated on a device"},
    {code::invalid, "CU_FILE_INVALID_VALUE", "an argument is invalid", "check address, length and offset against the allocation"},
    {code::already_registered, "CU_FILE_ALREADY_REGISTERED", "it is registered already", "somebody else in this process has registered it with cuFile: one of the two must not"},
    {code::already_open, "CU_FILE_DRIVER_ALREADY_OPEN", "its driver is open already", "nothing is to be done"},
    {code::not_registered, "CU_FILE_HANDLE_NOT_REGISTERED", "the file cannot be registered, or is not",
     "where udev has no record of the block device (containers, small machines), make one: /run/udev/data/b<major>:<minor> with the lines E:ID_FS_USAGE=filesystem and E:ID_FS_TYPE=<type>; a tmpfs never works"},
    {code::internal, "CU_FILE_INTERNAL_ERROR", "internal error", "see cufile.log in the folder that logging.dir of cufile.json names, or else in the working directory"},
    {code::no_cuda, "CU_FILE_NO_CUDA", "it finds no libcuda", "install NVIDIA's driver; in a container, the NVIDIA container runtime brings libcuda.so.1"},
    {code::pin, "CU_FILE_GPU_MEMORY_PINNING_FAILED", "the memory of the GPU cannot be pinned", "register less, or raise properties.max_device_pinned_mem_size_kb in cufile.json; the BAR of the GPU bounds it, too (nvidia-smi -q)"},
    {code::batch_full, "CU_FILE_BATCH_FULL", "the batch is full", "lower batch_limit"},
};

}  // namespace

const Api* load(Failure& failure) {
  std::string reasons;
  const Api* const api = load_once<Api>([] { return library_names(path_variable, {"libcufile.so.0", "libcufile.so"}); }, open, reasons);
  if (api != nullptr) return api;
  failure.code = "CUFILE_UNAVAILABLE";
  failure.what = "cuFile cannot be loaded: " + reasons;
  failure.remedy = "install libcufile (with CUDA 11.4 or newer: the package libcufile, or nvidia-cufile of Python), or name the file in HICACHE_NIXL_CUFILE_PATH";
  return nullptr;
}

Failure failure_of(const std::string& what, int code, int cuda_code) {
  Failure failure;
  if (code > 0 && code < code::first) {
    failure.code = engines::describe_errno(code);
    failure.what = what + " failed: " + failure.code;
    failure.remedy = "see what the kernel says of the device and the file system (dmesg)";
    return failure;
  }
  failure.code = "cuFile error " + std::to_string(code);
  failure.what = what + " failed: " + failure.code;
  failure.remedy = "see cufile.log in the folder that logging.dir of cufile.json names, or else in the working directory";
  for (const Known& one : known) {
    if (one.code != code) continue;
    failure.code = one.name;
    failure.what = std::string(what).append(" failed: ").append(one.name).append(" (").append(std::to_string(code)).append(": ").append(one.meaning).append(")");
    failure.remedy = one.remedy;
  }
  if (code == code::cuda_error && cuda_code != 0) failure.what.append(", CUDA error ").append(std::to_string(cuda_code));
  return failure;
}

int errno_of(int code) {
  switch (code) {
    case code::driver_not_open:
    case code::no_cuda: return ENODEV;
    case code::platform:
    case code::file_system:
    case code::not_registered: return EOPNOTSUPP;
    case code::memory_type:
    case code::invalid: return EFAULT;
    case code::pin: return ENOMEM;
    default: return code > 0 && code < code::first ? code : EIO;
  }
}

}  // namespace hicache::cufile
