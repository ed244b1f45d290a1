#include "plugins/obj/curl_api.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

namespace hicache::curl {
namespace {

constexpr char path_variable[] = "HICACHE_NIXL_LIBCURL_PATH";
constexpr char remedy_text[] = "install libcurl 7.73 or newer (Debian: apt-get install libcurl4), or name the file in HICACHE_NIXL_LIBCURL_PATH";
constexpr unsigned version_min = 0x074900;  // 7.73.0: every option that is set here

// Inside of Node, libcurl's calls of OpenSSL would bind to Node's own OpenSSL, another version. The sanitizers refuse the flag.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int load_flags = RTLD_NOW | RTLD_LOCAL;
#else
constexpr int load_flags = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
#endif

// The beginning of curl_version_info_data, the same in all its versions.
struct VersionInfo {
  int age;
  const char* version;
  unsigned version_number;
};

std::unique_ptr<Api> open(const std::string& name, std::string& why) {
  void* const library = ::dlopen(name.c_str(), load_flags);
  if (library == nullptr) {
    const char* const text = ::dlerror();
    why = text == nullptr ? name + " does not load" : text;
    return nullptr;
  }
  auto api = std::make_unique<Api>();
  bool complete = true;
  const auto find = [&](auto& function, const char* symbol) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, symbol));
    if (function != nullptr || !complete) return;
    complete = false;
    why = name + " has no " + symbol;
  };
  int (*global_init)(long) = nullptr;
  const VersionInfo* (*version_info)(int) = nullptr;
  const char* (*version)() = nullptr;
  find(global_init, "curl_global_init");
  find(version_info, "curl_version_info");
  find(version, "curl_version");
  find(api->easy_init, "curl_easy_init");
  find(api->easy_cleanup, "curl_easy_cleanup");
  find(api->easy_reset, "curl_easy_reset");
  find(api->easy_setopt, "curl_easy_setopt");
  find(api->easy_getinfo, "curl_easy_getinfo");
  find(api->easy_strerror, "curl_easy_strerror");
  find(api->easy_send, "curl_easy_send");
  find(api->easy_recv, "curl_easy_recv");
  find(api->multi_init, "curl_multi_init");
  find(api->multi_cleanup, "curl_multi_cleanup");
  find(api->multi_add_handle, "curl_multi_add_handle");
  find(api->multi_remove_handle, "curl_multi_remove_handle");
  find(api->multi_socket_action, "curl_multi_socket_action");
  find(api->multi_assign, "curl_multi_assign");
  find(api->multi_setopt, "curl_multi_setopt");
  find(api->multi_info_read, "curl_multi_info_read");
  find(api->multi_perform, "curl_multi_perform");
  find(api->multi_poll, "curl_multi_poll");
  if (!complete) return nullptr;
  const VersionInfo* const info = version_info(0);
  if (info->version_number < version_min) {
    why = name + " is libcurl " + info->version + ", too old";
    return nullptr;
  }
  constexpr long global_default = 3;
  if (const int failed = global_init(global_default); failed != 0) {
    why = name + " does not start: " + api->easy_strerror(failed);
    return nullptr;
  }
  Dl_info place{};
  api->path = ::dladdr(reinterpret_cast<void*>(version), &place) != 0 && place.dli_fname != nullptr ? place.dli_fname : name;
  api->version = version();
  return api;
}

}  // namespace

const Api* load(Refusal& refusal) {
  static std::mutex mutex;
  static const Api* loaded = nullptr;
  std::lock_guard lock(mutex);
  if (loaded != nullptr) return loaded;
  const char* const named = std::getenv(path_variable);
  std::vector<std::string> names;
  // A library that somebody has named is the one, or none is.
  if (named != nullptr && *named != '\0') names = {named};
  else names = {"libcurl.so.4", "libcurl-gnutls.so.4"};
  std::string reasons;
  for (const std::string& name : names) {
    std::string why;
    if (auto api = open(name, why)) {
      loaded = api.release();
      return loaded;
    }
    reasons += (reasons.empty() ? "" : "; ") + why;
  }
  refusal = {"libcurl cannot be loaded: " + reasons, remedy_text};
  return nullptr;
}

}  // namespace hicache::curl
