#include "plugins/posix/page_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>
#include <string_view>

#include "pool/page_store.h"
#include "util/unique_fd.h"

namespace hicache {
namespace {

constexpr size_t hash_characters = 64;
// Entries of the directory itself that are looked at: in a directory of pages the first few are pages.
constexpr unsigned entries_max = 4096;
// Files that are opened to see whether they end in a record block.
constexpr unsigned opened_max = 64;

bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }
bool is_bucket(std::string_view name) { return name.size() == 2 && is_hex(name[0]) && is_hex(name[1]); }

// As HiCache names pages: a hash of 64 hex characters, then the suffix of model and ranks.
bool is_page_name(std::string_view name) {
  if (name.size() <= hash_characters || name[hash_characters] != '_') return false;
  for (size_t i = 0; i < hash_characters; i++) {
    if (!is_hex(name[i])) return false;
  }
  return true;
}

bool is_regular(int folder, const dirent& entry) {
  if (entry.d_type != DT_UNKNOWN) return entry.d_type == DT_REG;
  struct stat status;
  return ::fstatat(folder, entry.d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode);
}

bool ends_in_record(int folder, const char* name) {
  // Non-blocking: it may have become a pipe since it was listed.
  const UniqueFd fd(::openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status;
  if (!fd || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) return false;
  if (status.st_size < static_cast<off_t>(record_bytes) || status.st_size % static_cast<off_t>(record_bytes) != 0) return false;
  char start[8];
  return ::pread(fd.get(), start, sizeof(start), status.st_size - static_cast<off_t>(record_bytes)) == sizeof(start) &&
         std::memcmp(start, "HCNXPAGE", sizeof(start)) == 0;
}

// Calls `found` with the entries of a folder until it says true. Was there one?
bool any_entry(int parent, const char* name, const std::function<bool(int folder, const dirent&)>& found) {
  // Opened anew: a duplicate would share its position with the caller's descriptor.
  UniqueFd fd(::openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return false;
  DIR* const stream = ::fdopendir(fd.get());
  if (stream == nullptr) return false;
  const int folder = fd.release();
  bool any = false;
  while (const dirent* const entry = any ? nullptr : ::readdir(stream)) {
    const std::string_view base(entry->d_name);
    if (base != "." && base != ".." && base.substr(0, own_prefix.size()) != own_prefix) any = found(folder, *entry);
  }
  ::closedir(stream);
  return any;
}

}  // namespace

bool holds_page_files(int directory) {
  unsigned looked_at = 0, opened = 0;
  bool page = false;
  any_entry(directory, ".", [&](int folder, const dirent& entry) {
    const std::string_view name(entry.d_name);
    if (is_bucket(name)) {
      page = any_entry(folder, entry.d_name, is_regular);
    } else if (is_regular(folder, entry)) {
      page = is_page_name(name) || (opened++ < opened_max && ends_in_record(folder, entry.d_name));
    }
    return page || ++looked_at >= entries_max;
  });
  return page;
}

}  // namespace hicache
