// CRC-64/NVME: the polynomial of the NVMe specification, reflected, initial value and final xor all ones.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hicache {

// Continues from `seed`, the CRC of what came before (0 = of nothing).
uint64_t crc64(const void* data, size_t bytes, uint64_t seed = 0);

// What crc64() runs on here: "vpclmulqdq", "pclmulqdq" or "table".
const char* crc64_kernel();

namespace crc64_kernels {
// The register is the plain CRC register: crc64(data, n, seed) == ~kernel(~seed, data, n). For the test program.
using Kernel = uint64_t (*)(uint64_t crc, const uint8_t* data, size_t bytes);
struct Named {
  const char* name;
  Kernel kernel;
};
// Those that this processor can run, fastest first; ends with one whose name is nullptr.
const Named* usable();
}  // namespace crc64_kernels

}  // namespace hicache
