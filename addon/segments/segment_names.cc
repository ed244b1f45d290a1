#include "segments/segment_names.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <ctime>

#include "util/crc64.h"
#include "util/unique_fd.h"

namespace hicache::segments {
namespace {

constexpr char digits_of[] = "0123456789abcdef";

bool is_hex(std::string_view text) {
  return text.find_first_not_of(digits_of) == std::string_view::npos;
}

// The first line of a small file, "" when it is not to be had.
std::string first_line(const char* path) {
  const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  char text[256];
  const ssize_t length = fd ? ::read(fd.get(), text, sizeof(text)) : -1;
  if (length <= 0) return "";
  const std::string_view whole(text, static_cast<size_t>(length));
  return std::string(whole.substr(0, whole.find('\n')));
}

std::string digest_of(const std::string& text) { return hex(crc64(text.data(), text.size()), 16); }

uint64_t random_word() {
  uint64_t word;
  if (::getrandom(&word, sizeof(word), 0) == sizeof(word)) return word;
  // Without entropy a name is only unlikely; whoever makes a file by it finds out that it is taken.
  static std::atomic<uint64_t> counter{0};
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  const uint64_t words[4] = {counter++, static_cast<uint64_t>(::getpid()), static_cast<uint64_t>(now.tv_sec), static_cast<uint64_t>(now.tv_nsec)};
  return crc64(words, sizeof(words));
}

}  // namespace

const Host& this_host() {
  static const Host* const host = [] {
    std::string machine = first_line("/etc/machine-id");
    if (machine.empty()) {
      char name[256] = {};
      machine = ::gethostname(name, sizeof(name) - 1) == 0 ? std::string("host ") + name : "host";
    }
    return new Host{digest_of(machine), digest_of(first_line("/proc/sys/kernel/random/boot_id"))};
  }();
  return *host;
}

std::string hex(uint64_t value, int digits) {
  std::string text(static_cast<size_t>(digits), '0');
  for (size_t at = text.size(); at > 0; value >>= 4) text[--at] = digits_of[value & 15];
  return text;
}

uint32_t random_id() {
  while (true) {
    const auto id = static_cast<uint32_t>(random_word());
    if (id != 0 && id != UINT32_MAX) return id;
  }
}

std::string new_folder_name(const Host& host) { return host.machine + "-" + host.boot + "-" + hex(random_word(), 16); }

bool valid_folder_name(std::string_view name) {
  return name.size() == 50 && name[16] == '-' && name[33] == '-' && is_hex(name.substr(0, 16)) && is_hex(name.substr(17, 16)) && is_hex(name.substr(34));
}

FileKind file_kind(std::string_view name, uint32_t& id) {
  if (name.size() < 8 || !is_hex(name.substr(0, 8))) return FileKind::none;
  const std::string_view rest = name.substr(8);
  const FileKind kind = rest == ".data"                              ? FileKind::data
                        : rest == ".index"                           ? FileKind::index
                        : rest == ".new" || rest == ".index.new"     ? FileKind::preparing
                                                                     : FileKind::none;
  if (kind == FileKind::none) return kind;
  id = 0;
  for (const char digit : name.substr(0, 8)) id = id << 4 | static_cast<uint32_t>(digit <= '9' ? digit - '0' : digit - 'a' + 10);
  return kind;
}

}  // namespace hicache::segments
