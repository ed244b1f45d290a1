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
Napi::Value run_in_background(Napi::Env env, std::function<void()> work, std::function<void(Napi::Env, Napi::Promise::Deferred)> settle,
                              Napi::Value hold = Napi::Value(), unsigned release_ms = 0);

// ---- parts of the addon ----
void export_agent(Napi::Env env, Napi::Object exports);
void export_memory(Napi::Env env, Napi::Object exports);
void export_system(Napi::Env env, Napi::Object exports);
void export_bench(Napi::Env env, Napi::Object exports);

}  // namespace hicache
