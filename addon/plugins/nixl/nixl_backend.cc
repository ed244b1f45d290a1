#include "plugins/nixl/nixl_backend.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>

namespace hicache::nixl {
namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

std::string needs_of(const std::string& plugin) {
  if (plugin == "GDS" || plugin == "GDS_MT") return "it needs CUDA's driver and libcufile";
  if (plugin == "HF3FS") return "it needs 3FS's libhf3fs_api_shared and a mounted 3FS";
  if (plugin == "POSIX") return "it needs libaio, liburing or librt, as its parameters say";
  if (plugin == "OBJ") return "it needs the AWS SDK for C++, credentials, and a bucket";
  return "it needs libraries of its own";
}

// Parameters end up in messages and logs.
bool is_secret(const std::string& name) {
  return name.find("secret") != std::string::npos || name.find("token") != std::string::npos || name.find("password") != std::string::npos || name.find("key") != std::string::npos;
}

}  // namespace

std::string next_agent_name() {
  static std::atomic<uint64_t> number{0};
  return "hicache-" + std::to_string(::getpid()) + "-" + std::to_string(number.fetch_add(1) + 1);
}

std::string plugin_remedy(const std::string& plugin) { return needs_of(plugin) + "; set NIXL_LOG_LEVEL=debug to see what NIXL says on stderr"; }

bool AgentOfOne::moves(int memory_type) const { return std::find(memory_types_.begin(), memory_types_.end(), memory_type) != memory_types_.end(); }

bool AgentOfOne::open(const std::string& plugin, const std::map<std::string, std::string>& parameters, int storage, Refusal& refusal) {
  const AgentConfig config;
  int answer = api.create_configured_agent(name.c_str(), &config, &agent);
  if (answer != status::success || agent == nullptr) {
    agent = nullptr;
    refusal = {"create_configured_agent of " + api.path + " answered " + describe_status(answer), "set NIXL_LOG_LEVEL=debug to see what NIXL says on stderr"};
    return false;
  }
  const std::vector<std::string> names = plugin_names(api, agent);
  if (std::find(names.begin(), names.end(), plugin) == names.end()) {
    refusal = {"NIXL (" + api.path + ") has no plugin " + plugin + ": it lists " + joined(names) + ", and looks into " + api.plugin_folder,
               "install libplugin_" + plugin + ".so there, or name its folder in NIXL_PLUGIN_DIR"};
    return false;
  }
  const PluginInfo info = describe_plugin(api, agent, plugin);
  const std::string remedy = plugin_remedy(plugin);
  if (!info.described) {
    refusal = {"NIXL lists plugin " + plugin + ", but " + info.reason, remedy};
    return false;
  }
  memory_types_ = info.memory;
  if (!moves(storage) || !moves(memory::dram)) {
    const bool files = storage == memory::file;
    refusal = {"NIXL's plugin " + plugin + " does not move " + (files ? "files" : "objects") + " between storage and memory", files ? "use POSIX, GDS, GDS_MT or HF3FS" : "use OBJ"};
    return false;
  }
  Params* params = nullptr;
  answer = api.create_params(&params);
  std::string told;
  for (auto at = parameters.begin(); answer == status::success && at != parameters.end(); ++at) {
    answer = api.params_add(params, at->first.c_str(), at->second.c_str());
    told += (told.empty() ? "" : ", ") + at->first + "=" + (is_secret(at->first) ? "..." : at->second);
  }
  if (answer == status::success) answer = api.create_backend(agent, plugin.c_str(), params, &backend_);
  if (params != nullptr) api.destroy_params(params);
  if (answer != status::success || backend_ == nullptr) {
    backend_ = nullptr;
    refusal = {"create_backend of NIXL's plugin " + plugin + " (" + (told.empty() ? "no parameters" : told) + ") answered " + describe_status(answer),
               "check the parameters (each is typed: a number, or yes or no), and that what the plugin needs is there: " + remedy};
    return false;
  }
  answer = api.create_opt_args(&opt);
  if (answer == status::success) answer = api.opt_args_add_backend(opt, backend_);
  if (answer == status::success) return true;
  refusal = {"NIXL's plugin " + plugin + " cannot be used: create_opt_args answered " + describe_status(answer), remedy};
  return false;
}

AgentOfOne::~AgentOfOne() {
  if (opt != nullptr) api.destroy_opt_args(opt);
  if (backend_ != nullptr) api.destroy_backend(backend_);
  if (agent != nullptr) api.destroy_agent(agent);
}

}  // namespace hicache::nixl
