// The numbers that C++ and TypeScript share; lib/transfer/protocol.ts explains them. A spec compares both.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hicache {

enum class Op : uint8_t { page_write = 1, page_read, page_check, page_delete, page_touch, extent_read, extent_write, segment_write, segment_read, tombstones };

namespace flag {
inline constexpr uint32_t accept_unverified = 1, replace = 2, skip_checksum = 4, force = 8, drop_corrupt = 16, compare_first = 32, foreign = 64, sync = 128;
inline constexpr uint32_t all = 255;
}

enum class Status : uint8_t { ok, already_there, absent, corrupt, identity, length, unverified, cancelled, error, stale, unavailable, refused };

namespace field {
enum : size_t {
  op, flags, directory, name_offset, name_length, region, memory_offset, length, file_offset,
  record_offset, identity_length, meta_length, word, word_queued, record_at, stride
};
}
namespace result_field {
enum : size_t { status, error, length, microseconds, stride };
}

namespace word_state {
inline constexpr int32_t free = 0, queued = 1, started = 2, done = 3, cancelled = 4, cancelling = 5;
inline constexpr int bits = 3, mask = 7;
}

// A slot whose page is gone: u32 segment, u32 slot, u64 generation, u64 writtenAt; little-endian.
inline constexpr size_t tombstone_bytes = 24, tombstones_max = 4096;
inline constexpr size_t meta_bytes_max = 160, identity_bytes_max = 320, block_bytes = 4096;

}  // namespace hicache
