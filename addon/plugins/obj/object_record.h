// What an object's metadata say of its page: the value of x-amz-meta-hicache-nixl.
//
//   1.LENGTH.CRC.IDENTITY.META.SEAL
//
// LENGTH: payload bytes, decimal. CRC: CRC-64/NVME of the payload, 16 hex digits. IDENTITY and META: base64url without padding. SEAL: CRC-64/NVME of everything before the last dot,
// 16 hex digits, so that metadata that were altered, or belong to another page, are not believed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hicache {

struct ObjectRecord {
  uint64_t length = 0;
  uint64_t crc = 0;
  std::string identity, meta;
};

enum class ObjectRecordState : uint8_t { none, whole, damaged, newer };

std::string encode_object_record(uint64_t length, uint64_t crc, std::string_view identity, std::string_view meta);
// `none`: the text is empty.
ObjectRecordState decode_object_record(std::string_view text, ObjectRecord& out);

// x-amz-checksum-crc64nvme: base64 of the eight bytes, the highest first.
std::string checksum_header(uint64_t crc);
// False: it is not the checksum of a whole object (of one written in parts it may be another thing, with a dash).
bool checksum_of_header(std::string_view text, uint64_t& crc);

}  // namespace hicache
