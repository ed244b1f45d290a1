// GPUs, their memory, and cuFile's driver.
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/devices.h"
#include "napi/support_napi.h"
#include "plugins/gds/cufile_driver.h"

namespace hicache {
namespace {

// What a region of device memory keeps: cuFile's registration ends before the memory does.
struct DeviceHolding {
  std::shared_ptr<cuda::DeviceMemory> memory;  // nullptr: somebody else's
  std::shared_ptr<void> buffer;
};

// Many a text names the code already.
std::string reason_of(const cuda::Failure& failure) {
  if (failure.code.empty() || failure.what.find(failure.code) != std::string::npos) return failure.what;
  return std::string(failure.what).append(" (").append(failure.code).append(")");
}

std::string said(const cuda::Failure& failure) {
  const std::string reason = reason_of(failure);
  return failure.remedy.empty() ? reason : std::string(reason).append("; ").append(failure.remedy);
}

napi_value refused(const Out& out, const cuda::Failure& failure) { return make_error(Napi::Env(out.env()), "ERR_DEVICE", said(failure)).Value(); }

cuda::Failure out_of_range(const std::string& what) { return {"OUT_OF_RANGE", what, "check offset and length against the allocation that the handle stands for"}; }

RegionRef region_of(Napi::Value value) {
  if (value.IsEmpty() || !value.IsNumber()) return nullptr;
  const double id = value.As<Napi::Number>().DoubleValue();
  return id >= 0 && id <= UINT32_MAX ? MemoryRegistry::instance().find(static_cast<uint32_t>(id)) : nullptr;
}

bool whole_of(Napi::Value value, double high, double& out) {
  if (value.IsEmpty() || !value.IsNumber()) return false;
  out = value.As<Napi::Number>().DoubleValue();
  return out >= 0 && out <= high && out == static_cast<double>(static_cast<uint64_t>(out));
}

constexpr double bytes_max = 1e15;

// ---- making memory known ----

struct Made {
  cuda::Failure failure;
  bool ok = false;
  int device = 0;
  cuda::Address address = 0;
  size_t bytes = 0;
  std::shared_ptr<DeviceHolding> holding = std::make_shared<DeviceHolding>();
};

// `make` fills the rest; then cuFile gets to know it, where that is in use.
template <typename Make>
Napi::Value make_region(Napi::Env env, Make make) {
  auto made = std::make_shared<Made>();
  return run_in_background(
      env,
      [made, make] {
        cuda::Devices* const devices = cuda::Devices::get(made->failure);
        if (devices == nullptr || !make(*devices, *made)) return;
        cufile::CufileDriver& driver = cufile::CufileDriver::instance();
        cufile::Failure unregistered;
        // Transfers work without it too, through memory of cuFile's own.
        if (driver.is_open()) made->holding->buffer = driver.register_buffer(made->device, made->address, made->bytes, unregistered);
        made->ok = true;
      },
      [made](Out& out, const Deferred& deferred) {
        if (!made->ok) return deferred.reject(out, refused(out, made->failure));
        const RegionRef region =
            MemoryRegistry::instance().add(reinterpret_cast<void*>(static_cast<uintptr_t>(made->address)), made->bytes, MemoryKind::device, made->device, std::move(made->holding));
        Environment::of(Napi::Env(out.env())).regions.push_back(region);
        const napi_value told = out.object();
        out.set(told, "region", out.number(region->id));
        out.set(told, "device", out.number(region->device));
        out.set(told, "address", Napi::BigInt::New(Napi::Env(out.env()), static_cast<uint64_t>(made->address)));
        deferred.resolve(out, told);
      });
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  double device, bytes;
  if (info.Length() < 2 || !whole_of(info[0], 1024, device) || !whole_of(info[1], bytes_max, bytes) || bytes == 0) {
    throw_argument(info.Env(), "allocate needs a device and a number of bytes.");
    return info.Env().Undefined();
  }
  return make_region(info.Env(), [=](cuda::Devices& devices, Made& made) {
    made.device = static_cast<int>(device);
    made.bytes = static_cast<size_t>(bytes);
    made.holding->memory = devices.allocate(made.device, made.bytes, made.failure);
    if (made.holding->memory == nullptr) return false;
    made.address = made.holding->memory->address();
    return true;
  });
}

Napi::Value open_handle(const Napi::CallbackInfo& info) {
  Bytes handle;
  double device, offset, bytes;
  cuda::IpcHandle ipc{};
  if (info.Length() < 4 || !bytes_of(info[0], handle) || handle.length != sizeof(ipc) || !whole_of(info[1], 1024, device) || !whole_of(info[2], bytes_max, offset) ||
      !whole_of(info[3], bytes_max, bytes) || bytes == 0) {
    throw_argument(info.Env(), "openHandle needs a handle of 64 bytes, a device, an offset and a number of bytes.");
    return info.Env().Undefined();
  }
  std::memcpy(&ipc, handle.data, sizeof(ipc));
  return make_region(info.Env(), [=](cuda::Devices& devices, Made& made) {
    made.device = static_cast<int>(device);
    made.bytes = static_cast<size_t>(bytes);
    made.holding->memory = devices.ipc_open(ipc, made.device, made.failure);
    if (made.holding->memory == nullptr) return false;
    const size_t all = made.holding->memory->bytes();
    if (offset > static_cast<double>(all) || made.bytes > all - static_cast<size_t>(offset)) {
      made.failure = out_of_range("offset " + std::to_string(static_cast<uint64_t>(offset)) + " and " + std::to_string(made.bytes) + " bytes of an allocation of " + std::to_string(all));
      made.holding->memory.reset();
      return false;
    }
    made.address = made.holding->memory->address() + static_cast<uint64_t>(offset);
    return true;
  });
}

Napi::Value adopt(const Napi::CallbackInfo& info) {
  double device, bytes;
  bool lossless = false;
  if (info.Length() < 3 || !whole_of(info[0], 1024, device) || !info[1].IsBigInt() || !whole_of(info[2], bytes_max, bytes) || bytes == 0) {
    throw_argument(info.Env(), "adopt needs a device, an address and a number of bytes.");
    return info.Env().Undefined();
  }
  const uint64_t address = info[1].As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) {
    throw_argument(info.Env(), "An address is a bigint from 0 to 2^64 - 1.");
    return info.Env().Undefined();
  }
  return make_region(info.Env(), [=](cuda::Devices& devices, Made& made) {
    made.bytes = static_cast<size_t>(bytes);
    made.address = address;
    cuda::Placement placement;
    if (!devices.check(address, made.bytes, placement, made.failure)) return false;
    made.device = placement.device;
    if (made.device == static_cast<int>(device)) return true;
    made.failure = {"WRONG_DEVICE", "memory of device " + std::to_string(made.device) + ", and not of device " + std::to_string(static_cast<int>(device)), "give the device that the memory is of"};
    return false;
  });
}

Napi::Value release(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto region = std::make_shared<RegionRef>(info.Length() > 0 ? region_of(info[0]) : nullptr);
  if (*region != nullptr && (*region)->kind == MemoryKind::device) {
    std::erase(Environment::of(env).regions, *region);
    MemoryRegistry::instance().remove((*region)->id);
  }
  // The driver waits for what the device still does.
  return run_in_background(env, [region] { region->reset(); }, [](Out& out, const Deferred& deferred) { deferred.resolve(out, out.undefined()); });
}

// ---- using it ----

Napi::Value export_handle(const Napi::CallbackInfo& info) {
  struct Answer {
    RegionRef region;
    cuda::IpcExport told;
    cuda::Failure failure;
    bool ok = false;
  };
  auto answer = std::make_shared<Answer>();
  answer->region = info.Length() > 0 ? region_of(info[0]) : nullptr;
  if (answer->region == nullptr || answer->region->kind != MemoryKind::device) {
    throw_argument(info.Env(), "exportHandle needs a region of device memory.");
    return info.Env().Undefined();
  }
  return run_in_background(
      info.Env(),
      [answer] {
        cuda::Devices* const devices = cuda::Devices::get(answer->failure);
        answer->ok = devices != nullptr && devices->ipc_export(reinterpret_cast<uintptr_t>(answer->region->address), answer->told, answer->failure);
      },
      [answer](Out& out, const Deferred& deferred) {
        if (!answer->ok) return deferred.reject(out, refused(out, answer->failure));
        const napi_value told = out.object();
        out.set(told, "handle", out.copy(&answer->told.handle, sizeof(answer->told.handle)));
        out.set(told, "offset", out.number(static_cast<double>(answer->told.offset)));
        deferred.resolve(out, told);
      });
}

// Five numbers a copy: device region, offset, host region, offset, bytes.
constexpr size_t copy_fields = 5;

Napi::Value copy(const Napi::CallbackInfo& info) {
  struct One {
    RegionRef device, host;
    uint64_t device_at, host_at;
    size_t bytes;
  };
  struct Work {
    std::vector<One> copies;
    bool to_host = false;
    cuda::Failure failure;
    bool ok = true;
  };
  const Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array || !info[1].IsBoolean()) {
    throw_argument(env, "copy needs a Float64Array of five numbers a copy, and whether it goes to the host.");
    return env.Undefined();
  }
  const Napi::Float64Array list = info[0].As<Napi::Float64Array>();
  auto work = std::make_shared<Work>();
  work->to_host = info[1].As<Napi::Boolean>().Value();
  for (size_t i = 0; i + copy_fields <= list.ElementLength(); i += copy_fields) {
    One one;
    const auto find = [&](double id) { return id >= 0 && id <= UINT32_MAX ? MemoryRegistry::instance().find(static_cast<uint32_t>(id)) : nullptr; };
    one.device = find(list[i]);
    one.host = find(list[i + 2]);
    const auto inside = [](const RegionRef& region, double at, double bytes) {
      return region != nullptr && at >= 0 && bytes >= 0 && at + bytes <= static_cast<double>(region->length);
    };
    if (!inside(one.device, list[i + 1], list[i + 4]) || !inside(one.host, list[i + 3], list[i + 4]) || one.device->kind != MemoryKind::device || one.host->kind == MemoryKind::device) {
      throw_argument(env, "copy: entry " + std::to_string(i / copy_fields) + " lies outside of its regions.");
      return env.Undefined();
    }
    one.device_at = static_cast<uint64_t>(list[i + 1]);
    one.host_at = static_cast<uint64_t>(list[i + 3]);
    one.bytes = static_cast<size_t>(list[i + 4]);
    work->copies.push_back(std::move(one));
  }
  return run_in_background(
      env,
      [work] {
        cuda::Devices* const devices = cuda::Devices::get(work->failure);
        work->ok = devices != nullptr;
        for (const One& one : work->copies) {
          if (!work->ok) return;
          const cuda::Address address = reinterpret_cast<uintptr_t>(one.device->address) + one.device_at;
          // A copy takes milliseconds: so long its environment may have to wait for its end.
          const bool touched = one.host->gate.touch([&] {
            uint8_t* const host = one.host->address + one.host_at;
            work->ok = work->to_host ? devices->copy_to_host(one.device->device, host, address, one.bytes, work->failure)
                                     : devices->copy_to_device(one.device->device, address, host, one.bytes, work->failure);
          });
          if (touched) continue;
          work->ok = false;
          work->failure = {"ECANCELED", "a copy to or from memory that has ended", ""};
        }
      },
      [work](Out& out, const Deferred& deferred) {
        if (!work->ok) return deferred.reject(out, refused(out, work->failure));
        deferred.resolve(out, out.undefined());
      });
}

// Region::forget is one at a time's.
std::mutex& pinning() {
  static auto* const the_mutex = new std::mutex;  // never destroyed: threads may outlive main()
  return *the_mutex;
}

// Memory that ends while the driver has it pinned would leave the driver with pages that are somebody else's by then: so whatever ends the region unpins it.
template <bool pinned>
Napi::Value pin(const Napi::CallbackInfo& info) {
  const RegionRef region = info.Length() > 0 ? region_of(info[0]) : nullptr;
  if (region == nullptr || region->kind == MemoryKind::device) {
    throw_argument(info.Env(), "pin and unpin need a region of host memory.");
    return info.Env().Undefined();
  }
  auto ok = std::make_shared<bool>(false);
  return run_in_background(
      info.Env(),
      [region, ok] {
        cuda::Failure failure;
        cuda::Devices* const devices = cuda::Devices::get(failure);
        if (devices == nullptr) return;
        region->gate.touch([&] {
          std::lock_guard lock(pinning());
          if (pinned) {
            *ok = devices->register_host(region->address, region->length, failure);
            if (!*ok) return;
            region->forget = [devices, address = region->address] {
              cuda::Failure unheard;
              devices->unregister_host(address, unheard);
            };
          } else if (region->forget) {
            region->forget = nullptr;
            *ok = devices->unregister_host(region->address, failure);
          }
        });
      },
      [ok](Out& out, const Deferred& deferred) { deferred.resolve(out, out.boolean(*ok)); });
}

Napi::Value probe_cuda(const Napi::CallbackInfo& info) {
  struct Answer {
    cuda::Failure failure;
    std::string library;
    int devices = 0, version = 0;
  };
  auto answer = std::make_shared<Answer>();
  return run_in_background(
      info.Env(),
      [answer] {
        cuda::Devices* const devices = cuda::Devices::get(answer->failure);
        if (devices == nullptr) return;
        answer->library = devices->api().path;
        answer->devices = devices->count();
        answer->version = devices->driver_version();
      },
      [answer](Out& out, const Deferred& deferred) {
        const napi_value told = out.object();
        const bool usable = answer->devices > 0;
        out.set(told, "usable", out.boolean(usable));
        out.set(told, "library", out.string(answer->library));
        out.set(told, "version", out.string(answer->version == 0 ? "" : std::to_string(answer->version / 1000) + "." + std::to_string(answer->version % 1000 / 10)));
        out.set(told, "devices", out.number(answer->devices));
        out.set(told, "reason", out.string(usable ? "" : reason_of(answer->failure)));
        out.set(told, "remedy", out.string(usable ? "" : answer->failure.remedy));
        deferred.resolve(out, told);
      });
}

// In a child process: it may hang.
Napi::Value probe_cufile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  cufile::ProbeOptions options;
  // For specs: this machine may have no such file, and a stand-in needs none.
  if (info.Length() > 0 && info[0].IsString()) options.modules = info[0].As<Napi::String>().Utf8Value();
  const cufile::ProbeReport report = cufile::probe(options);
  Napi::Object told = Napi::Object::New(env);
  told.Set("usable", Napi::Boolean::New(env, report.usable));
  told.Set("mode", Napi::String::New(env, cufile::name_of(report.mode)));
  told.Set("library", Napi::String::New(env, report.path));
  told.Set("version", Napi::String::New(env, report.version));
  told.Set("reason", Napi::String::New(env, report.reason));
  told.Set("remedy", Napi::String::New(env, report.remedy));
  return told;
}

Napi::Value open_cufile(const Napi::CallbackInfo& info) {
  auto failure = std::make_shared<cufile::Failure>();
  auto ok = std::make_shared<bool>(false);
  return run_in_background(
      info.Env(), [failure, ok] { *ok = cufile::CufileDriver::instance().open(*failure); },
      [ok](Out& out, const Deferred& deferred) { deferred.resolve(out, out.boolean(*ok)); });
}

// What cuFile said last of what it could not do, for people: an agent's answer has an errno's room for it.
Napi::Value latest_failure(const Napi::CallbackInfo& info) {
  const cufile::Failure failure = cufile::CufileDriver::instance().latest();
  return Napi::String::New(info.Env(), failure.what.empty() ? "" : said(failure));
}

}  // namespace

void export_cuda(Napi::Env env, Napi::Object exports) {
  Napi::Object cuda = Napi::Object::New(env), cufile = Napi::Object::New(env);
  cuda.Set("probe", Napi::Function::New(env, probe_cuda, "probe"));
  cuda.Set("allocate", Napi::Function::New(env, allocate, "allocate"));
  cuda.Set("openHandle", Napi::Function::New(env, open_handle, "openHandle"));
  cuda.Set("adopt", Napi::Function::New(env, adopt, "adopt"));
  cuda.Set("release", Napi::Function::New(env, release, "release"));
  cuda.Set("exportHandle", Napi::Function::New(env, export_handle, "exportHandle"));
  cuda.Set("copy", Napi::Function::New(env, copy, "copy"));
  cuda.Set("pin", Napi::Function::New(env, pin<true>, "pin"));
  cuda.Set("unpin", Napi::Function::New(env, pin<false>, "unpin"));
  cufile.Set("probe", Napi::Function::New(env, probe_cufile, "probe"));
  cufile.Set("open", Napi::Function::New(env, open_cufile, "open"));
  cufile.Set("latestFailure", Napi::Function::New(env, latest_failure, "latestFailure"));
  exports.Set("cuda", cuda);
  exports.Set("cufile", cufile);
}

}  // namespace hicache
