#include "plugins/posix/probe.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <system_error>

#include "plugins/posix/page_files.h"
#include "pool/page_store.h"
#include "util/aligned_buffer.h"
#include "util/errno_name.h"
#include "util/spread_folders.h"

namespace hicache {
namespace {

struct Magic {
  unsigned long type;
  const char* name;
};
// statfs(2); the kernel promises that these numbers stay.
constexpr Magic magics[] = {
    {0xEF53, "ext4"},         {0x58465342, "xfs"},      {0x9123683E, "btrfs"},  {0x01021994, "tmpfs"},   {0x858458F6, "ramfs"},
    {0x65735546, "fuse"},     {0x6969, "nfs"},          {0xFF534D42, "cifs"},   {0xFE534D42, "smb2"},    {0x01021997, "9p"},
    {0x794C7630, "overlay"},  {0xF2F52010, "f2fs"},     {0x2FC12FC1, "zfs"},    {0x00C36400, "ceph"},    {0x0BD00BD0, "lustre"},
    {0x47504653, "gpfs"},     {0x61756673, "aufs"},     {0x52654973, "reiserfs"}, {0x3153464A, "jfs"},   {0x4D44, "msdos"},
    {0x2011BAB0, "exfat"},    {0x5346544E, "ntfs"},     {0x73717368, "squashfs"}, {0x9660, "iso9660"},   {0x564C, "ncp"},
    {0x19830326, "fhgfs"},    {0x5DCA2DF5, "sdcardfs"}, {0xCA451A4E, "bcachefs"}, {0x6A656A63, "virtiofs"}, {0x9FA0, "proc"},
};

std::string unescaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>(std::strtol(text.substr(i + 1, 3).c_str(), nullptr, 8));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

// "fuse.sshfs" says more than statfs's "fuse", and ext2 to ext4 share a number there: the mount table knows. The longest mount point above the path, and of those the last one.
std::string mounted_type(const std::string& real_path) {
  std::ifstream mounts("/proc/self/mountinfo");
  std::string line, best_type;
  size_t best_length = 0;
  while (std::getline(mounts, line)) {
    std::istringstream fields(line);
    std::string id, parent, device, root, point, field, type;
    fields >> id >> parent >> device >> root >> point;
    while (fields >> field && field != "-") {
    }
    if (!(fields >> type)) continue;
    point = unescaped(point);
    const bool above = point == "/" || real_path == point || (real_path.size() > point.size() && real_path.compare(0, point.size(), point) == 0 && real_path[point.size()] == '/');
    if (above && point.size() >= best_length) {
      best_length = point.size();
      best_type = type;
    }
  }
  return best_type;
}

std::string name_of(const std::string& real_path, unsigned long type) {
  std::string by_number;
  for (const Magic& magic : magics) {
    if (magic.type == (type & 0xFFFFFFFF)) by_number = magic.name;
  }
  const std::string by_mount = mounted_type(real_path);
  // The table may be hidden or out of date: it refines what statfs says and does not overrule it.
  const std::string family = by_number == "ext4" ? "ext" : by_number;
  if (!by_mount.empty() && by_mount.compare(0, family.size(), family) == 0) return by_mount;
  if (!by_number.empty()) return by_number;
  char hex[20];
  std::snprintf(hex, sizeof(hex), "0x%lx", type);
  return hex;
}

bool begins(const std::string& text, const char* with) { return text.compare(0, std::strlen(with), with) == 0; }

std::string said(const char* what, int error) { return std::string(what) + ": " + errno_name(error) + " (" + std::generic_category().message(error) + ")"; }

// One block, through O_DIRECT, there and back. Empty, or why not.
std::string try_direct(int folder, const std::string& name) {
  const UniqueFd fd(::openat(folder, name.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return said("opening a file with O_DIRECT", errno);
  const AlignedBuffer out(block_bytes), in(block_bytes);
  for (size_t i = 0; i < block_bytes; i++) out.data()[i] = static_cast<uint8_t>(i * 7 + 1);
  std::memset(in.data(), 0, block_bytes);
  ssize_t moved = ::pwrite(fd.get(), out.data(), block_bytes, 0);
  if (moved < 0) return said("writing 4096 bytes with O_DIRECT", errno);
  if (moved != static_cast<ssize_t>(block_bytes)) return "writing 4096 bytes with O_DIRECT wrote only " + std::to_string(moved);
  moved = ::pread(fd.get(), in.data(), block_bytes, 0);
  if (moved < 0) return said("reading 4096 bytes with O_DIRECT", errno);
  if (moved != static_cast<ssize_t>(block_bytes) || std::memcmp(in.data(), out.data(), block_bytes) != 0) return "reading with O_DIRECT did not give back what was written";
  return {};
}

bool try_tmpfile(int folder, const std::string& name) {
  const UniqueFd fd(::openat(folder, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
  if (!fd) return false;
  char from[32];
  std::snprintf(from, sizeof(from), "/proc/self/fd/%d", fd.get());
  if (::linkat(AT_FDCWD, from, folder, name.c_str(), AT_SYMLINK_FOLLOW) != 0) return false;
  ::unlinkat(folder, name.c_str(), 0);
  return true;
}

std::string probe_name() {
  uint64_t random[2] = {};
  if (::getrandom(random, sizeof(random), 0) != sizeof(random)) random[0] = static_cast<uint64_t>(::getpid());
  char name[64];
  std::snprintf(name, sizeof(name), "%s%016llx%016llx", std::string(temporary_prefix).c_str(), static_cast<unsigned long long>(random[0]),
                static_cast<unsigned long long>(random[1]));
  return name;
}

}  // namespace

int probe_directory(const std::string& path, DirectoryReport& report, std::string& failed_call) {
  const auto fails = [&](const char* call) {
    failed_call = call;
    return errno;
  };
  report.path = path;
  char* const real = ::realpath(path.c_str(), nullptr);
  if (real == nullptr) return fails("realpath");
  report.real_path = real;
  std::free(real);
  const UniqueFd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return fails("open");
  struct stat status;
  if (::fstat(folder.get(), &status) != 0) return fails("fstat");
  report.owner_uid = status.st_uid;
  report.mode = status.st_mode & 07777;
  struct statfs fs;
  if (::fstatfs(folder.get(), &fs) != 0) return fails("fstatfs");
  const auto unit = static_cast<uint64_t>(fs.f_frsize > 0 ? fs.f_frsize : fs.f_bsize);
  report.free_bytes = static_cast<uint64_t>(fs.f_bavail) * unit;
  report.total_bytes = static_cast<uint64_t>(fs.f_blocks) * unit;
  report.file_system = name_of(report.real_path, static_cast<unsigned long>(fs.f_type));
  report.page_files = holds_page_files(folder.get());
  spread_folders(folder.get());

  const std::string name = probe_name();
  UniqueFd file(::openat(folder.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) {
    report.direct_reason = report.engine_reason = said("creating a file there", errno);
    return 0;
  }
  // Locked like every temporary, so that nobody's sweep takes it for a leftover.
  ::flock(file.get(), LOCK_EX | LOCK_NB);
  const uint8_t byte = 1;
  report.writable = ::pwrite(file.get(), &byte, 1, 0) == 1;
  const std::string write_refusal = report.writable ? "" : said("writing one byte there", errno);

  const std::string& type = report.file_system;
  const bool in_memory = type == "tmpfs" || type == "ramfs" || type == "hugetlbfs";
  if (in_memory) {
    report.direct_reason = type + " is memory: there is no page cache to bypass";
  } else if (!report.writable) {
    report.direct_reason = write_refusal;
  } else {
    report.direct_reason = try_direct(folder.get(), name);
    report.direct = report.direct_reason.empty();
  }
  report.tmpfile = try_tmpfile(folder.get(), name + "t");
  ::unlinkat(folder.get(), name.c_str(), 0);

  const char* const remote[] = {"fuse", "nfs", "cifs", "smb", "9p", "ceph", "lustre", "gpfs", "afs", "virtiofs", "fhgfs", "beegfs", "glusterfs", "ncp"};
  const bool may_hang = std::any_of(std::begin(remote), std::end(remote), [&](const char* one) { return begins(type, one); });
  if (in_memory) {
    report.engine_reason = type + ": plain pread and pwrite on threads beat every engine in memory";
  } else if (may_hang) {
    report.engine_reason = type + " may block whoever submits to it: threads of its own carry the risk";
  } else if (!report.direct) {
    report.engine_reason = "without O_DIRECT the engines hand every request to kernel threads";
  } else {
    report.engine = true;
  }
  return 0;
}

int make_directory(const std::string& path, MadeDirectory& made, std::string& failed_call) {
  const auto fails = [&](const char* call) {
    failed_call = call;
    return errno;
  };
  for (size_t end = 1; end != std::string::npos;) {
    end = path.find('/', end + 1);
    // What is there is nobody's failure: not a directory, a file system that cannot be written. Whether it will do shows below.
    const std::string part = path.substr(0, end);
    struct stat there;
    if (::stat(part.c_str(), &there) == 0) continue;
    if (errno != ENOENT) return fails("stat");
    if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) return fails("mkdir");
  }
  struct stat own, target;
  if (::lstat(path.c_str(), &own) != 0) return fails("lstat");
  if (::stat(path.c_str(), &target) != 0) return fails("stat");
  made.directory = S_ISDIR(target.st_mode);
  made.owner_uid = target.st_uid;
  made.link_uid = own.st_uid;
  char* const real = ::realpath(path.c_str(), nullptr);
  if (real == nullptr) return fails("realpath");
  made.real_path = real;
  std::free(real);
  return 0;
}

}  // namespace hicache
