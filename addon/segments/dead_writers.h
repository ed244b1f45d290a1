// Folders of writers that have died: whose they were, and how their segments become ours. Call it with the directory's lock. Throws segments::Failure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "segments/store_folder.h"

namespace hicache::segments {

struct Dead {
  std::string name;
  UniqueFd folder, owner;
};

// Folders of writers of this machine that are certainly dead, locked by us.
std::vector<Dead> take_dead(const Store& store, const std::string& except);

// A dead writer's segments become ours. The data first: an index that can be seen has its data beside it. In between, and after an end there, a segment is in two folders by halves, of
// which nobody makes a page; the next who owns a folder removes them.
std::vector<uint32_t> merge(const Store& store, Dead& dead, int own_folder, const std::string& own_name);

// The last thing of a folder is its owner's file: as long as it is there, who has its lock is the owner.
bool remove_writer_folder(const Store& store, int folder, const std::string& folder_name);

}  // namespace hicache::segments
