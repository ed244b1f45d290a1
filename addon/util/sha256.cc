#include "util/sha256.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace hicache {
namespace {

// FIPS 180-4, 4.2.2.
alignas(16) constexpr uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74,
    0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d,
    0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e,
    0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5,
    0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

uint32_t big_endian(const uint8_t* from) {
  return static_cast<uint32_t>(from[0]) << 24 | static_cast<uint32_t>(from[1]) << 16 | static_cast<uint32_t>(from[2]) << 8 | from[3];
}

uint32_t rotated(uint32_t value, unsigned by) { return value >> by | value << (32 - by); }

void blocks_plain(uint32_t* state, const uint8_t* data, size_t blocks) {
  for (; blocks > 0; blocks--, data += 64) {
    uint32_t words[64];
    for (size_t i = 0; i < 16; i++) words[i] = big_endian(data + 4 * i);
    for (size_t i = 16; i < 64; i++) {
      const uint32_t a = words[i - 15], b = words[i - 2];
      words[i] = words[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + words[i - 7] + (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
    }
    uint32_t s[8];
    std::memcpy(s, state, sizeof(s));
    for (size_t i = 0; i < 64; i++) {
      const uint32_t one = s[7] + (rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + constants[i] + words[i];
      const uint32_t two = (rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s[7] = s[6];
      s[6] = s[5];
      s[5] = s[4];
      s[4] = s[3] + one;
      s[3] = s[2];
      s[2] = s[1];
      s[1] = s[0];
      s[0] = one + two;
    }
    for (size_t i = 0; i < 8; i++) state[i] += s[i];
  }
}

#if defined(__x86_64__)

// The instructions keep the state as ABEF and CDGH, and do two rounds each. Four words of the schedule are a vector; of the last four vectors comes the next.
__attribute__((target("sha,sse4.1,ssse3"))) void blocks_sha_ni(uint32_t* state, const uint8_t* data, size_t blocks) {
  const __m128i bytes_swapped = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i abcd = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state)), 0xb1);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4)), 0x1b);
  __m128i abef = _mm_alignr_epi8(abcd, efgh, 8), cdgh = _mm_blend_epi16(efgh, abcd, 0xf0);
  for (; blocks > 0; blocks--, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i words[4];
    for (int i = 0; i < 4; i++) words[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data + 16 * i)), bytes_swapped);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      const __m128i now = words[i & 3];
      const __m128i sums = _mm_add_epi32(now, _mm_load_si128(reinterpret_cast<const __m128i*>(constants + 4 * i)));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sums);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sums, 0x0e));
      if (i < 12) {
        const __m128i next = words[(i + 1) & 3], last = words[(i + 3) & 3], between = _mm_alignr_epi8(last, words[(i + 2) & 3], 4);
        words[i & 3] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(now, next), between), last);
      }
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

bool has_sha_ni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (ebx & (1u << 29)) == 0) return false;
  return __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3");
}

#endif

sha256_kernels::Kernel kernel() {
  static const sha256_kernels::Kernel best = sha256_kernels::usable()[0].kernel;
  return best;
}

}  // namespace

namespace sha256_kernels {
const Named* usable() {
  static const Named plain[] = {{"plain", blocks_plain}, {nullptr, nullptr}};
#if defined(__x86_64__)
  static const Named both[] = {{"sha-ni", blocks_sha_ni}, {"plain", blocks_plain}, {nullptr, nullptr}};
  if (has_sha_ni()) return both;
#endif
  return plain;
}
}  // namespace sha256_kernels

Sha256::Sha256() { std::memcpy(state_, initial, sizeof(state_)); }

void Sha256::update(const void* data, size_t bytes) {
  const auto* from = static_cast<const uint8_t*>(data);
  bytes_ += bytes;
  if (held_ > 0) {
    const size_t now = bytes < 64 - held_ ? bytes : 64 - held_;
    if (now > 0) std::memcpy(block_ + held_, from, now);
    held_ += now;
    from += now;
    bytes -= now;
    if (held_ < 64) return;
    kernel()(state_, block_, 1);
    held_ = 0;
  }
  if (bytes >= 64) kernel()(state_, from, bytes / 64);
  held_ = bytes % 64;
  if (held_ > 0) std::memcpy(block_, from + (bytes - held_), held_);
}

Sha256Digest Sha256::finish() {
  const uint64_t bits = bytes_ * 8;
  block_[held_++] = 0x80;
  if (held_ > 56) {
    std::memset(block_ + held_, 0, 64 - held_);
    kernel()(state_, block_, 1);
    held_ = 0;
  }
  std::memset(block_ + held_, 0, 56 - held_);
  for (int i = 0; i < 8; i++) block_[56 + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
  kernel()(state_, block_, 1);
  Sha256Digest digest;
  for (size_t i = 0; i < 32; i++) digest[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
  return digest;
}

Sha256Digest hmac_sha256(std::string_view key, std::string_view text) {
  uint8_t padded[64] = {};
  if (key.size() > sizeof(padded)) {
    const Sha256Digest digest = Sha256::of(key);
    std::memcpy(padded, digest.data(), digest.size());
  } else if (!key.empty()) {
    std::memcpy(padded, key.data(), key.size());
  }
  uint8_t pad[64];
  for (size_t i = 0; i < 64; i++) pad[i] = padded[i] ^ 0x36;
  Sha256 inner;
  inner.update(pad, sizeof(pad));
  inner.update(text);
  const Sha256Digest first = inner.finish();
  for (size_t i = 0; i < 64; i++) pad[i] = padded[i] ^ 0x5c;
  Sha256 outer;
  outer.update(pad, sizeof(pad));
  outer.update(first.data(), first.size());
  return outer.finish();
}

std::string hex_of(const void* data, size_t bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  const auto* from = static_cast<const uint8_t*>(data);
  std::string text(2 * bytes, '0');
  for (size_t i = 0; i < bytes; i++) {
    text[2 * i] = digits[from[i] >> 4];
    text[2 * i + 1] = digits[from[i] & 15];
  }
  return text;
}

}  // namespace hicache
