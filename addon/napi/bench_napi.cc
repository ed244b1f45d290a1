// bench.deviceLimit, bench.fileLoop, bench.mixLoop, bench.curlLoop and bench.cleanup.
#include <cmath>
#include <new>
#include <system_error>

#include "bench/bench.h"
#include "napi/objects_napi.h"
#include "napi/support_napi.h"
#include "util/aligned_buffer.h"

namespace hicache {
namespace {

napi_value array_of(Out& out, const std::vector<double>& values) {
  double* data = nullptr;
  const napi_value array = out.doubles(values.size(), &data);
  if (data != nullptr) std::copy(values.begin(), values.end(), data);
  return array;
}

void settle_result(Out& out, const Deferred& deferred, const bench::Result& result, bool mix) {
  if (result.error != 0) return deferred.reject(out, out.system_error(result.error, "bench: " + result.failed));
  const napi_value told = out.object();
  out.set(told, "bytes", out.number(static_cast<double>(result.bytes)));
  out.set(told, "seconds", out.number(result.seconds));
  out.set(told, "cpuSeconds", out.number(result.cpu_seconds));
  out.set(told, "latencyUs", array_of(out, result.latency_us));
  if (mix) {
    out.set(told, "readBytes", out.number(static_cast<double>(result.read_bytes)));
    out.set(told, "writeBytes", out.number(static_cast<double>(result.write_bytes)));
    out.set(told, "writeLatencyUs", array_of(out, result.write_latency_us));
  }
  deferred.resolve(out, told);
}

Napi::Value run_bench(Napi::Env env, std::function<bench::Result()> measure, bool mix = false) {
  auto result = std::make_shared<bench::Result>();
  return run_in_background(
      env,
      [result, measure] {
        try {
          *result = measure();
        } catch (const std::bad_alloc&) {
          result->error = ENOMEM;
          result->failed = "memory";
        } catch (const std::system_error& error) {
          result->error = error.code().value();
          result->failed = "threads";
        }
      },
      [result, mix](Out& out, const Deferred& deferred) { settle_result(out, deferred, *result, mix); });
}

bool common_options(const Napi::CallbackInfo& info, Napi::Object& options, std::string& directory, bool& write, size_t& page_bytes) {
  if (info.Length() < 1 || !info[0].IsObject()) {
    throw_argument(info.Env(), "The bench needs an options object.");
    return false;
  }
  options = info[0].As<Napi::Object>();
  std::string op;
  double number;
  if (!string_of(options, "directory", directory) || !string_of(options, "op", op) || !number_of(options, "pageBytes", std::nan(""), 4096, 1 << 30, number)) return false;
  page_bytes = static_cast<size_t>(number);
  write = op == "write";
  if ((op != "read" && op != "write") || page_bytes % block_bytes != 0) {
    throw_argument(info.Env(), "op must be read or write, and pageBytes a multiple of 4096.");
    return false;
  }
  return true;
}

Napi::Value device_limit(const Napi::CallbackInfo& info) {
  Napi::Object options;
  bench::DeviceOptions device;
  double number;
  if (!common_options(info, options, device.directory, device.write, device.page_bytes)) return info.Env().Undefined();
  if (!number_of(options, "bytes", std::nan(""), static_cast<double>(device.page_bytes), 1e15, number)) return info.Env().Undefined();
  device.bytes = static_cast<uint64_t>(number);
  if (!number_of(options, "queueDepth", 32, 1, 1024, number)) return info.Env().Undefined();
  device.queue_depth = static_cast<unsigned>(number);
  return run_bench(info.Env(), [device] { return bench::device_limit(device); });
}

Napi::Value file_loop(const Napi::CallbackInfo& info) {
  Napi::Object options;
  bench::LoopOptions loop;
  double number;
  if (!common_options(info, options, loop.directory, loop.write, loop.page_bytes)) return info.Env().Undefined();
  if (!number_of(options, "pages", std::nan(""), 1, 1e7, number)) return info.Env().Undefined();
  loop.pages = static_cast<uint64_t>(number);
  if (!number_of(options, "threads", 8, 1, 256, number)) return info.Env().Undefined();
  loop.threads = static_cast<unsigned>(number);
  if (!bool_of(options, "direct", true, loop.direct) || !bool_of(options, "replace", false, loop.replace)) return info.Env().Undefined();
  return run_bench(info.Env(), [loop] { return bench::file_loop(loop); });
}

Napi::Value mix_loop(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsObject()) {
    throw_argument(env, "The bench needs an options object.");
    return env.Undefined();
  }
  const Napi::Object options = info[0].As<Napi::Object>();
  bench::MixOptions mix;
  double number;
  if (!string_of(options, "directory", mix.directory) || !number_of(options, "pageBytes", std::nan(""), 4096, 1 << 30, number)) return env.Undefined();
  mix.page_bytes = static_cast<size_t>(number);
  if (mix.page_bytes % block_bytes != 0) {
    throw_argument(env, "pageBytes must be a multiple of 4096.");
    return env.Undefined();
  }
  if (!number_of(options, "bytes", std::nan(""), static_cast<double>(mix.page_bytes), 1e15, number)) return env.Undefined();
  mix.bytes = static_cast<uint64_t>(number);
  if (!number_of(options, "writesInFlight", std::nan(""), 0, 4096, number)) return env.Undefined();
  mix.writes_in_flight = static_cast<unsigned>(number);
  if (!number_of(options, "readsInFlight", std::nan(""), 1, 4096, number)) return env.Undefined();
  mix.reads_in_flight = static_cast<unsigned>(number);
  return run_bench(env, [mix] { return bench::mix_loop(mix); }, true);
}

Napi::Value curl_loop(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsObject()) {
    throw_argument(env, "The bench needs an options object.");
    return env.Undefined();
  }
  const Napi::Object options = info[0].As<Napi::Object>();
  bench::CurlLoopOptions loop;
  double number;
  std::string op;
  const Napi::Value endpoint = options.Get("endpoint");
  if (endpoint.IsEmpty() || !endpoint.IsObject()) {
    throw_argument(env, "endpoint must be an object.");
    return env.Undefined();
  }
  if (!object_options_of(endpoint.As<Napi::Object>(), loop.endpoint) || !string_of(options, "op", op) || !string_of(options, "prefix", loop.prefix)) return env.Undefined();
  loop.put = op == "put";
  if (op != "put" && op != "get") {
    throw_argument(env, "op must be put or get.");
    return env.Undefined();
  }
  if (!number_of(options, "pageBytes", std::nan(""), 8, 1 << 30, number)) return env.Undefined();
  loop.page_bytes = static_cast<size_t>(number);
  if (!number_of(options, "pages", std::nan(""), 1, 1e7, number)) return env.Undefined();
  loop.pages = static_cast<uint64_t>(number);
  if (!number_of(options, "concurrency", 64, 1, 1024, number)) return env.Undefined();
  loop.concurrency = static_cast<unsigned>(number);
  return run_bench(env, [loop] { return bench::curl_loop(loop); });
}

Napi::Value cleanup(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string directory = info.Length() > 0 && info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
  if (directory.empty() || directory.find('\0') != std::string::npos) {
    throw_argument(env, "cleanup needs a directory.");
    return env.Undefined();
  }
  auto error = std::make_shared<int>(0);
  return run_in_background(
      env, [error, directory] { *error = bench::cleanup(directory); },
      [error](Out& out, const Deferred& deferred) {
        if (*error != 0) return deferred.reject(out, out.system_error(*error, "removing the bench's files"));
        deferred.resolve(out, out.undefined());
      });
}

}  // namespace

void export_bench(Napi::Env env, Napi::Object exports) {
  Napi::Object bench = Napi::Object::New(env);
  bench.Set("deviceLimit", Napi::Function::New(env, device_limit, "deviceLimit"));
  bench.Set("fileLoop", Napi::Function::New(env, file_loop, "fileLoop"));
  bench.Set("mixLoop", Napi::Function::New(env, mix_loop, "mixLoop"));
  bench.Set("curlLoop", Napi::Function::New(env, curl_loop, "curlLoop"));
  bench.Set("cleanup", Napi::Function::New(env, cleanup, "cleanup"));
  exports.Set("bench", bench);
}

}  // namespace hicache
