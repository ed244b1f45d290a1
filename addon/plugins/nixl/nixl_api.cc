#include "plugins/nixl/nixl_api.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace hicache::nixl {
namespace {

constexpr char path_variable[] = "HICACHE_NIXL_LIBNIXL_PATH";
constexpr char remedy_text[] =
    "install NIXL 1.0 or newer (pip install nixl, or build it with its C library), or name libnixl_capi.so, or the folder it lies in, in HICACHE_NIXL_LIBNIXL_PATH";

// The order in which they need each other. The last is needed by plugins.
constexpr const char* sibling_names[] = {"libserdes", "libnixl_common", "libstream", "libnixl_build", "libnixl", "libfile_utils"};
constexpr const char* library_names[] = {"libnixl_capi.so.0", "libnixl_capi.so"};

bool exists(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0;
}

bool is_folder(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// Entries whose name begins with `beginning`, sorted; full paths.
std::vector<std::string> entries(const std::string& folder, const std::string& beginning) {
  std::vector<std::string> found;
  DIR* const open = ::opendir(folder.c_str());
  if (open == nullptr) return found;
  while (const dirent* entry = ::readdir(open)) {
    const std::string name = entry->d_name;
    if (name != "." && name != ".." && name.compare(0, beginning.size(), beginning) == 0) found.push_back(folder + "/" + name);
  }
  ::closedir(open);
  std::sort(found.begin(), found.end());
  return found;
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }

Place beside_siblings(const std::string& library) {
  Place place{library, {}};
  const std::string folder = folder_of(library);
  for (const char* name : sibling_names) {
    for (const char* ending : {".so", ".so.0"}) {
      std::string path = folder;
      path.append("/").append(name).append(ending);
      if (!exists(path)) continue;
      place.siblings.push_back(path);
      break;
    }
  }
  return place;
}

// The library in a folder, if it is there.
void add_folder(const std::string& folder, std::vector<Place>& found) {
  for (const char* name : library_names) {
    std::string path = folder;
    path.append("/").append(name);
    if (!exists(path)) continue;
    found.push_back(beside_siblings(path));
    return;
  }
}

// Of all Pythons below a prefix: the folders into which wheels of NIXL put their libraries.
void add_wheels(const std::string& library_folder, std::vector<Place>& found) {
  for (const std::string& python : entries(library_folder, "python3")) {
    for (const char* packages : {"/site-packages", "/dist-packages"}) {
      for (const char* libraries : {"/.nixl_cu12.mesonpy.libs", "/.nixl_cu13.mesonpy.libs"}) add_folder(python + packages + libraries, found);
    }
  }
}

// /opt/nvidia/nvda_nixl/lib, lib64, lib/x86_64-linux-gnu
void add_install(const std::string& prefix, std::vector<Place>& found) {
  for (const std::string& folder : entries(prefix, "lib")) {
    add_folder(folder, found);
    for (const std::string& inner : entries(folder, "")) {
      if (inner.size() > 10 && inner.compare(inner.size() - 10, 10, "-linux-gnu") == 0) add_folder(inner, found);
    }
  }
}

// A wheel keeps `nixl_cu12-1.4.0.dist-info` beside `.nixl_cu12.mesonpy.libs`. The library itself does not say.
std::string version_beside(const std::string& folder) {
  const std::string packages = folder_of(folder), name = name_of(folder);
  const size_t end = name.find(".mesonpy.libs");
  if (end == std::string::npos || name.size() < 2 || name[0] != '.') return "";
  const std::string beginning = name.substr(1, end - 1) + "-";
  for (const std::string& entry : entries(packages, beginning)) {
    const std::string found = name_of(entry);
    const size_t info = found.find(".dist-info");
    if (info != std::string::npos) return found.substr(beginning.size(), info - beginning.size());
  }
  return "";
}

// Not deeply bound: Node holds copies of libstdc++'s streams, and such a library would write to the ones that nobody has initialised.
std::unique_ptr<Api> open(const Place& place, std::string& why) {
  // What a sibling lacks comes out again, and clearer, when the library itself is loaded.
  std::string sibling_why;
  for (const std::string& name : place.siblings) {
    std::string reason;
    const SharedLibrary sibling(name, SharedLibrary::plain, reason);
    if (!sibling && sibling_why.empty()) sibling_why = reason;
  }
  SharedLibrary library(place.library, SharedLibrary::plain, why);
  if (!library) {
    if (!sibling_why.empty()) why += " (before it: " + sibling_why + ")";
    return nullptr;
  }
  auto api = std::make_unique<Api>();
  bool (*is_stub)() = nullptr;
  library.find(is_stub, "nixl_capi_is_stub");
  library.find(api->create_configured_agent, "nixl_capi_create_configured_agent");
  library.find(api->destroy_agent, "nixl_capi_destroy_agent");
  library.find(api->get_available_plugins, "nixl_capi_get_available_plugins");
  library.find(api->string_list_size, "nixl_capi_string_list_size");
  library.find(api->string_list_get, "nixl_capi_string_list_get");
  library.find(api->destroy_string_list, "nixl_capi_destroy_string_list");
  library.find(api->get_plugin_params, "nixl_capi_get_plugin_params");
  library.find(api->mem_list_size, "nixl_capi_mem_list_size");
  library.find(api->mem_list_get, "nixl_capi_mem_list_get");
  library.find(api->destroy_mem_list, "nixl_capi_destroy_mem_list");
  library.find(api->create_params, "nixl_capi_create_params");
  library.find(api->params_add, "nixl_capi_params_add");
  library.find(api->destroy_params, "nixl_capi_destroy_params");
  library.find(api->params_is_empty, "nixl_capi_params_is_empty");
  library.find(api->params_create_iterator, "nixl_capi_params_create_iterator");
  library.find(api->params_iterator_next, "nixl_capi_params_iterator_next");
  library.find(api->params_destroy_iterator, "nixl_capi_params_destroy_iterator");
  library.find(api->create_backend, "nixl_capi_create_backend");
  library.find(api->destroy_backend, "nixl_capi_destroy_backend");
  library.find(api->create_opt_args, "nixl_capi_create_opt_args");
  library.find(api->opt_args_add_backend, "nixl_capi_opt_args_add_backend");
  library.find(api->destroy_opt_args, "nixl_capi_destroy_opt_args");
  library.find(api->create_reg_dlist, "nixl_capi_create_reg_dlist");
  library.find(api->reg_dlist_add_desc, "nixl_capi_reg_dlist_add_desc");
  library.find(api->destroy_reg_dlist, "nixl_capi_destroy_reg_dlist");
  library.find(api->register_mem, "nixl_capi_register_mem");
  library.find(api->deregister_mem, "nixl_capi_deregister_mem");
  library.find(api->create_xfer_dlist, "nixl_capi_create_xfer_dlist");
  library.find(api->xfer_dlist_add_desc, "nixl_capi_xfer_dlist_add_desc");
  library.find(api->destroy_xfer_dlist, "nixl_capi_destroy_xfer_dlist");
  library.find(api->create_xfer_req, "nixl_capi_create_xfer_req");
  library.find(api->post_xfer_req, "nixl_capi_post_xfer_req");
  library.find(api->get_xfer_status, "nixl_capi_get_xfer_status");
  library.find(api->release_xfer_req, "nixl_capi_release_xfer_req");
  library.find(api->destroy_xfer_req, "nixl_capi_destroy_xfer_req");
  library.find(api->create_query_resp_list, "nixl_capi_create_query_resp_list");
  library.find(api->query_mem, "nixl_capi_query_mem");
  library.find(api->query_resp_list_size, "nixl_capi_query_resp_list_size");
  library.find(api->query_resp_list_has_value, "nixl_capi_query_resp_list_has_value");
  library.find(api->query_resp_list_get_params, "nixl_capi_query_resp_list_get_params");
  library.find(api->destroy_query_resp_list, "nixl_capi_destroy_query_resp_list");
  if (!library.complete(why)) return nullptr;
  if (is_stub()) {
    why = place.library + " is NIXL's stub, which can do nothing: it stands in where the real library is not installed";
    return nullptr;
  }
  api->path = library.path_of(api->destroy_agent);
  api->version = version_beside(folder_of(api->path));
  const std::string plugins = text_of("NIXL_PLUGIN_DIR"), folder = folder_of(api->path);
  api->plugin_folder = !plugins.empty() ? plugins : folder.empty() ? "" : folder + "/plugins";
  return api;
}

std::vector<std::string> take(const Api& api, StringList* list) {
  std::vector<std::string> texts;
  size_t count = 0;
  if (api.string_list_size(list, &count) != status::success) count = 0;
  for (size_t i = 0; i < count; i++) {
    const char* text = nullptr;
    if (api.string_list_get(list, i, &text) == status::success && text != nullptr) texts.push_back(text);
  }
  api.destroy_string_list(list);
  return texts;
}

void take(const Api& api, MemList* list, std::vector<int>& types) {
  size_t count = 0;
  if (api.mem_list_size(list, &count) != status::success) count = 0;
  for (size_t i = 0; i < count; i++) {
    int type = -1;
    if (api.mem_list_get(list, i, &type) == status::success) types.push_back(type);
  }
  api.destroy_mem_list(list);
}

void take(const Api& api, Params* params, std::map<std::string, std::string>& values) {
  bool empty = true;
  ParamsIterator* iterator = nullptr;
  if (api.params_is_empty(params, &empty) == status::success && !empty && api.params_create_iterator(params, &iterator) == status::success) {
    // `another` tells of the entry behind the one that was handed out.
    for (bool another = true; another;) {
      const char *key = nullptr, *value = nullptr;
      another = false;
      if (api.params_iterator_next(iterator, &key, &value, &another) != status::success || key == nullptr) break;
      values[key] = value == nullptr ? "" : value;
    }
    api.params_destroy_iterator(iterator);
  }
  api.destroy_params(params);
}

}  // namespace

std::string describe_status(int status) {
  std::string text = std::to_string(status);
  switch (status) {
    case status::success: return text.append(" (success)");
    case status::in_progress: return text.append(" (in progress)");
    case status::invalid_param: return text.append(" (invalid parameter)");
    case status::backend: return text.append(" (the plugin failed)");
    case status::invalid_state: return text.append(" (invalid state)");
    case status::no_telemetry: return text.append(" (no telemetry)");
    case status::not_found: return text.append(" (not found)");
    default: return text;
  }
}

const char* memory_name(int type) {
  constexpr const char* names[] = {"DRAM", "VRAM", "BLOCK", "OBJECT", "FILE"};
  return type >= 0 && type < 5 ? names[type] : "unknown";
}

std::vector<Place> places() {
  std::vector<Place> found;
  const std::string named = text_of(path_variable);
  // A library that somebody has named is the one, or none is.
  if (!named.empty()) {
    if (is_folder(named)) add_folder(named, found);
    if (found.empty()) found.push_back(beside_siblings(named));
    return found;
  }
  for (const char* name : library_names) found.push_back({name, {}});
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const std::string prefix = text_of(variable); !prefix.empty()) add_wheels(prefix + "/lib", found);
  }
  if (const std::string home = text_of("HOME"); !home.empty()) add_wheels(home + "/.local/lib", found);
  for (const char* folder : {"/usr/local/lib", "/usr/lib"}) add_wheels(folder, found);
  for (const char* prefix : {"/opt/nvidia/nvda_nixl", "/usr/local/nixl"}) add_install(prefix, found);
  return found;
}

const Api* load(Refusal& refusal) {
  std::string reasons;
  const Api* const api = load_once<Api>(places, open, reasons);
  if (api != nullptr) return api;
  std::string reason = "NIXL's C library cannot be loaded: " + reasons;
  if (text_of(path_variable).empty()) {
    reason += "; nor is it in .nixl_cu12.mesonpy.libs or .nixl_cu13.mesonpy.libs of a Python in $VIRTUAL_ENV, $CONDA_PREFIX, ~/.local, /usr/local or /usr, nor below "
              "/opt/nvidia/nvda_nixl/lib* or /usr/local/nixl/lib*";
  } else if (is_folder(text_of(path_variable))) {
    reason += "; " + text_of(path_variable) + ", named in HICACHE_NIXL_LIBNIXL_PATH, is searched for libnixl_capi.so.0 and libnixl_capi.so";
  }
  refusal = {reason, remedy_text};
  return nullptr;
}

std::vector<std::string> plugin_names(const Api& api, Agent* agent) {
  StringList* list = nullptr;
  if (api.get_available_plugins(agent, &list) != status::success || list == nullptr) return {};
  return take(api, list);
}

PluginInfo describe_plugin(const Api& api, Agent* agent, const std::string& name) {
  PluginInfo info;
  info.name = name;
  MemList* types = nullptr;
  Params* params = nullptr;
  const int answer = api.get_plugin_params(agent, name.c_str(), &types, &params);
  if (answer != status::success) {
    info.reason = "get_plugin_params answered " + describe_status(answer) + ": the plugin, or a library that it needs, does not load";
    return info;
  }
  info.described = true;
  if (types != nullptr) take(api, types, info.memory);
  if (params != nullptr) take(api, params, info.parameters);
  return info;
}

bool list_plugins(const Api& api, std::vector<PluginInfo>& plugins, std::string& reason) {
  const AgentConfig config;
  Agent* agent = nullptr;
  const int answer = api.create_configured_agent("hicache-list", &config, &agent);
  if (answer != status::success || agent == nullptr) {
    reason = "create_configured_agent answered " + describe_status(answer);
    return false;
  }
  for (const std::string& name : plugin_names(api, agent)) plugins.push_back(describe_plugin(api, agent, name));
  api.destroy_agent(agent);
  return true;
}

}  // namespace hicache::nixl
