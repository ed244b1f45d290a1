#include "util/errno_name.h"

#include <cerrno>

namespace hicache {
namespace {

struct Entry {
  int error;
  const char* name;
};
#define ENTRY(name) {name, #name}
constexpr Entry entries[] = {
    ENTRY(EPERM),   ENTRY(ENOENT),     ENTRY(EINTR),        ENTRY(EIO),          ENTRY(ENXIO),        ENTRY(E2BIG),
    ENTRY(EBADF),   ENTRY(EAGAIN),     ENTRY(ENOMEM),       ENTRY(EACCES),       ENTRY(EFAULT),       ENTRY(EBUSY),
    ENTRY(EEXIST),  ENTRY(EXDEV),      ENTRY(ENODEV),       ENTRY(ENOTDIR),      ENTRY(EISDIR),       ENTRY(EINVAL),
    ENTRY(ENFILE),  ENTRY(EMFILE),     ENTRY(ETXTBSY),      ENTRY(EFBIG),        ENTRY(ENOSPC),       ENTRY(ESPIPE),
    ENTRY(EROFS),   ENTRY(EMLINK),     ENTRY(EPIPE),        ENTRY(ERANGE),       ENTRY(EDEADLK),      ENTRY(ENAMETOOLONG),
    ENTRY(ENOLCK),  ENTRY(ENOSYS),     ENTRY(ENOTEMPTY),    ENTRY(ELOOP),        ENTRY(ENODATA),      ENTRY(ETIME),
    ENTRY(EREMOTE), ENTRY(EPROTO),     ENTRY(EBADMSG),      ENTRY(EOVERFLOW),    ENTRY(EOPNOTSUPP),   ENTRY(EPROTONOSUPPORT),
    ENTRY(ESTALE),  ENTRY(EDQUOT),     ENTRY(ECANCELED),    ENTRY(ETIMEDOUT),    ENTRY(ENOBUFS),      ENTRY(EHOSTDOWN),
    ENTRY(ENOTCONN), ENTRY(ECONNABORTED), ENTRY(ECONNREFUSED), ENTRY(EHOSTUNREACH), ENTRY(EALREADY),  ENTRY(EINPROGRESS),
    ENTRY(ENOTBLK), ENTRY(ENOMEDIUM),  ENTRY(EREMOTEIO),    ENTRY(EUCLEAN),      ENTRY(ENOTSUP),
};
#undef ENTRY

}  // namespace

std::string errno_name(int error) {
  for (const Entry& entry : entries) {
    if (entry.error == error) return entry.name;
  }
  return std::string("E").append(std::to_string(error));
}

int errno_of(const std::string& name) {
  for (const Entry& entry : entries) {
    if (name == entry.name) return entry.error;
  }
  return 0;
}

}  // namespace hicache
