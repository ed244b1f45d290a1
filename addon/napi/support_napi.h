// The little that all N-API files need: arguments, errors, work on threads of its own, and what belongs to one environment. Everything that includes
// napi.h is named *_napi, so that the rest links into native test programs.
#pragma once

#include <napi.h>
#include <uv.h>

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "agent/memory_registry.h"

namespace hicache {

// ---- errors ----
Napi::Error make_error(Napi::Env env, const char* code, const std::string& message);
// An error of the operating system: `code` is its name.
Napi::Error make_system_error(Napi::Env env, int error, const std::string& what);
inline void throw_argument(Napi::Env env, const std::string& message) { make_error(env, "ERR_ARGUMENT", message).ThrowAsJavaScriptException(); }

// ---- answers ----
// What is made on the way from the event loop to JavaScript, where a worker's termination can make any call fail: every status is looked at, and
// after the first failure nothing happens any more. (node-addon-api would throw, or abort.)
class Out {
 public:
  explicit Out(napi_env env) : env_(env) {}
  napi_env env() const { return env_; }
  bool ok() const { return ok_; }

  napi_value undefined();
  napi_value number(double value);
  napi_value boolean(bool value);
  napi_value string(const std::string& value);
  napi_value array(size_t length);
  napi_value object();
  // `data` is nullptr when it failed, and may be when it is empty.
  napi_value bytes(size_t length, uint8_t** data);
  napi_value doubles(size_t length, double** data);
  napi_value copy(const void* from, size_t length);
  // An Error with `code` and `errno`, as make_system_error() makes it.
  napi_value system_error(int error, const std::string& what);
  void set(napi_value object, const char* name, napi_value value);
  void set(napi_value array, size_t index, napi_value value);

 private:
  template <typename Call, typename... Arguments>
  napi_value make(Call call, Arguments... arguments) {
    napi_value value = nullptr;
    ok_ = ok_ && call(env_, arguments..., &value) == napi_ok;
    return value;
  }

  napi_env env_;
  bool ok_ = true;
};

struct Deferred {
  napi_env env = nullptr;
  napi_deferred handle = nullptr;

  // False when JavaScript can run no more.
  static bool create(napi_env env, Deferred& out, napi_value& promise);
  // Does nothing when `out` has failed.
  void resolve(const Out& out, napi_value value) const;
  void reject(const Out& out, napi_value value) const;
};

// Handles, and a callback scope that runs microtasks at its end: for everything that libuv calls.
class LoopScope {
 public:
  LoopScope(napi_env env, napi_async_context context);
  ~LoopScope();
  LoopScope(const LoopScope&) = delete;
  LoopScope& operator=(const LoopScope&) = delete;

 private:
  napi_env env_;
  napi_handle_scope handles_ = nullptr;
  napi_callback_scope callbacks_ = nullptr;
};

// ---- arguments ----
struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};
// Any ArrayBufferView, on shared memory too. False: not one.
bool bytes_of(Napi::Value value, Bytes& out);
// A member of an options object; `fallback` when it is undefined. False, with an exception pending, when it has another type or is out of range.
bool string_of(Napi::Object options, const char* name, std::string& out);
bool bool_of(Napi::Object options, const char* name, bool fallback, bool& out);
bool number_of(Napi::Object options, const char* name, double fallback, double low, double high, double& out);

// ---- environments ----
class AgentWrap;

// One JavaScript environment (a thread, usually) that has loaded the addon.
struct Environment {
  std::vector<RegionRef> regions;
  std::set<AgentWrap*> agents;
  std::shared_ptr<std::atomic<bool>> ending = std::make_shared<std::atomic<bool>>(false);
  size_t open_handles = 0;  // libuv handles that are not closed
  napi_async_cleanup_hook_handle cleanup = nullptr;
  bool cleaning = false;

  static Environment& of(Napi::Env env);
  static void attach(Napi::Env env);
  void handle_closed();
};

// ---- threads ----
// Runs `work` on a thread of its own, then `settle` on the event loop, which resolves or rejects the promise. `hold` is kept reachable meanwhile.
// After `release_ms` (0 = never) an unfinished one no longer keeps the process alive: its thread may hang in a file system.
Napi::Value run_in_background(Napi::Env env, std::function<void()> work, std::function<void(Out&, const Deferred&)> settle,
                              Napi::Value hold = Napi::Value(), unsigned release_ms = 0);

// ---- parts of the addon ----
void export_agent(Napi::Env env, Napi::Object exports);
void export_memory(Napi::Env env, Napi::Object exports);
void export_system(Napi::Env env, Napi::Object exports);
void export_bench(Napi::Env env, Napi::Object exports);
void export_segments(Napi::Env env, Napi::Object exports);
void export_objects(Napi::Env env, Napi::Object exports);
void export_cuda(Napi::Env env, Napi::Object exports);
void export_data_paths(Napi::Env env, Napi::Object exports);
void export_recorder(Napi::Env env, Napi::Object exports);

}  // namespace hicache
