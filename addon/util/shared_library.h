// A library of somebody else's, opened at run time: what is not installed is a reason and a remedy, not a program that does not start.
#pragma once

#include <dlfcn.h>

#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

namespace hicache {

// Why a library cannot be had, and what to do.
struct Refusal {
  std::string reason, remedy;
};

// Never closed again: its threads may outlive whoever used it.
class SharedLibrary {
 public:
  static constexpr int plain = RTLD_NOW | RTLD_LOCAL;
  // Inside of Node, what a library calls of OpenSSL and others would bind to Node's own copies, of other versions. The sanitizers refuse the flag.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr int deep = plain;
#else
  static constexpr int deep = plain | RTLD_DEEPBIND;
#endif

  // A name without a slash is left to the system's own search. `why` is set where it does not open.
  SharedLibrary(std::string name, int flags, std::string& why);

  explicit operator bool() const { return library_ != nullptr; }
  const std::string& name() const { return name_; }

  // Where a function is not there it stays null; complete() names the first of those that had to be.
  template <class Function>
  void find(Function& function, const char* symbol) {
    if (!look_for(function, symbol) && missing_.empty()) missing_ = symbol;
  }
  template <class Function>
  bool look_for(Function& function, const char* symbol) {
    static_assert(std::is_pointer_v<Function>);
    function = reinterpret_cast<Function>(::dlsym(library_, symbol));
    return function != nullptr;
  }
  bool complete(std::string& why) const;

  // The file that a function of it came from; its name where the loader does not say.
  template <class Function>
  std::string path_of(Function* function) const {
    return path_of(reinterpret_cast<void*>(function));
  }
  std::string path_of(void* function) const;

 private:
  std::string name_;
  void* library_;
  std::string missing_;
};

// What an environment variable holds; empty where it is not set.
std::string text_of(const char* variable);

// A library that somebody has named in the variable is the one, or none is.
std::vector<std::string> library_names(const char* variable, std::initializer_list<const char*> otherwise);

// The Api of the first place where it can be had, once for the process; nullptr with all the reasons, and the next call tries again. `open`: (place, why) -> std::unique_ptr<Api>.
template <class Api, class Places, class Open>
const Api* load_once(const Places& places, const Open& open, std::string& reasons) {
  static std::mutex mutex;
  static const Api* loaded = nullptr;
  std::lock_guard lock(mutex);
  if (loaded != nullptr) return loaded;
  reasons.clear();
  for (const auto& place : places()) {
    std::string why;
    std::unique_ptr<Api> api = open(place, why);
    if (api != nullptr) return loaded = api.release();
    reasons.append(reasons.empty() ? "" : "; ").append(why);
  }
  return nullptr;
}

}  // namespace hicache
