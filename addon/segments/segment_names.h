// Names below `segments`: of writers' folders and of their files. Everything else that lies there is not ours.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hicache::segments {

inline constexpr const char* store_folder = "segments";
inline constexpr const char* format_file = "FORMAT";
inline constexpr const char* lock_file = "lock";
inline constexpr const char* owner_file = "owner";
inline constexpr const char* wants_file = "wants";

// This machine (CRC-64 of /etc/machine-id, of the host's name where there is none) and its boot, 16 hex digits each.
struct Host {
  std::string machine, boot;
};
const Host& this_host();

std::string hex(uint64_t value, int digits);
// Never 0 and never all ones, which stand for no segment.
uint32_t random_id();
std::string new_folder_name(const Host& host);

// `<machine>-<boot>-<random>`.
bool valid_folder_name(std::string_view name);
inline std::string_view machine_of(std::string_view folder) { return folder.substr(0, 16); }
inline std::string_view boot_of(std::string_view folder) { return folder.substr(17, 16); }

enum class FileKind : uint8_t { none, data, index, preparing };
// What a file in a writer's folder is by its name; `id` is set unless it is none.
FileKind file_kind(std::string_view name, uint32_t& id);
inline std::string data_name(uint32_t id) { return hex(id, 8) + ".data"; }
inline std::string index_name(uint32_t id) { return hex(id, 8) + ".index"; }
inline std::string new_data_name(uint32_t id) { return hex(id, 8) + ".new"; }
inline std::string new_index_name(uint32_t id) { return hex(id, 8) + ".index.new"; }

}  // namespace hicache::segments
