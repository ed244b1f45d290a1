#include "segments/store_folder.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <thread>

#include "segments/segment_names.h"

namespace hicache::segments {
namespace {

using std::chrono::milliseconds;

constexpr std::string_view format_prefix = "hicache-nixl segments ";
constexpr std::string_view format_text = "hicache-nixl segments 1\n";

}  // namespace

std::string folder_path(const std::string& directory, const std::string& folder) {
  std::string path;
  for (const char c : directory + "/" + store_folder + "/" + folder) {
    if (c != '/' || path.empty() || path.back() != '/') path += c;
  }
  return path;
}

Store open_store(const std::string& directory, bool create) {
  const UniqueFd root(must(open_directory(directory), "opening " + directory));
  Store store{UniqueFd(), store_folder};
  int fd = open_folder(root.get(), store_folder, store.name.c_str());
  if (fd == -ENOENT && create) {
    const int made = file_io::mkdir_at(root.get(), store_folder, store.name.c_str());
    if (made < 0 && made != -EEXIST) throw Failure{-made, "making " + store.name};
    if (made == 0) must(sync(root.get(), false, store.name.c_str()), "fsync of " + directory);
    fd = open_folder(root.get(), store_folder, store.name.c_str());
  }
  if (fd == -ENOENT && !create) return store;
  store.fd = UniqueFd(must(fd, "opening " + store.name));
  return store;
}

UniqueFd open_below(const Store& store, const std::string& folder) {
  return UniqueFd(must(open_folder(store.fd.get(), folder.c_str(), store.named(folder).c_str()), "opening " + store.named(folder)));
}

bool check_format(const Store& store) {
  const std::string name = store.named(format_file);
  const int opened = open_file(store.fd.get(), format_file, O_RDONLY, name.c_str());
  if (opened == -ENOENT) return false;
  const UniqueFd fd(must(opened, "opening " + name));
  char text[64];
  const iovec iov{text, sizeof(text)};
  const auto length = static_cast<size_t>(must(file_io::read_all(opened, &iov, 1, 0, false, name.c_str()), "reading " + name));
  const std::string_view content(text, length);
  if (content == format_text) return true;
  if (content.substr(0, format_prefix.size()) == format_prefix) {
    const std::string_view number = content.substr(format_prefix.size());
    const size_t digits = std::min(number.find_first_not_of("0123456789"), number.size());
    if (digits > 0 && number.substr(0, digits) != "1" && number.substr(0, digits) != "0") {
      throw Failure{EPROTONOSUPPORT, name + " is of version " + std::string(number.substr(0, digits)) + ", newer than this program's 1; nothing was touched"};
    }
    if (digits > 0 && number.substr(0, digits) == "1") return true;
  }
  if (content.find_first_not_of('\0') == std::string_view::npos || content == format_text.substr(0, length)) return false;
  throw Failure{EBADMSG, name + " says no version (\"hicache-nixl segments 1\" is expected); if the folder is a store of ours, remove the file"};
}

void write_format(const Store& store) {
  const std::string temporary = std::string(format_file) + ".new", name = store.named(temporary);
  const UniqueFd fd(must(open_file(store.fd.get(), temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC, name.c_str()), "making " + name));
  const iovec iov{const_cast<char*>(format_text.data()), format_text.size()};
  must(file_io::write_all(fd.get(), &iov, 1, 0, false, name.c_str()), "writing " + name);
  must(sync(fd.get(), false, name.c_str()), "fsync of " + name);
  must(file_io::rename_at(store.fd.get(), temporary.c_str(), store.fd.get(), format_file, name.c_str()), "renaming " + name);
}

DirectoryLock::DirectoryLock(const Store& store, std::chrono::milliseconds wait) {
  const std::string name = store.named(lock_file);
  fd_ = UniqueFd(must(open_file(store.fd.get(), lock_file, O_RDWR | O_CREAT, name.c_str()), "opening " + name));
  const auto until = std::chrono::steady_clock::now() + wait;
  for (auto pause = milliseconds(1);; pause = std::min(pause * 2, milliseconds(20))) {
    const int result = try_lock(fd_.get(), false, name.c_str());
    if (result == 0) return;
    if (result != -EWOULDBLOCK) throw Failure{-result, "locking " + name};
    if (std::chrono::steady_clock::now() >= until) throw Failure{EBUSY, name + " was held by others all the time"};
    std::this_thread::sleep_for(pause);
  }
}

std::vector<std::string> folders_of(const Store& store) {
  std::vector<std::string> names;
  if (!store.fd) return names;
  must(list(store.fd.get(), names, store.name.c_str()), "listing " + store.name);
  std::erase_if(names, [](const std::string& name) { return !valid_folder_name(name); });
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace hicache::segments
