// Space for the segments of a writer of ours: granted, given another extent size, given back. Everything here blocks, and throws segments::Failure.
#pragma once

#include <cstdint>
#include <string>

namespace hicache::segments {

struct GrantOptions {
  uint64_t data_bytes = 0;
  uint32_t extent_bytes = 0;
  uint64_t capacity = 0, keep_free_bytes = 0;
  bool direct = false;
  bool prefill = true;  // the data are written once, with zeros
};
struct Granted {
  uint32_t id = 0;
  const char* refused = "";
  uint64_t data_bytes = 0;
  uint32_t slots = 0;
  uint64_t used_bytes = 0, free_bytes = 0;
};
Granted grant(const std::string& directory, const std::string& folder, const GrantOptions& options);

struct Reassigned {
  uint32_t slots = 0;
  uint64_t data_bytes = 0;
};
Reassigned reassign(const std::string& directory, const std::string& folder, uint32_t id, uint32_t extent_bytes);
void release(const std::string& directory, const std::string& folder, uint32_t id);

}  // namespace hicache::segments
