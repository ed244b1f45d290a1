// CRC-64/NVME against a bit-by-bit reference: every kernel, every short length, every alignment, and seeds that split anywhere.
#include "util/crc64.h"

#include <cstdio>
#include <random>
#include <vector>

#include "test/check.h"

using namespace hicache;

static uint64_t reference(const uint8_t* data, size_t bytes, uint64_t seed) {
  uint64_t crc = ~seed;
  for (size_t i = 0; i < bytes; i++) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? 0x9a6c9329ac4bc9b5 : 0);
  }
  return ~crc;
}

int main() {
  CHECK(crc64("123456789", 9) == 0xae8b14860a799888);
  CHECK(crc64("", 0) == 0);
  std::mt19937_64 random(7);
  std::vector<uint8_t> data(5000 + 64);
  for (auto& byte : data) byte = static_cast<uint8_t>(random());

  for (auto* named = crc64_kernels::usable(); named->name != nullptr; named++) {
    // A heap block of the exact size, so that the sanitizer sees a read past either end.
    for (size_t length = 0; length <= 1100; length++) {
      std::vector<uint8_t> exact(data.begin(), data.begin() + static_cast<long>(length));
      const uint64_t seed = random();
      CHECK(~named->kernel(~seed, exact.data(), length) == reference(exact.data(), length, seed));
    }
    for (size_t offset = 0; offset < 64; offset++) {
      for (size_t length : {1u, 31u, 255u, 256u, 257u, 511u, 512u, 777u, 4096u, 4999u}) {
        CHECK(~named->kernel(~uint64_t{0}, data.data() + offset, length) == reference(data.data() + offset, length, 0));
      }
    }
    std::printf("crc64 %s: ok\n", named->name);
  }
  for (size_t split = 0; split <= 3000; split += 37) {
    CHECK(crc64(data.data() + split, 3000 - split, crc64(data.data(), split)) == crc64(data.data(), 3000));
  }
  return 0;
}
