// Numbers in records on disk: little-endian, whatever this machine is, at any address.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hicache::little_endian {

template <typename Number>
void put(uint8_t* record, size_t offset, Number value) {
  for (size_t i = 0; i < sizeof(Number); i++) record[offset + i] = static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8 * i));
}
template <typename Number>
Number take(const uint8_t* record, size_t offset) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(Number); i++) value |= static_cast<uint64_t>(record[offset + i]) << (8 * i);
  return static_cast<Number>(value);
}

}  // namespace hicache::little_endian
