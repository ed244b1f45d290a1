#include "napi/data_paths_napi.h"

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "plugins/gds/cufile_driver.h"
#include "plugins/gds/cufile_engine.h"
#include "plugins/hf3fs/hf3fs_engine.h"
#include "plugins/hf3fs/hf3fs_probe.h"
#include "plugins/hf3fs/registered_file.h"
#include "plugins/hf3fs/shared_arena.h"
#include "plugins/nixl/nixl_engine.h"

namespace hicache {
namespace {

bool parameters_of(Napi::Value value, std::map<std::string, std::string>& out) {
  if (value.IsEmpty() || !value.IsObject()) {
    throw_argument(value.Env(), "parameters must be an object of strings.");
    return false;
  }
  const Napi::Object object = value.As<Napi::Object>();
  const Napi::Array names = object.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); i++) {
    const std::string name = names.Get(i).As<Napi::String>().Utf8Value();
    if (!string_of(object, name.c_str(), out[name])) return false;
  }
  return true;
}

bool usrbio_of(Napi::Object options, PosixOptions& out) {
  hf3fs::Options usrbio;
  std::string memory;
  double slots;
  if (!string_of(options, "mountPoint", usrbio.mount_point) || !string_of(options, "memConfig", memory) || !number_of(options, "iopoolSize", 64, 1, 1 << 20, slots)) return false;
  usrbio.iopool_size = static_cast<unsigned>(slots);
  usrbio.mem_config = memory == "dram" ? hf3fs::MemConfig::dram : memory == "dram_zc" ? hf3fs::MemConfig::dram_zc : hf3fs::MemConfig::automatic;
  usrbio.queue_depth = out.queue_depth;
  out.data_path = [usrbio](Refusal& refusal) -> std::unique_ptr<Engine> { return hf3fs::try_create_engine(usrbio, refusal.reason, refusal.remedy); };
  out.register_file = [](int fd) -> std::shared_ptr<void> { return hf3fs::register_file(fd); };
  return true;
}

bool nixl_of(Napi::Object options, PosixOptions& out) {
  nixl::Options bridge;
  if (!string_of(options, "plugin", bridge.plugin) || !parameters_of(options.Get("parameters"), bridge.parameters)) return false;
  out.data_path = [bridge](Refusal& refusal) -> std::unique_ptr<Engine> { return nixl::try_create_nixl(bridge, refusal); };
  return true;
}

bool device_path_of(Napi::Object options, PosixOptions& out) {
  const Napi::Value value = options.Get("devicePath");
  if (value.IsEmpty() || value.IsUndefined()) return true;
  std::string kind;
  if (!value.IsObject()) {
    throw_argument(options.Env(), "devicePath must be an object.");
    return false;
  }
  const Napi::Object path = value.As<Napi::Object>();
  double number;
  if (!string_of(path, "kind", kind)) return false;
  if (kind == "gds_mt") {
    cufile::CufileThreadsOptions threads;
    if (!number_of(path, "threadCount", 4, 1, 1024, number)) return false;
    threads.thread_count = static_cast<unsigned>(number);
    out.device_path = [threads](Refusal& refusal) { return cufile::try_create_cufile_threads(threads, refusal.reason, refusal.remedy); };
  } else if (kind == "gds") {
    cufile::CufileBatchOptions batches;
    if (!number_of(path, "batchPoolSize", 128, 1, 65536, number)) return false;
    batches.batch_pool_size = static_cast<unsigned>(number);
    if (!number_of(path, "batchLimit", 128, 1, 65536, number)) return false;
    batches.batch_limit = static_cast<unsigned>(number);
    if (!number_of(path, "maxRequestSize", 16 << 20, 4096, 4294967296.0, number)) return false;
    batches.max_request_size = static_cast<size_t>(number);
    out.device_path = [batches](Refusal& refusal) { return cufile::try_create_cufile_batch(batches, refusal.reason, refusal.remedy); };
  } else {
    throw_argument(options.Env(), "devicePath is of kind gds_mt or gds.");
    return false;
  }
  // Where it fails the engine tries again for each request, and says why.
  out.register_file = [](int fd) -> std::shared_ptr<void> {
    cufile::Failure unregistered;
    return cufile::CufileDriver::instance().is_open() ? cufile::CufileDriver::instance().register_file(fd, unregistered) : nullptr;
  };
  return true;
}

void set_library(Out& out, napi_value told, bool usable, const std::string& library, const std::string& version, const std::string& reason, const std::string& remedy) {
  out.set(told, "usable", out.boolean(usable));
  out.set(told, "library", out.string(library));
  out.set(told, "version", out.string(version));
  out.set(told, "reason", out.string(reason));
  out.set(told, "remedy", out.string(remedy));
}

Napi::Value probe_usrbio(const Napi::CallbackInfo& info) {
  if (info.Length() < 2 || !info[0].IsString() || !info[1].IsString()) {
    throw_argument(info.Env(), "probe needs a directory and a mount point.");
    return info.Env().Undefined();
  }
  const std::string directory = info[0].As<Napi::String>().Utf8Value();
  hf3fs::ProbeOptions options;
  options.mount_point = info[1].As<Napi::String>().Utf8Value();
  auto answer = std::make_shared<hf3fs::Probe>();
  return run_in_background(
      info.Env(), [=] { *answer = hf3fs::probe(directory, options); },
      [answer](Out& out, const Deferred& deferred) {
        const napi_value told = out.object();
        set_library(out, told, answer->usable, answer->library, answer->version, answer->reason, answer->remedy);
        out.set(told, "mountPoint", out.string(answer->mount_point));
        deferred.resolve(out, told);
      });
}

// What ArrayBuffers keep alive, by their regions. Of the main thread and workers, so it is locked.
struct Kept {
  std::mutex mutex;
  std::map<uint32_t, std::shared_ptr<hf3fs::SharedArena>> arenas;
};
Kept& kept() {
  static Kept* const the_kept = new Kept;  // never destroyed: threads may outlive main()
  return *the_kept;
}
void let_go(uint32_t region) {
  std::shared_ptr<hf3fs::SharedArena> arena;
  std::lock_guard lock(kept().mutex);
  const auto found = kept().arenas.find(region);
  if (found == kept().arenas.end()) return;
  arena = std::move(found->second);
  kept().arenas.erase(found);
}

// The end of memory that allocate() gave: the buffer is detached, so that whoever still has it finds nothing, and the memory ends with the last transfer that uses it.
Napi::Value release_usrbio(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsArrayBuffer() || !info[1].IsNumber()) {
    throw_argument(env, "release needs the buffer and the region.");
    return env.Undefined();
  }
  const uint32_t id = info[1].As<Napi::Number>().Uint32Value();
  const RegionRef region = MemoryRegistry::instance().find(id);
  if (region != nullptr && region->address == info[0].As<Napi::ArrayBuffer>().Data()) {
    info[0].As<Napi::ArrayBuffer>().Detach();
    std::erase(Environment::of(env).regions, region);
    region->end();
    MemoryRegistry::instance().remove(id);
    let_go(id);
  }
  return env.Undefined();
}

// Memory of an iov as an ArrayBuffer: it lives for as long as either the buffer or its region does.
Napi::Value allocate_usrbio(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const double bytes = info.Length() > 1 && info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : 0;
  if (info.Length() < 2 || !info[0].IsString() || !(bytes >= 1 && bytes <= 1e12)) {
    throw_argument(env, "allocate needs a mount point and a number of bytes.");
    return env.Undefined();
  }
  struct Answer {
    std::shared_ptr<hf3fs::SharedArena> arena;
    Refusal refusal;
  };
  const std::string mount_point = info[0].As<Napi::String>().Utf8Value();
  auto answer = std::make_shared<Answer>();
  return run_in_background(
      env, [=] { answer->arena = hf3fs::SharedArena::create(mount_point, static_cast<size_t>(bytes), 0, answer->refusal); },
      [answer](Out& out, const Deferred& deferred) {
        const Napi::Env here(out.env());
        if (answer->arena == nullptr) {
          const Napi::Error error = make_error(here, "ERR_PLUGIN_UNAVAILABLE", "3FS gives no shared memory: " + answer->refusal.reason + ". " + answer->refusal.remedy);
          return deferred.reject(out, error.Value());
        }
        const RegionRef region = MemoryRegistry::instance().add(answer->arena->base(), answer->arena->bytes(), MemoryKind::shared, 0, answer->arena);
        napi_value buffer = nullptr;
        const auto forget = [](napi_env, void*, void* hint) { let_go(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(hint))); };
        void* const hint = reinterpret_cast<void*>(static_cast<uintptr_t>(region->id));
        if (napi_create_external_arraybuffer(out.env(), answer->arena->base(), answer->arena->bytes(), forget, hint, &buffer) != napi_ok) {
          MemoryRegistry::instance().remove(region->id);
          return deferred.reject(out, make_error(here, "ERR_ADDON", "3FS's shared memory cannot be shown as an ArrayBuffer here.").Value());
        }
        {
          std::lock_guard lock(kept().mutex);
          kept().arenas[region->id] = answer->arena;
        }
        answer->arena.reset();
        Environment::of(here).regions.push_back(region);
        const napi_value told = out.object();
        out.set(told, "buffer", buffer);
        out.set(told, "region", out.number(region->id));
        deferred.resolve(out, told);
      });
}

Napi::Value probe_nixl(const Napi::CallbackInfo& info) {
  nixl::Options options;
  if (info.Length() < 2 || !info[0].IsString()) {
    throw_argument(info.Env(), "probe needs a plugin and its parameters.");
    return info.Env().Undefined();
  }
  options.plugin = info[0].As<Napi::String>().Utf8Value();
  if (!parameters_of(info[1], options.parameters)) return info.Env().Undefined();
  auto answer = std::make_shared<nixl::Probe>();
  return run_in_background(
      info.Env(), [=] { *answer = nixl::probe(options); },
      [answer](Out& out, const Deferred& deferred) {
        const napi_value told = out.object();
        set_library(out, told, answer->usable, answer->path, answer->version, answer->reason, answer->remedy);
        const napi_value plugins = out.array(answer->plugins.size());
        for (size_t i = 0; i < answer->plugins.size(); i++) {
          const nixl::PluginInfo& plugin = answer->plugins[i];
          const napi_value one = out.object();
          out.set(one, "name", out.string(plugin.name));
          out.set(one, "usable", out.boolean(plugin.described));
          const napi_value memories = out.array(plugin.memory.size());
          for (size_t j = 0; j < plugin.memory.size(); j++) out.set(memories, j, out.string(nixl::memory_name(plugin.memory[j])));
          out.set(one, "memories", memories);
          out.set(one, "reason", out.string(plugin.reason));
          out.set(plugins, i, one);
        }
        out.set(told, "plugins", plugins);
        out.set(told, "moves", out.string(answer->objects ? "objects" : "files"));
        deferred.resolve(out, told);
      });
}

}  // namespace

bool data_paths_of(Napi::Object options, PosixOptions& out) {
  if (!device_path_of(options, out)) return false;
  const Napi::Value path = options.Get("dataPath");
  if (path.IsEmpty() || path.IsUndefined()) return true;
  std::string kind;
  if (!path.IsObject()) {
    throw_argument(options.Env(), "dataPath must be an object.");
    return false;
  }
  const Napi::Object object = path.As<Napi::Object>();
  if (!string_of(object, "kind", kind)) return false;
  if (kind == "usrbio") return usrbio_of(object, out);
  if (kind == "nixl") return nixl_of(object, out);
  throw_argument(options.Env(), "dataPath is of kind usrbio or nixl.");
  return false;
}

bool nixl_objects_of(Napi::Object options, nixl::ObjectsOptions& out) {
  const Napi::Value value = options.Get("nixl");
  if (value.IsEmpty() || !value.IsObject()) {
    throw_argument(options.Env(), "nixl must be an object: the plugin, and its parameters.");
    return false;
  }
  const Napi::Object nixl = value.As<Napi::Object>();
  return string_of(nixl, "plugin", out.plugin) && parameters_of(nixl.Get("parameters"), out.parameters);
}

void export_data_paths(Napi::Env env, Napi::Object exports) {
  Napi::Object usrbio = Napi::Object::New(env), nixl = Napi::Object::New(env);
  usrbio.Set("probe", Napi::Function::New(env, probe_usrbio, "probe"));
  usrbio.Set("release", Napi::Function::New(env, release_usrbio, "release"));
  usrbio.Set("allocate", Napi::Function::New(env, allocate_usrbio, "allocate"));
  nixl.Set("probe", Napi::Function::New(env, probe_nixl, "probe"));
  exports.Set("usrbio", usrbio);
  exports.Set("nixl", nixl);
}

}  // namespace hicache
