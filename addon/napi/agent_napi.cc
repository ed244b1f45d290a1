#include "napi/agent_napi.h"

#include <cerrno>
#include <climits>
#include <cmath>
#include <cstring>
#include <system_error>

#include "napi/data_paths_napi.h"
#include "napi/objects_napi.h"
#include "plugins/obj/obj_plugin.h"
#include "plugins/posix/posix_plugin.h"

namespace hicache {
namespace {

template <typename Handle>
void close_handle(Handle*& handle, Environment* environment) {
  if (handle == nullptr) return;
  handle->data = environment;
  uv_close(reinterpret_cast<uv_handle_t*>(handle), [](uv_handle_t* closed) {
    static_cast<Environment*>(closed->data)->handle_closed();
    delete reinterpret_cast<Handle*>(closed);
  });
  handle = nullptr;
}

napi_value results_of(Out& out, Batch* batch) {
  const size_t count = batch == nullptr ? 0 : batch->size();
  const size_t metas_bytes = batch != nullptr && batch->want_metas ? count * meta_bytes_max : 0;
  double* results = nullptr;
  uint8_t* metas = nullptr;
  const napi_value answer = out.object();
  out.set(answer, "results", out.doubles(count * result_field::stride, &results));
  out.set(answer, "metas", out.bytes(metas_bytes, &metas));  // zero-filled
  if (!out.ok()) return nullptr;
  for (size_t i = 0; i < count; i++) {
    const Operation& operation = (*batch)[i];
    Agent::write_result(operation, results + i * result_field::stride);
    if (metas_bytes > 0 && operation.finished.load(std::memory_order_acquire) && operation.outcome.meta_length > 0) {
      std::memcpy(metas + i * meta_bytes_max, operation.outcome.meta, operation.outcome.meta_length);
    }
  }
  return answer;
}

napi_value files_of(Out& out, const std::vector<ListedFile>& files) {
  const napi_value answer = out.array(files.size());
  for (size_t i = 0; i < files.size() && out.ok(); i++) {
    napi_handle_scope scope = nullptr;
    napi_open_handle_scope(out.env(), &scope);
    const ListedFile& file = files[i];
    const napi_value one = out.object();
    out.set(one, "name", out.string(file.name));
    out.set(one, "size", out.number(static_cast<double>(file.size)));
    out.set(one, "allocated", out.number(static_cast<double>(file.allocated)));
    out.set(one, "accessedAt", out.number(file.accessed_ms));
    out.set(one, "modifiedAt", out.number(file.modified_ms));
    if (file.has_record) {
      // What a later version wrote is no page of ours to judge: it is listed like any other foreign file.
      const bool whole = file.record == RecordState::whole;
      out.set(one, "record", out.string(whole ? "whole" : file.record == RecordState::damaged ? "corrupt" : "none"));
      if (whole) {
        out.set(one, "payloadLength", out.number(static_cast<double>(file.payload_length)));
        out.set(one, "identity", out.copy(file.identity.data(), file.identity.size()));
        out.set(one, "meta", out.copy(file.meta.data(), file.meta.size()));
      }
    }
    out.set(answer, i, one);
    if (scope != nullptr) napi_close_handle_scope(out.env(), scope);
  }
  return answer;
}

void throw_refusal(Napi::Env env, const std::string& what, const std::string& reason, const std::string& remedy) {
  Napi::Error error = make_error(env, "ERR_PLUGIN_UNAVAILABLE", what + " cannot be used: " + reason + ". " + remedy);
  error.Value().Set("reason", Napi::String::New(env, reason));
  error.Value().Set("remedy", Napi::String::New(env, remedy));
  error.ThrowAsJavaScriptException();
}

// nullptr with an exception pending.
std::unique_ptr<Plugin> make_posix_plugin(Napi::Object options, const std::shared_ptr<CompletionQueue>& queue) {
  const Napi::Env env = options.Env();
  PosixOptions posix;
  double number;
  if (!string_of(options, "engine", posix.engine)) return nullptr;
  if (!number_of(options, "queueDepth", 64, 1, 4096, number)) return nullptr;
  posix.queue_depth = static_cast<unsigned>(number);
  if (!number_of(options, "threads", 8, 1, 256, number)) return nullptr;
  posix.threads = static_cast<unsigned>(number);
  if (!data_paths_of(options, posix)) return nullptr;
  const Napi::Value list = options.Get("directories");
  if (list.IsEmpty() || !list.IsArray() || list.As<Napi::Array>().Length() == 0) {
    throw_argument(env, "directories must be an array with at least one directory.");
    return nullptr;
  }
  for (uint32_t i = 0; i < list.As<Napi::Array>().Length(); i++) {
    const Napi::Value one = list.As<Napi::Array>().Get(i);
    if (one.IsEmpty() || !one.IsObject()) {
      throw_argument(env, "Every directory must be an object.");
      return nullptr;
    }
    PosixDirectoryOptions directory;
    if (!string_of(one.As<Napi::Object>(), "path", directory.path) || !bool_of(one.As<Napi::Object>(), "direct", false, directory.direct) ||
        !bool_of(one.As<Napi::Object>(), "engine", false, directory.engine)) {
      return nullptr;
    }
    if (!number_of(one.As<Napi::Object>(), "holdFd", -1, -1, INT_MAX, number)) return nullptr;
    directory.hold_fd = static_cast<int>(number);
    posix.directories.push_back(std::move(directory));
  }
  Refusal refusal;
  auto plugin = try_create_posix_plugin(posix, queue, refusal);
  // A data path names itself in its reason.
  if (plugin == nullptr) throw_refusal(env, posix.data_path ? "The data path" : "The engine " + posix.engine, refusal.reason, refusal.remedy);
  return plugin;
}

std::unique_ptr<ObjectPlugin> make_obj_plugin(Napi::Object options) {
  ObjectOptions objects;
  const Napi::Value value = options.Get("objects");
  if (value.IsEmpty() || !value.IsObject()) {
    throw_argument(options.Env(), "objects must be an object: where the objects are.");
    return nullptr;
  }
  if (!object_options_of(value.As<Napi::Object>(), objects)) return nullptr;
  Refusal refusal;
  auto plugin = try_create_obj_plugin(objects, refusal);
  if (plugin == nullptr) throw_refusal(options.Env(), "Plugin OBJ", refusal.reason, refusal.remedy);
  return plugin;
}

// Pages as objects that NIXL moves; `objects`, where it is given, is for what NIXL cannot do.
std::unique_ptr<Plugin> make_nixl_plugin(Napi::Object options) {
  nixl::ObjectsOptions objects;
  if (!nixl_objects_of(options, objects)) return nullptr;
  std::unique_ptr<ObjectPlugin> beside;
  if (const Napi::Value value = options.Get("objects"); !value.IsEmpty() && !value.IsUndefined()) {
    beside = make_obj_plugin(options);
    if (beside == nullptr) return nullptr;
  }
  Refusal refusal;
  auto plugin = nixl::try_create_objects_plugin(objects, std::move(beside), refusal);
  if (plugin == nullptr) throw_refusal(options.Env(), "NIXL's plugin " + objects.plugin, refusal.reason, refusal.remedy);
  return plugin;
}

}  // namespace

Napi::Function AgentWrap::define(Napi::Env env) {
  return DefineClass(env, "Agent",
                     {InstanceMethod<&AgentWrap::submit>("submit"), InstanceMethod<&AgentWrap::list>("list"), InstanceMethod<&AgentWrap::sweep>("sweep"),
                      InstanceMethod<&AgentWrap::destroy>("destroy"), InstanceAccessor<&AgentWrap::engine>("engine"),
                      InstanceAccessor<&AgentWrap::in_flight>("inFlight")});
}

AgentWrap::AgentWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<AgentWrap>(info), environment_(&Environment::of(info.Env())) {
  try {
    if (open(info)) environment_->agents.insert(this);
  } catch (const std::system_error& error) {
    make_system_error(info.Env(), error.code().value(), "making an agent").ThrowAsJavaScriptException();
  } catch (const std::bad_alloc&) {
    make_system_error(info.Env(), ENOMEM, "making an agent").ThrowAsJavaScriptException();
  }
}

bool AgentWrap::open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto wrong = [&](const char* what) {
    throw_argument(env, what);
    return false;
  };
  if (info.Length() < 1 || !info[0].IsObject()) return wrong("An agent needs an options object.");
  const Napi::Object options = info[0].As<Napi::Object>();
  std::string plugin_name;
  double number;
  if (!string_of(options, "plugin", plugin_name)) return false;
  if (plugin_name != "POSIX" && plugin_name != "OBJ" && plugin_name != "NIXL") return wrong("plugin must be POSIX, OBJ or NIXL: there is no other one.");
  if (!number_of(options, "drainMs", 2000, 0, 600000, number)) return false;
  drain_ms_ = static_cast<int>(number);

  const Napi::Value words = options.Get("words");
  Bytes bytes;
  if (words.IsEmpty() || !words.IsTypedArray() || words.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array || !bytes_of(words, bytes) || bytes.length == 0) {
    return wrong("words must be an Int32Array, and not empty.");
  }
  Words known{reinterpret_cast<int32_t*>(bytes.data), bytes.length / sizeof(int32_t), MemoryRegistry::instance().find_around(bytes.data, bytes.length)};

  auto queue = std::make_shared<CompletionQueue>();
  std::unique_ptr<Plugin> plugin;
  if (plugin_name == "OBJ") plugin = make_obj_plugin(options);
  else plugin = plugin_name == "NIXL" ? make_nixl_plugin(options) : make_posix_plugin(options, queue);
  if (plugin == nullptr) return false;
  engine_ = plugin->engine();
  auto agent = std::make_unique<Agent>(known, queue, std::move(plugin));

  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) return wrong("This environment has no event loop.");
  poll_ = new uv_poll_t;
  if (const int failed = uv_poll_init(loop, poll_, agent->poll_fd()); failed != 0) {
    delete poll_;
    poll_ = nullptr;
    throw std::system_error(-failed, std::generic_category(), "uv_poll_init");
  }
  poll_->data = this;
  timer_ = new uv_timer_t;
  uv_timer_init(loop, timer_);
  timer_->data = this;
  environment_->open_handles += 2;
  uv_poll_start(poll_, UV_READABLE, [](uv_poll_t* handle, int, int) { static_cast<AgentWrap*>(handle->data)->on_readable(); });
  uv_unref(reinterpret_cast<uv_handle_t*>(poll_));
  agent_ = std::move(agent);
  words_ = Napi::Persistent(words.As<Napi::Object>());
  napi_async_init(env, nullptr, Napi::String::New(env, "hicache-nixl"), &context_);
  return true;
}

AgentWrap::~AgentWrap() {
  // Collected as garbage (nothing waits for an answer then), or the constructor failed. In an ending environment the hook has been here before.
  environment_->agents.erase(this);
  close_handles();
  if (context_ != nullptr) napi_async_destroy(Env(), context_);
  if (agent_ != nullptr) {
    agent_->forget_reports();
    agent_->stop();
    if (agent_->drain(0)) agent_.reset();
    else Agent::abandon(std::move(agent_));
  }
}

void AgentWrap::environment_ends() {
  environment_->agents.erase(this);
  // From here on nothing calls into JavaScript: listings find no promise, and abandon() forgets the reports.
  calls_->clear();
  destroy_waiting_.clear();
  close_handles();
  if (agent_ == nullptr) return;
  agent_->forget_reports();
  agent_->stop();
  if (agent_->drain(drain_ms_)) agent_.reset();
  else Agent::abandon(std::move(agent_));
  destroyed_ = true;
}

void AgentWrap::close_handles() {
  close_handle(poll_, environment_);
  close_handle(timer_, environment_);
}

void AgentWrap::on_readable() {
  const LoopScope scope(Env(), context_);
  agent_->process();
  after_work();
}

// The loop waits for us as long as somebody waits for an answer.
void AgentWrap::after_work() {
  if (destroying_ && agent_ != nullptr && agent_->idle()) return finish_destroy(0);
  const bool hold = agent_ != nullptr && (agent_->unreported() > 0 || destroying_);
  if (hold == held_) return;
  held_ = hold;
  if (hold) {
    Ref();
    uv_ref(reinterpret_cast<uv_handle_t*>(poll_));
  } else {
    if (poll_ != nullptr) uv_unref(reinterpret_cast<uv_handle_t*>(poll_));
    Unref();
  }
}

bool AgentWrap::usable(Napi::Env env, const char* method) {
  if (agent_ != nullptr && !destroying_) return true;
  make_error(env, "ERR_CLOSED", std::string(method) + "() on an agent that is destroyed.").ThrowAsJavaScriptException();
  return false;
}

Napi::Value AgentWrap::engine(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), engine_); }

Napi::Value AgentWrap::in_flight(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(agent_ == nullptr ? left_ : agent_->in_flight()));
}

Napi::Value AgentWrap::submit(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!usable(env, "submit")) return env.Undefined();
  Bytes blob;
  if (info.Length() < 1 || !info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
    throw_argument(env, "descriptors must be a Float64Array.");
    return env.Undefined();
  }
  if (info.Length() < 2 || !info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array || !bytes_of(info[1], blob)) {
    throw_argument(env, "blob must be a Uint8Array.");
    return env.Undefined();
  }
  Bytes descriptors;
  bytes_of(info[0], descriptors);
  const size_t doubles = descriptors.length / sizeof(double);
  if (doubles % field::stride != 0) {
    throw_argument(env, "descriptors must hold DESCRIPTOR_STRIDE doubles each.");
    return env.Undefined();
  }
  const bool want_metas = info.Length() > 2 && info[2].IsBoolean() && info[2].As<Napi::Boolean>().Value();
  Deferred deferred;
  napi_value promise;
  if (!Deferred::create(env, deferred, promise)) return env.Undefined();
  if (doubles == 0) {
    Out out(env);
    deferred.resolve(out, results_of(out, nullptr));
    return Napi::Value(env, promise);
  }
  try {
    const std::string problem = agent_->submit(reinterpret_cast<const double*>(descriptors.data), doubles / field::stride, blob.data, blob.length, want_metas,
                                               [deferred](Batch& batch) {
                                                 Out out(deferred.env);
                                                 deferred.resolve(out, results_of(out, &batch));
                                               });
    if (!problem.empty()) {
      // The promise is dropped before anybody has seen it; an unsettled promise costs nothing.
      throw_argument(env, problem);
      return env.Undefined();
    }
  } catch (const std::bad_alloc&) {
    make_system_error(env, ENOMEM, "submitting a batch").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  after_work();
  return Napi::Value(env, promise);
}

bool AgentWrap::folder_argument(const Napi::CallbackInfo& info, uint32_t& directory, std::string& folder) {
  const double index = info.Length() > 0 && info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
  if (!(index >= 0 && index < static_cast<double>(agent_->plugin().directories())) || std::floor(index) != index) {
    throw_argument(info.Env(), "directory is not one of the agent's.");
    return false;
  }
  directory = static_cast<uint32_t>(index);
  if (info.Length() > 1 && info[1].IsString()) {
    folder = info[1].As<Napi::String>().Utf8Value();
    if (valid_folder(folder)) return true;
  }
  throw_argument(info.Env(), "folder must be a relative path of proper components, or empty.");
  return false;
}

bool AgentWrap::start_call(Napi::Env env, uint64_t& id, napi_value& promise) {
  Deferred deferred;
  if (!Deferred::create(env, deferred, promise)) return false;
  id = next_call_++;
  calls_->emplace(id, deferred);
  return true;
}

Napi::Value AgentWrap::list(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  uint32_t directory;
  std::string folder;
  bool records = false;
  if (!usable(env, "list") || !folder_argument(info, directory, folder)) return env.Undefined();
  if (info.Length() > 2 && info[2].IsObject() && !bool_of(info[2].As<Napi::Object>(), "records", false, records)) return env.Undefined();
  uint64_t id;
  napi_value promise;
  if (!start_call(env, id, promise)) return env.Undefined();
  agent_->plugin().list(directory, folder, records, [calls = calls_, id, folder](int error, std::vector<ListedFile>& files) {
    const auto found = calls->find(id);
    if (found == calls->end()) return;
    const Deferred waiting = found->second;
    calls->erase(found);
    Out out(waiting.env);
    if (error != 0) waiting.reject(out, out.system_error(error, "listing '" + folder + "'"));
    else waiting.resolve(out, files_of(out, files));
  });
  after_work();
  return Napi::Value(env, promise);
}

Napi::Value AgentWrap::sweep(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  uint32_t directory;
  std::string folder;
  if (!usable(env, "sweep") || !folder_argument(info, directory, folder)) return env.Undefined();
  uint64_t id;
  napi_value promise;
  if (!start_call(env, id, promise)) return env.Undefined();
  agent_->plugin().sweep(directory, folder, [calls = calls_, id, folder](int error, size_t removed) {
    const auto found = calls->find(id);
    if (found == calls->end()) return;
    const Deferred waiting = found->second;
    calls->erase(found);
    Out out(waiting.env);
    if (error != 0) waiting.reject(out, out.system_error(error, "sweeping '" + folder + "'"));
    else waiting.resolve(out, out.number(static_cast<double>(removed)));
  });
  after_work();
  return Napi::Value(env, promise);
}

Napi::Value AgentWrap::destroy(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Deferred deferred;
  napi_value promise;
  if (!Deferred::create(env, deferred, promise)) return env.Undefined();
  if (destroyed_ || agent_ == nullptr) {
    Out out(env);
    deferred.resolve(out, out.number(static_cast<double>(left_)));
    return Napi::Value(env, promise);
  }
  destroy_waiting_.push_back(deferred);
  if (destroying_) return Napi::Value(env, promise);
  destroying_ = true;
  agent_->stop();
  agent_->process();
  if (!agent_->idle()) {
    uv_timer_start(
        timer_,
        [](uv_timer_t* handle) {
          auto* const self = static_cast<AgentWrap*>(handle->data);
          const LoopScope scope(self->Env(), self->context_);
          self->agent_->process();
          if (self->agent_->idle()) self->finish_destroy(0);
          else self->finish_destroy(self->agent_->in_flight());
        },
        static_cast<uint64_t>(drain_ms_), 0);
  }
  after_work();
  return Napi::Value(env, promise);
}

void AgentWrap::finish_destroy(size_t left) {
  left_ = left;
  destroyed_ = true;
  agent_->report_all();
  for (const auto& [id, waiting] : *calls_) {
    Out out(waiting.env);
    waiting.reject(out, out.system_error(ECANCELED, "the agent was destroyed"));
  }
  calls_->clear();
  close_handles();
  if (agent_->idle()) agent_.reset();
  else Agent::abandon(std::move(agent_));
  const std::vector<Deferred> waiting = std::move(destroy_waiting_);
  destroy_waiting_.clear();
  for (const Deferred& deferred : waiting) {
    Out out(deferred.env);
    deferred.resolve(out, out.number(static_cast<double>(left)));
  }
  after_work();
}

void export_agent(Napi::Env env, Napi::Object exports) { exports.Set("Agent", AgentWrap::define(env)); }

}  // namespace hicache
