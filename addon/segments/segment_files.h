// The files of a writer's folder: what is there, what of it holds, and what an end at any moment has left. Throws segments::Failure.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "segments/segment_reader.h"

namespace hicache::segments {

struct FolderFiles {
  std::set<uint32_t> data, index;
  std::vector<std::string> preparing;
  bool any_segment() const { return !data.empty() || !index.empty(); }
};
FolderFiles files_of(int folder, const std::string& name);

// What cannot be removed stays: somebody looks again at the next open.
void remove_file(int folder, const std::string& folder_name, const std::string& file);

// Both answer what file_io answers: less than 0 is an error.
int64_t write_zeros(int fd, uint64_t from, uint64_t to, const char* name);
int64_t write_header(int fd, const IndexHeader& header, const char* name);

// Removes what an end at any moment has left in a folder whose owner we are. Answers its segments, those that are left alone too.
std::set<uint32_t> tidy(int folder, const std::string& name, bool* left_alone = nullptr);

}  // namespace hicache::segments
