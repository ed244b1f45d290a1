// NIXL's C library (libnixl_capi), loaded when it is first needed. Its header is not installed with it: what is declared here is the part of its binary interface that we use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "util/shared_library.h"

namespace hicache::nixl {

// Handles, all opaque.
struct Agent;
struct Backend;
struct MemList;
struct OptArgs;
struct Params;
struct ParamsIterator;
struct QueryRespList;
struct RegDlist;
struct StringList;
struct XferDlist;
struct XferReq;

namespace status {
inline constexpr int success = 0, in_progress = 1, invalid_param = -1, backend = -2, invalid_state = -3, no_telemetry = -5, not_found = -6;
}
namespace memory {
inline constexpr int dram = 0, vram = 1, block = 2, object = 3, file = 4;
}
namespace operation {
inline constexpr int read = 0, write = 1;
}
// "-2 (backend)"
std::string describe_status(int status);
const char* memory_name(int type);

struct AgentConfig {
  bool enable_prog_thread = false;
  bool enable_listen_thread = false;
  int listen_port = 0;
  // 0, NONE: no lock at all. An agent of ours is called by one thread at a time.
  int thread_sync = 0;
  unsigned num_workers = 1;
  uint64_t pthr_delay_us = 0;
  uint64_t lthr_delay_us = 0;
  bool capture_telemetry = false;
};
static_assert(sizeof(AgentConfig) == 40 && offsetof(AgentConfig, listen_port) == 4 && offsetof(AgentConfig, thread_sync) == 8 && offsetof(AgentConfig, num_workers) == 12 &&
              offsetof(AgentConfig, pthr_delay_us) == 16 && offsetof(AgentConfig, lthr_delay_us) == 24 && offsetof(AgentConfig, capture_telemetry) == 32);

// The functions; every int is a status. One instance for the process; never unloaded, because requests that hang may live on in it.
struct Api {
  std::string path;           // what was loaded
  std::string version;        // where it can be told (the folders of a wheel name it), else empty
  std::string plugin_folder;  // where it looks for plugins

  int (*create_configured_agent)(const char*, const AgentConfig*, Agent**) = nullptr;
  int (*destroy_agent)(Agent*) = nullptr;
  int (*get_available_plugins)(Agent*, StringList**) = nullptr;
  int (*string_list_size)(StringList*, size_t*) = nullptr;
  int (*string_list_get)(StringList*, size_t, const char**) = nullptr;
  int (*destroy_string_list)(StringList*) = nullptr;
  int (*get_plugin_params)(Agent*, const char*, MemList**, Params**) = nullptr;
  int (*mem_list_size)(MemList*, size_t*) = nullptr;
  int (*mem_list_get)(MemList*, size_t, int*) = nullptr;
  int (*destroy_mem_list)(MemList*) = nullptr;
  int (*create_params)(Params**) = nullptr;
  int (*params_add)(Params*, const char*, const char*) = nullptr;
  int (*destroy_params)(Params*) = nullptr;
  int (*params_is_empty)(Params*, bool*) = nullptr;
  int (*params_create_iterator)(Params*, ParamsIterator**) = nullptr;
  int (*params_iterator_next)(ParamsIterator*, const char**, const char**, bool*) = nullptr;
  int (*params_destroy_iterator)(ParamsIterator*) = nullptr;
  int (*create_backend)(Agent*, const char*, Params*, Backend**) = nullptr;
  int (*destroy_backend)(Backend*) = nullptr;
  int (*create_opt_args)(OptArgs**) = nullptr;
  int (*opt_args_add_backend)(OptArgs*, Backend*) = nullptr;
  int (*destroy_opt_args)(OptArgs*) = nullptr;
  int (*create_reg_dlist)(int, RegDlist**) = nullptr;
  int (*reg_dlist_add_desc)(RegDlist*, uintptr_t, size_t, uint64_t, const void*, size_t) = nullptr;
  int (*destroy_reg_dlist)(RegDlist*) = nullptr;
  int (*register_mem)(Agent*, RegDlist*, OptArgs*) = nullptr;
  int (*deregister_mem)(Agent*, RegDlist*, OptArgs*) = nullptr;
  int (*create_xfer_dlist)(int, XferDlist**) = nullptr;
  int (*xfer_dlist_add_desc)(XferDlist*, uintptr_t, size_t, uint64_t) = nullptr;
  int (*destroy_xfer_dlist)(XferDlist*) = nullptr;
  int (*create_xfer_req)(Agent*, int, XferDlist*, XferDlist*, const char*, XferReq**, OptArgs*) = nullptr;
  int (*post_xfer_req)(Agent*, XferReq*, OptArgs*) = nullptr;
  int (*get_xfer_status)(Agent*, XferReq*) = nullptr;
  int (*release_xfer_req)(Agent*, XferReq*) = nullptr;
  int (*destroy_xfer_req)(XferReq*) = nullptr;
  // For objects alone.
  int (*create_query_resp_list)(QueryRespList**) = nullptr;
  int (*query_mem)(Agent*, RegDlist*, QueryRespList*, OptArgs*) = nullptr;
  int (*query_resp_list_size)(QueryRespList*, size_t*) = nullptr;
  int (*query_resp_list_has_value)(QueryRespList*, size_t, bool*) = nullptr;
  int (*query_resp_list_get_params)(QueryRespList*, size_t, Params**) = nullptr;
  int (*destroy_query_resp_list)(QueryRespList*) = nullptr;
};

// nullptr, with the refusal, where it cannot be had; asked again it is tried again. May read files: for threads that may wait.
const Api* load(Refusal&);

// What load() tries, in order. A name without a slash is left to the system's own search.
struct Place {
  std::string library;
  std::vector<std::string> siblings;  // loaded before it, where they exist: a plain install has no run path
};
std::vector<Place> places();

struct PluginInfo {
  std::string name;
  // Listed does not mean usable: a plugin whose own libraries are missing fails here, or when its backend is created.
  bool described = false;
  std::vector<int> memory;                        // types that it moves
  std::map<std::string, std::string> parameters;  // its defaults
  std::string reason;                             // why it is not described
};
// All that the library lists. May read files and load libraries. False with a reason when no agent can be had.
bool list_plugins(const Api&, std::vector<PluginInfo>&, std::string& reason);
// One of them, over an agent that is there already.
PluginInfo describe_plugin(const Api&, Agent*, const std::string& name);
std::vector<std::string> plugin_names(const Api&, Agent*);

}  // namespace hicache::nixl
