#include "napi/support_napi.h"

#include <pthread.h>
#include <signal.h>

#include <cmath>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "napi/agent_napi.h"
#include "util/errno_name.h"

namespace hicache {

Napi::Error make_error(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Value().Set("code", Napi::String::New(env, code));
  return error;
}

Napi::Error make_system_error(Napi::Env env, int error, const std::string& what) {
  Napi::Error made = make_error(env, errno_name(error).c_str(), what + ": " + errno_name(error) + " (" + std::generic_category().message(error) + ").");
  made.Value().Set("errno", Napi::Number::New(env, error));
  return made;
}

// ---- answers ----

napi_value Out::undefined() { return make(napi_get_undefined); }
napi_value Out::number(double value) { return make(napi_create_double, value); }
napi_value Out::boolean(bool value) { return make(napi_get_boolean, value); }
napi_value Out::string(const std::string& value) { return make(napi_create_string_utf8, value.data(), value.size()); }
napi_value Out::array(size_t length) { return make(napi_create_array_with_length, length); }
napi_value Out::object() { return make(napi_create_object); }

napi_value Out::bytes(size_t length, uint8_t** data) {
  void* start = nullptr;
  const napi_value buffer = make(napi_create_arraybuffer, length, &start);
  const napi_value view = make(napi_create_typedarray, napi_uint8_array, length, buffer, size_t{0});
  *data = ok_ ? static_cast<uint8_t*>(start) : nullptr;
  return view;
}

napi_value Out::doubles(size_t length, double** data) {
  void* start = nullptr;
  const napi_value buffer = make(napi_create_arraybuffer, length * sizeof(double), &start);
  const napi_value view = make(napi_create_typedarray, napi_float64_array, length, buffer, size_t{0});
  *data = ok_ ? static_cast<double*>(start) : nullptr;
  return view;
}

napi_value Out::copy(const void* from, size_t length) {
  uint8_t* data = nullptr;
  const napi_value view = bytes(length, &data);
  if (data != nullptr && length > 0) std::memcpy(data, from, length);
  return view;
}

napi_value Out::system_error(int error, const std::string& what) {
  const napi_value code = string(errno_name(error));
  const napi_value message = string(what + ": " + errno_name(error) + " (" + std::generic_category().message(error) + ").");
  const napi_value made = make(napi_create_error, code, message);
  set(made, "errno", number(error));
  return made;
}

void Out::set(napi_value object, const char* name, napi_value value) { ok_ = ok_ && napi_set_named_property(env_, object, name, value) == napi_ok; }

void Out::set(napi_value array, size_t index, napi_value value) {
  ok_ = ok_ && napi_set_element(env_, array, static_cast<uint32_t>(index), value) == napi_ok;
}

bool Deferred::create(napi_env env, Deferred& out, napi_value& promise) {
  out.env = env;
  return napi_create_promise(env, &out.handle, &promise) == napi_ok;
}

void Deferred::resolve(const Out& out, napi_value value) const {
  if (out.ok()) napi_resolve_deferred(env, handle, value);
}

void Deferred::reject(const Out& out, napi_value value) const {
  if (out.ok()) napi_reject_deferred(env, handle, value);
}

LoopScope::LoopScope(napi_env env, napi_async_context context) : env_(env) {
  napi_open_handle_scope(env, &handles_);
  // The resource is nobody's business: an empty object.
  napi_value resource = nullptr;
  if (napi_create_object(env, &resource) == napi_ok) napi_open_callback_scope(env, resource, context, &callbacks_);
}

LoopScope::~LoopScope() {
  if (callbacks_ != nullptr) napi_close_callback_scope(env_, callbacks_);
  if (handles_ != nullptr) napi_close_handle_scope(env_, handles_);
}

bool bytes_of(Napi::Value value, Bytes& out) {
  // The raw calls: they work on shared memory, and an Int32Array needs no other code than a Uint8Array.
  if (value.IsTypedArray()) {
    napi_typedarray_type type;
    size_t length = 0;
    void* data = nullptr;
    if (napi_get_typedarray_info(value.Env(), value, &type, &length, &data, nullptr, nullptr) != napi_ok) return false;
    out = {static_cast<uint8_t*>(data), length * value.As<Napi::TypedArray>().ElementSize()};
    return true;
  }
  if (value.IsDataView()) {
    size_t length = 0;
    void* data = nullptr;
    if (napi_get_dataview_info(value.Env(), value, &length, &data, nullptr, nullptr) != napi_ok) return false;
    out = {static_cast<uint8_t*>(data), length};
    return true;
  }
  return false;
}

bool string_of(Napi::Object options, const char* name, std::string& out) {
  const Napi::Value value = options.Get(name);
  if (value.IsEmpty() || !value.IsString()) {
    throw_argument(options.Env(), std::string(name) + " must be a string.");
    return false;
  }
  out = value.As<Napi::String>().Utf8Value();
  if (out.empty() || out.find('\0') != std::string::npos) {
    throw_argument(options.Env(), std::string(name) + " must be a string without NUL, and not empty.");
    return false;
  }
  return true;
}

bool bool_of(Napi::Object options, const char* name, bool fallback, bool& out) {
  const Napi::Value value = options.Get(name);
  if (!value.IsEmpty() && value.IsUndefined()) {
    out = fallback;
    return true;
  }
  if (value.IsEmpty() || !value.IsBoolean()) {
    throw_argument(options.Env(), std::string(name) + " must be a boolean.");
    return false;
  }
  out = value.As<Napi::Boolean>().Value();
  return true;
}

bool number_of(Napi::Object options, const char* name, double fallback, double low, double high, double& out) {
  const Napi::Value value = options.Get(name);
  if (!value.IsEmpty() && value.IsUndefined() && !std::isnan(fallback)) {
    out = fallback;
    return true;
  }
  out = !value.IsEmpty() && value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!(out >= low && out <= high) || std::floor(out) != out) {
    throw_argument(options.Env(), std::string(name) + " must be a whole number from " + std::to_string(static_cast<int64_t>(low)) + " to " +
                                      std::to_string(static_cast<int64_t>(high)) + ".");
    return false;
  }
  return true;
}

// ---- environments ----

Environment& Environment::of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

void Environment::attach(Napi::Env env) {
  auto* const mine = new Environment;
  env.SetInstanceData<Environment>(mine);
  // An asynchronous hook: Node runs the loop until it is removed, so that libuv can close our handles. A synchronous one would leave them
  // behind in a worker's loop.
  napi_add_async_cleanup_hook(
      env,
      [](napi_async_cleanup_hook_handle handle, void* data) {
        auto* const environment = static_cast<Environment*>(data);
        environment->cleanup = handle;
        environment->cleaning = true;
        environment->ending->store(true);
        // Each drains for its bounded time and hands what is left to a reaper.
        const std::set<AgentWrap*> agents = environment->agents;
        for (AgentWrap* agent : agents) agent->environment_ends();
        for (const RegionRef& region : environment->regions) {
          MemoryRegistry::instance().remove(region->id);
          region->end();
        }
        environment->regions.clear();
        environment->open_handles++;
        environment->handle_closed();
      },
      mine, &mine->cleanup);
}

void Environment::handle_closed() {
  open_handles--;
  if (cleaning && open_handles == 0 && cleanup != nullptr) {
    napi_remove_async_cleanup_hook(cleanup);
    cleanup = nullptr;
  }
}

// ---- threads ----

namespace {

struct Background {
  std::function<void()> work;
  std::function<void(Out&, const Deferred&)> settle;
  Deferred deferred;
  napi_ref hold = nullptr;
  napi_threadsafe_function call = nullptr;
  std::mutex mutex;
  std::condition_variable changed;
  bool finished = false;
  // Node 20 deletes a thread-safe function with its environment, whoever may still call it. So nobody calls it any more once `ended` is set, which happens before.
  std::mutex calling;
  bool ended = false;
  void* hook = nullptr;  // the environment's thread only
};
enum class Message : uint8_t { done, release };
struct Letter {
  std::shared_ptr<Background> about;
  Message message;
};

using Hook = std::shared_ptr<Background>;
void on_end(void* data) {
  const std::unique_ptr<Hook> hook(static_cast<Hook*>(data));
  std::lock_guard lock((*hook)->calling);
  (*hook)->hook = nullptr;
  (*hook)->ended = true;
}
// Added after the thread-safe function was made, so that it is called before the function goes.
void watch_end(napi_env env, const std::shared_ptr<Background>& background) {
  background->hook = new Hook(background);
  if (napi_add_env_cleanup_hook(env, on_end, background->hook) == napi_ok) return;
  delete static_cast<Hook*>(background->hook);
  background->hook = nullptr;
}
void forget_end(napi_env env, Background& background) {
  if (background.hook == nullptr) return;
  napi_remove_env_cleanup_hook(env, on_end, background.hook);
  delete static_cast<Hook*>(std::exchange(background.hook, nullptr));
}

// The environment may be gone (env is null): then nothing of it may be touched, and what it owned went with it.
void receive(napi_env raw_env, napi_value, void*, void* data) {
  const std::unique_ptr<Letter> letter(static_cast<Letter*>(data));
  if (raw_env == nullptr) return;
  Background& background = *letter->about;
  if (letter->message == Message::release) {
    napi_unref_threadsafe_function(raw_env, background.call);
    return;
  }
  forget_end(raw_env, background);
  if (background.hold != nullptr) napi_delete_reference(raw_env, background.hold);
  Out out(raw_env);
  background.settle(out, background.deferred);
}

// `done` is the last one. False: the environment is ending.
bool send(const std::shared_ptr<Background>& about, Message message) {
  std::lock_guard lock(about->calling);
  if (about->ended) return false;
  auto* const letter = new Letter{about, message};
  if (napi_call_threadsafe_function(about->call, letter, napi_tsfn_blocking) != napi_ok) {
    delete letter;
    return false;
  }
  if (message == Message::done) napi_release_threadsafe_function(about->call, napi_tsfn_release);
  return true;
}

std::thread quiet_thread(std::function<void()> body) {
  // Signals are the business of Node's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread thread(std::move(body));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
}

}  // namespace

Napi::Value run_in_background(Napi::Env env, std::function<void()> work, std::function<void(Out&, const Deferred&)> settle,
                              Napi::Value hold, unsigned release_ms) {
  auto background = std::make_shared<Background>();
  background->work = std::move(work);
  background->settle = std::move(settle);
  napi_value promise;
  if (!Deferred::create(env, background->deferred, promise)) return env.Undefined();
  if (!hold.IsEmpty()) napi_create_reference(env, hold, 1, &background->hold);
  const Napi::String name = Napi::String::New(env, "hicache-nixl");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, receive, &background->call) != napi_ok) {
    make_error(env, "ERR_ADDON", "The event loop takes no more work: its environment is ending.").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  watch_end(env, background);
  try {
    quiet_thread([background, release_ms] {
      const auto finish = [background] { send(background, Message::done); };
      if (release_ms == 0) {
        background->work();
        return finish();
      }
      // Another thread does the work, so that this one can tell when it takes too long.
      const auto body = [background] {
        background->work();
        std::lock_guard lock(background->mutex);
        background->finished = true;
        background->changed.notify_all();
      };
      try {
        quiet_thread(body).detach();
      } catch (const std::system_error&) {
        body();
      }
      std::unique_lock lock(background->mutex);
      const auto over = [&] { return background->finished; };
      if (!background->changed.wait_for(lock, std::chrono::milliseconds(release_ms), over)) {
        lock.unlock();
        if (!send(background, Message::release)) return;
        lock.lock();
        background->changed.wait(lock, over);
      }
      lock.unlock();
      finish();
    }).detach();
  } catch (const std::system_error& error) {
    forget_end(env, *background);
    napi_release_threadsafe_function(background->call, napi_tsfn_abort);
    make_system_error(env, error.code().value(), "starting a thread").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  return Napi::Value(env, promise);
}

}  // namespace hicache
