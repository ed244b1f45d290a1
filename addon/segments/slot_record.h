// What says which page lies in an extent ("slot") of a segment: 512 bytes at a fixed place of the segment's index file, rewritten in place. One sector, so that it
// is never torn by itself; its own checksum, so that anything else that happens to it shows. Little-endian.
//
//    0 u32 magic 'HCST'      16 u64 writtenAt, us since 1970   48 u32 segment     64 namespace digest (16)    504 u64 CRC of bytes 0..503
//    4 u8  version = 1       24 u64 offset in the data file    52 u32 slot        80 scope (16)
//    5 u8  state             32 u64 payload length             56 u16 metaLength  96 key, then meta
//    6 u16 keyLength         40 u64 payload CRC                58 zeros
//    8 u64 generation of the slot
#pragma once

#include <cstddef>
#include <cstdint>

#include "util/crc64.h"
#include "util/little_endian.h"

namespace hicache::slot_record {

inline constexpr size_t bytes = 512;
inline constexpr uint32_t magic = 0x54534348;
inline constexpr uint8_t version = 1;
// An index file: a header of one block, then the records in the order of the slots.
inline constexpr size_t index_header_bytes = 4096;
inline constexpr uint64_t place_of(uint64_t slot) { return index_header_bytes + slot * bytes; }

namespace state {
inline constexpr uint8_t page = 1, evicted = 2;
}

namespace at {
inline constexpr size_t magic = 0, version = 4, state = 5, key_length = 6, generation = 8, written_at = 16, file_offset = 24, length = 32, payload_crc = 40, segment = 48,
                        slot = 52, meta_length = 56, name_space = 64, scope = 80, key = 96, crc = 504;
}
inline constexpr size_t digest_bytes = 16, key_bytes_max = 255, meta_bytes_max = 136;
static_assert(at::key + key_bytes_max + meta_bytes_max <= at::crc);

// The part that a reader of another writer's page knows, and compares: generation to payload CRC, and where it is.
inline constexpr size_t expected_from = at::generation, expected_bytes = at::meta_length - at::generation;
static_assert(expected_bytes == 48);

// Its numbers.
using little_endian::put;
using little_endian::take;

// Fills in the record's own checksum: the last thing done to it.
inline void seal(uint8_t* record) { put<uint64_t>(record, at::crc, crc64(record, at::crc)); }

// A record of this version, whole, of a state that is known, whose parts fit. (A slot never used is all zeros: not valid.)
inline bool valid(const uint8_t* record) {
  if (take<uint32_t>(record, at::magic) != magic || record[at::version] != version) return false;
  if (record[at::state] != state::page && record[at::state] != state::evicted) return false;
  if (take<uint16_t>(record, at::key_length) > key_bytes_max || take<uint16_t>(record, at::meta_length) > meta_bytes_max) return false;
  return take<uint64_t>(record, at::crc) == crc64(record, at::crc);
}

}  // namespace hicache::slot_record
