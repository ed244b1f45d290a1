// The lock of a writer's `owner` file, which tells whether that writer lives.
#pragma once

#include <string>

#include "segments/store_folder.h"

namespace hicache::segments {

// Takes the owner's lock: a descriptor, or -errno when somebody has it, or it is not to be had. Somebody else may hold it for a moment
// only to see whether the owner lives.
int take_owner(const Store& store, const std::string& folder_name, int folder, bool create);
// As it was half a second ago at most: asking takes the lock for a moment, which is not to be done at every look.
bool is_live(const std::string& directory, const Store& store, const std::string& folder_name, int folder);
// A lock that can be had proves the owner dead where locks are the kernel's own. A network file system may have forgotten it, after another machine's or
// its own restart; only within one boot of this machine the kernel itself would know.
bool is_local(const Store& store);

}  // namespace hicache::segments
