// The systems that move bytes beside the kernel: 3FS, NIXL's own library, cuFile.
#pragma once

#include "napi/support_napi.h"
#include "plugins/nixl/nixl_objects.h"
#include "plugins/posix/posix_plugin.h"

namespace hicache {

// `dataPath` and `devicePath` of an agent's options. False, with an exception pending, when they are wrong.
bool data_paths_of(Napi::Object options, PosixOptions& out);
// `nixl` of an agent's options, whose pages are objects that NIXL moves. The same.
bool nixl_objects_of(Napi::Object options, nixl::ObjectsOptions& out);

}  // namespace hicache
