// Memory and checksums.
#include "napi/support_napi.h"
#include "util/crc64.h"
#include "util/huge_pages.h"

namespace hicache {
namespace {

Napi::Value register_memory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Bytes bytes;
  if (info.Length() < 1 || !info[0].IsTypedArray() || !bytes_of(info[0], bytes) || bytes.length == 0) {
    throw_argument(env, "registerMemory needs a typed array that is not empty.");
    return env.Undefined();
  }
  const RegionRef region = MemoryRegistry::instance().add(bytes.data, bytes.length);
  Environment::of(env).regions.push_back(region);
  return Napi::Number::New(env, region->id);
}

Napi::Value unregister_memory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsNumber()) return Napi::Boolean::New(env, false);
  const double id = info[0].As<Napi::Number>().DoubleValue();
  if (!(id >= 0 && id <= UINT32_MAX)) return Napi::Boolean::New(env, false);
  const RegionRef region = MemoryRegistry::instance().find(static_cast<uint32_t>(id));
  if (region == nullptr) return Napi::Boolean::New(env, false);
  std::erase(Environment::of(env).regions, region);
  // What still runs, against the contract, ends without touching the memory from user space.
  region->end();
  return Napi::Boolean::New(env, MemoryRegistry::instance().remove(region->id));
}

Napi::Value address_of(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Bytes bytes;
  if (info.Length() < 1 || !bytes_of(info[0], bytes)) {
    throw_argument(env, "addressOf needs an ArrayBufferView.");
    return env.Undefined();
  }
  return Napi::BigInt::New(env, static_cast<uint64_t>(reinterpret_cast<uintptr_t>(bytes.data)));
}

Napi::Value checksum(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Bytes bytes;
  if (info.Length() < 1 || !bytes_of(info[0], bytes)) {
    throw_argument(env, "crc64 needs an ArrayBufferView.");
    return env.Undefined();
  }
  uint64_t seed = 0;
  if (info.Length() > 1 && !info[1].IsUndefined()) {
    bool lossless = false;
    if (info[1].IsBigInt()) seed = info[1].As<Napi::BigInt>().Uint64Value(&lossless);
    if (!lossless) {
      throw_argument(env, "The seed must be a bigint from 0 to 2^64 - 1.");
      return env.Undefined();
    }
  }
  return Napi::BigInt::New(env, crc64(bytes.data, bytes.length, seed));
}

Napi::Value populate_memory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Bytes bytes;
  if (info.Length() < 1 || !info[0].IsTypedArray() || !bytes_of(info[0], bytes)) {
    throw_argument(env, "populate needs a typed array.");
    return env.Undefined();
  }
  auto huge = std::make_shared<int64_t>(-1);
  return run_in_background(
      env, [bytes, huge, stop = Environment::of(env).ending] { *huge = populate(bytes.data, bytes.length, *stop); },
      [huge](Out& out, const Deferred& deferred) { deferred.resolve(out, out.number(static_cast<double>(*huge))); }, info[0]);
}

}  // namespace

void export_memory(Napi::Env env, Napi::Object exports) {
  exports.Set("registerMemory", Napi::Function::New(env, register_memory, "registerMemory"));
  exports.Set("unregisterMemory", Napi::Function::New(env, unregister_memory, "unregisterMemory"));
  exports.Set("addressOf", Napi::Function::New(env, address_of, "addressOf"));
  exports.Set("crc64", Napi::Function::New(env, checksum, "crc64"));
  exports.Set("crc64Kernel", Napi::String::New(env, crc64_kernel()));
  exports.Set("populate", Napi::Function::New(env, populate_memory, "populate"));
}

}  // namespace hicache
