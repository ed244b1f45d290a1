// The last 4096 bytes of a page file: what the payload is, and whose.
//
//   0  "HCNXPAGE"          24  payload CRC, seeded with the CRC of the identity     4088  CRC of bytes 0..4087
//   8  version (u32) = 1   32  identity length (u16)
//  12  flags (u32) = 0     34  meta length (u16)
//  16  payload length      64  identity, then meta                                  all little-endian
//
// The payload's CRC is seeded with the identity's, so that no payload ever passes under another identity.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "agent/protocol.h"

namespace hicache {

inline constexpr size_t record_bytes = block_bytes;
inline constexpr size_t record_meta_max = 3000;

struct Record {
  uint64_t payload_length = 0;
  uint64_t payload_crc = 0;
  std::string_view identity;  // into the block
  std::string_view meta;
};

enum class RecordState : uint8_t {
  none,     // no record: a file of another writer
  whole,
  damaged,  // ours by its magic, but its checksum or its numbers do not hold
  newer,    // of a later version: not ours to judge, touch or replace
};

void encode_record(uint8_t* block, const Record&);
RecordState decode_record(const uint8_t* block, Record&);

uint64_t payload_crc(std::string_view identity, const void* payload, size_t bytes);

// Bytes of the whole file of a page.
inline constexpr uint64_t page_file_bytes(uint64_t payload_length) {
  return (payload_length + block_bytes - 1) / block_bytes * block_bytes + record_bytes;
}

}  // namespace hicache
