// SHA-256 and HMAC-SHA-256, for signatures of requests. The processor's own instructions where it has them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace hicache {

using Sha256Digest = std::array<uint8_t, 32>;

class Sha256 {
 public:
  Sha256();
  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  Sha256Digest finish();

  static Sha256Digest of(const void* data, size_t bytes) {
    Sha256 hash;
    hash.update(data, bytes);
    return hash.finish();
  }
  static Sha256Digest of(std::string_view text) { return of(text.data(), text.size()); }

 private:
  uint32_t state_[8];
  uint8_t block_[64];
  size_t held_ = 0;
  uint64_t bytes_ = 0;
};

Sha256Digest hmac_sha256(std::string_view key, std::string_view text);
std::string hex_of(const void* data, size_t bytes);
inline std::string hex_of(const Sha256Digest& digest) { return hex_of(digest.data(), digest.size()); }

namespace sha256_kernels {
// Takes whole blocks of 64 bytes into the state. For the test program.
using Kernel = void (*)(uint32_t* state, const uint8_t* data, size_t blocks);
struct Named {
  const char* name;
  Kernel kernel;
};
// Those that this processor can run, fastest first; ends with one whose name is nullptr.
const Named* usable();
}  // namespace sha256_kernels

}  // namespace hicache
