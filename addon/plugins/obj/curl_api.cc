#include "plugins/obj/curl_api.h"

#include <memory>

namespace hicache::curl {
namespace {

constexpr char path_variable[] = "HICACHE_NIXL_LIBCURL_PATH";
constexpr char remedy_text[] = "install libcurl 7.73 or newer (Debian: apt-get install libcurl4), or name the file in HICACHE_NIXL_LIBCURL_PATH";
constexpr unsigned version_min = 0x074900;  // 7.73.0: every option that is set here

// The beginning of curl_version_info_data, the same in all its versions.
struct VersionInfo {
  int age;
  const char* version;
  unsigned version_number;
};

std::unique_ptr<Api> open(const std::string& name, std::string& why) {
  SharedLibrary library(name, SharedLibrary::deep, why);
  if (!library) return nullptr;
  auto api = std::make_unique<Api>();
  int (*global_init)(long) = nullptr;
  const VersionInfo* (*version_info)(int) = nullptr;
  const char* (*version)() = nullptr;
  library.find(global_init, "curl_global_init");
  library.find(version_info, "curl_version_info");
  library.find(version, "curl_version");
  library.find(api->easy_init, "curl_easy_init");
  library.find(api->easy_cleanup, "curl_easy_cleanup");
  library.find(api->easy_reset, "curl_easy_reset");
  library.find(api->easy_setopt, "curl_easy_setopt");
  library.find(api->easy_getinfo, "curl_easy_getinfo");
  library.find(api->easy_strerror, "curl_easy_strerror");
  library.find(api->easy_send, "curl_easy_send");
  library.find(api->easy_recv, "curl_easy_recv");
  library.find(api->multi_init, "curl_multi_init");
  library.find(api->multi_cleanup, "curl_multi_cleanup");
  library.find(api->multi_add_handle, "curl_multi_add_handle");
  library.find(api->multi_remove_handle, "curl_multi_remove_handle");
  library.find(api->multi_socket_action, "curl_multi_socket_action");
  library.find(api->multi_assign, "curl_multi_assign");
  library.find(api->multi_setopt, "curl_multi_setopt");
  library.find(api->multi_info_read, "curl_multi_info_read");
  library.find(api->multi_perform, "curl_multi_perform");
  library.find(api->multi_poll, "curl_multi_poll");
  if (!library.complete(why)) return nullptr;
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
  api->path = library.path_of(version);
  api->version = version();
  return api;
}

}  // namespace

const Api* load(Refusal& refusal) {
  std::string reasons;
  const Api* const api = load_once<Api>([] { return library_names(path_variable, {"libcurl.so.4", "libcurl-gnutls.so.4"}); }, open, reasons);
  if (api == nullptr) refusal = {"libcurl cannot be loaded: " + reasons, remedy_text};
  return api;
}

}  // namespace hicache::curl
