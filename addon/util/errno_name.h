// Names of errno values. glibc's own strerrorname_np() would tie the prebuilt binary to glibc 2.32.
#pragma once

#include <string>

namespace hicache {

// "ENOSPC" for ENOSPC; "E<number>" for one that is not in the table.
std::string errno_name(int error);
// 0 when the name is not known.
int errno_of(const std::string& name);

}  // namespace hicache
