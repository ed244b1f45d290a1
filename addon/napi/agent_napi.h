// The class `Agent` of JavaScript: one Agent, its place in the event loop, and its end.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "agent/agent.h"
#include "napi/support_napi.h"

namespace hicache {

class AgentWrap final : public Napi::ObjectWrap<AgentWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit AgentWrap(const Napi::CallbackInfo& info);
  ~AgentWrap() override;

  // The clean-up hook: drains for drainMs with the loop standing still, and leaves the rest to a reaper thread.
  void environment_ends();

 private:
  Napi::Value engine(const Napi::CallbackInfo& info);
  Napi::Value in_flight(const Napi::CallbackInfo& info);
  Napi::Value submit(const Napi::CallbackInfo& info);
  Napi::Value list(const Napi::CallbackInfo& info);
  Napi::Value sweep(const Napi::CallbackInfo& info);
  Napi::Value destroy(const Napi::CallbackInfo& info);

  bool open(const Napi::CallbackInfo& info);
  bool usable(Napi::Env env, const char* method);
  bool folder_argument(const Napi::CallbackInfo& info, uint32_t& directory, std::string& folder);
  // A promise for a listing or sweep; false with nothing done when JavaScript can run no more.
  bool start_call(Napi::Env env, uint64_t& id, napi_value& promise);
  void on_readable();
  void after_work();
  void finish_destroy(size_t left);
  void close_handles();

  std::unique_ptr<Agent> agent_;
  std::string engine_;
  int drain_ms_ = 2000;
  Napi::ObjectReference words_;
  napi_async_context context_ = nullptr;
  Environment* environment_ = nullptr;
  uv_poll_t* poll_ = nullptr;
  uv_timer_t* timer_ = nullptr;
  bool held_ = false;  // the loop and the garbage collector leave us alone
  // Listings and sweeps in flight. Their answers look here, and find nothing once the environment has ended.
  std::shared_ptr<std::map<uint64_t, Deferred>> calls_ = std::make_shared<std::map<uint64_t, Deferred>>();
  uint64_t next_call_ = 0;
  bool destroying_ = false, destroyed_ = false;
  size_t left_ = 0;
  std::vector<Deferred> destroy_waiting_;
};

}  // namespace hicache
