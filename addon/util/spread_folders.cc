#include "util/spread_folders.h"

#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

namespace hicache {

bool spread_folders(int directory) {
  struct statfs fs;
  if (::fstatfs(directory, &fs) != 0 || static_cast<unsigned long>(fs.f_type) != EXT4_SUPER_MAGIC) return false;
  int flags = 0;
  if (::ioctl(directory, FS_IOC_GETFLAGS, &flags) != 0) return false;
  if ((flags & FS_TOPDIR_FL) != 0) return true;
  flags |= FS_TOPDIR_FL;
  return ::ioctl(directory, FS_IOC_SETFLAGS, &flags) == 0;
}

}  // namespace hicache
