#include "pool/record.h"

#include <cassert>
#include <cstring>

#include "util/crc64.h"
#include "util/little_endian.h"

namespace hicache {
namespace {

using little_endian::put;
using little_endian::take;

constexpr char magic[8] = {'H', 'C', 'N', 'X', 'P', 'A', 'G', 'E'};
constexpr uint32_t version = 1;
constexpr size_t identity_offset = 64, crc_offset = record_bytes - 8;
static_assert(identity_offset + identity_bytes_max + record_meta_max <= crc_offset);

}  // namespace

void encode_record(uint8_t* block, const Record& record) {
  assert(record.identity.size() <= identity_bytes_max && record.meta.size() <= record_meta_max);
  std::memset(block, 0, record_bytes);
  std::memcpy(block, magic, sizeof(magic));
  put<uint32_t>(block, 8, version);
  put<uint64_t>(block, 16, record.payload_length);
  put<uint64_t>(block, 24, record.payload_crc);
  put<uint16_t>(block, 32, static_cast<uint16_t>(record.identity.size()));
  put<uint16_t>(block, 34, static_cast<uint16_t>(record.meta.size()));
  if (!record.identity.empty()) std::memcpy(block + identity_offset, record.identity.data(), record.identity.size());
  if (!record.meta.empty()) std::memcpy(block + identity_offset + record.identity.size(), record.meta.data(), record.meta.size());
  put<uint64_t>(block, crc_offset, crc64(block, crc_offset));
}

RecordState decode_record(const uint8_t* block, Record& record) {
  if (std::memcmp(block, magic, sizeof(magic)) != 0) return RecordState::none;
  // The version comes before the checksum: a later format may keep its checksum elsewhere.
  if (take<uint32_t>(block, 8) > version) return RecordState::newer;
  if (take<uint32_t>(block, 8) != version || take<uint64_t>(block, crc_offset) != crc64(block, crc_offset)) return RecordState::damaged;
  const size_t identity_length = take<uint16_t>(block, 32), meta_length = take<uint16_t>(block, 34);
  if (identity_length > identity_bytes_max || meta_length > record_meta_max) return RecordState::damaged;
  const auto* text = reinterpret_cast<const char*>(block + identity_offset);
  record.payload_length = take<uint64_t>(block, 16);
  record.payload_crc = take<uint64_t>(block, 24);
  record.identity = {text, identity_length};
  record.meta = {text + identity_length, meta_length};
  return RecordState::whole;
}

uint64_t payload_crc(std::string_view identity, const void* payload, size_t bytes) {
  return crc64(payload, bytes, crc64(identity.data(), identity.size()));
}

}  // namespace hicache
