#include "util/shared_library.h"

#include <cstdlib>

namespace hicache {

SharedLibrary::SharedLibrary(std::string name, int flags, std::string& why) : name_(std::move(name)), library_(::dlopen(name_.c_str(), flags)) {
  if (library_ != nullptr) return;
  const char* const text = ::dlerror();
  why = text == nullptr ? name_ + " does not load" : text;
}

bool SharedLibrary::complete(std::string& why) const {
  if (missing_.empty()) return true;
  why = name_ + " has no " + missing_;
  return false;
}

std::string SharedLibrary::path_of(void* function) const {
  Dl_info place{};
  return ::dladdr(function, &place) != 0 && place.dli_fname != nullptr ? place.dli_fname : name_;
}

std::string text_of(const char* variable) {
  const char* const value = std::getenv(variable);
  return value == nullptr ? "" : value;
}

std::vector<std::string> library_names(const char* variable, std::initializer_list<const char*> otherwise) {
  const std::string named = text_of(variable);
  return named.empty() ? std::vector<std::string>(otherwise.begin(), otherwise.end()) : std::vector<std::string>{named};
}

}  // namespace hicache
