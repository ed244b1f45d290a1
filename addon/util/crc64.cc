#include "util/crc64.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hicache {
namespace {

constexpr uint64_t polynomial = 0x9a6c9329ac4bc9b5;  // reflected: bit 63 is the coefficient of x^0

struct Tables {
  uint64_t slice[8][256];

  Tables() {
    for (unsigned byte = 0; byte < 256; byte++) {
      uint64_t crc = byte;
      for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? polynomial : 0);
      slice[0][byte] = crc;
    }
    for (unsigned byte = 0; byte < 256; byte++) {
      for (int i = 1; i < 8; i++) slice[i][byte] = (slice[i - 1][byte] >> 8) ^ slice[0][slice[i - 1][byte] & 0xff];
    }
  }
};
const Tables& tables() {
  static const Tables instance;
  return instance;
}

uint64_t crc_table(uint64_t crc, const uint8_t* data, size_t bytes) {
  const auto& slice = tables().slice;
  while (bytes >= 8) {
    uint64_t word;
    std::memcpy(&word, data, 8);
    if constexpr (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) word = __builtin_bswap64(word);
    word ^= crc;
    crc = slice[7][word & 0xff] ^ slice[6][(word >> 8) & 0xff] ^ slice[5][(word >> 16) & 0xff] ^
          slice[4][(word >> 24) & 0xff] ^ slice[3][(word >> 32) & 0xff] ^ slice[2][(word >> 40) & 0xff] ^
          slice[1][(word >> 48) & 0xff] ^ slice[0][word >> 56];
    data += 8;
    bytes -= 8;
  }
  while (bytes-- > 0) crc = (crc >> 8) ^ slice[0][(crc ^ *data++) & 0xff];
  return crc;
}

#if defined(__x86_64__)

// x^power mod the polynomial, reflected.
uint64_t power_of_x(unsigned power) {
  uint64_t value = uint64_t{1} << 63;
  while (power-- > 0) value = (value >> 1) ^ ((value & 1) ? polynomial : 0);
  return value;
}

// Moving a 128-bit block `bits` ahead multiplies it by x^bits. Its low half holds the higher powers (64 more), and a carry-less product of two reflected
// 64-bit values comes out one power too high, hence the -1.
struct FoldConstants {
  uint64_t low, high;
  explicit FoldConstants(unsigned bits) : low(power_of_x(bits + 64 - 1)), high(power_of_x(bits - 1)) {}
};
struct Constants {
  FoldConstants by16{128}, by64{512}, by128{1024}, by256{2048};
};
const Constants& constants() {
  static const Constants instance;
  return instance;
}

#define HICACHE_PCLMUL __attribute__((target("sse2,pclmul")))
#define HICACHE_VPCLMUL __attribute__((target("sse2,pclmul,avx2,avx512f,avx512vl,avx512bw,vpclmulqdq")))

HICACHE_PCLMUL inline __m128i load128(const uint8_t* data) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data));
}
HICACHE_PCLMUL inline __m128i constants128(const FoldConstants& fold) {
  return _mm_set_epi64x(static_cast<long long>(fold.high), static_cast<long long>(fold.low));
}
HICACHE_PCLMUL inline __m128i fold128(__m128i block, __m128i k, __m128i next) {
  return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(block, k, 0x00), _mm_clmulepi64_si128(block, k, 0x11)), next);
}
// Folds in the whole 16-byte blocks that are left and ends with the tables: a folded block is a message of the same remainder.
HICACHE_PCLMUL uint64_t finish128(__m128i block, const uint8_t* data, size_t bytes) {
  const __m128i k16 = constants128(constants().by16);
  while (bytes >= 16) {
    block = fold128(block, k16, load128(data));
    data += 16;
    bytes -= 16;
  }
  alignas(16) uint8_t last[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(last), block);
  return crc_table(crc_table(0, last, 16), data, bytes);
}

HICACHE_PCLMUL uint64_t crc_pclmul(uint64_t crc, const uint8_t* data, size_t bytes) {
  if (bytes < 32) return crc_table(crc, data, bytes);
  const __m128i register128 = _mm_set_epi64x(0, static_cast<long long>(crc));
  if (bytes < 256) return finish128(_mm_xor_si128(load128(data), register128), data + 16, bytes - 16);

  __m128i lanes[8];
  for (int i = 0; i < 8; i++) lanes[i] = load128(data + 16 * i);
  lanes[0] = _mm_xor_si128(lanes[0], register128);
  data += 128;
  bytes -= 128;
  const __m128i k128 = constants128(constants().by128);
  while (bytes >= 128) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) lanes[i] = fold128(lanes[i], k128, load128(data + 16 * i));
    data += 128;
    bytes -= 128;
  }
  const __m128i k16 = constants128(constants().by16);
  __m128i block = lanes[0];
  for (int i = 1; i < 8; i++) block = fold128(block, k16, lanes[i]);
  return finish128(block, data, bytes);
}

HICACHE_VPCLMUL inline __m512i load512(const uint8_t* data) { return _mm512_loadu_si512(data); }
HICACHE_VPCLMUL inline __m512i constants512(const FoldConstants& fold) {
  const auto low = static_cast<long long>(fold.low), high = static_cast<long long>(fold.high);
  return _mm512_set_epi64(high, low, high, low, high, low, high, low);
}
HICACHE_VPCLMUL inline __m512i fold512(__m512i block, __m512i k, __m512i next) {
  // 0x96: the exclusive or of all three.
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(block, k, 0x00), _mm512_clmulepi64_epi128(block, k, 0x11), next,
                                   0x96);
}

HICACHE_VPCLMUL uint64_t crc_vpclmul(uint64_t crc, const uint8_t* data, size_t bytes) {
  if (bytes < 512) return crc_pclmul(crc, data, bytes);
  __m512i a = load512(data), b = load512(data + 64), c = load512(data + 128), d = load512(data + 192);
  a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_set_epi64x(0, static_cast<long long>(crc))));
  data += 256;
  bytes -= 256;
  const __m512i k256 = constants512(constants().by256);
  while (bytes >= 256) {
    a = fold512(a, k256, load512(data));
    b = fold512(b, k256, load512(data + 64));
    c = fold512(c, k256, load512(data + 128));
    d = fold512(d, k256, load512(data + 192));
    data += 256;
    bytes -= 256;
  }
  const __m512i k64 = constants512(constants().by64);
  a = fold512(fold512(fold512(a, k64, b), k64, c), k64, d);
  while (bytes >= 64) {
    a = fold512(a, k64, load512(data));
    data += 64;
    bytes -= 64;
  }
  // Through memory: GCC 12 warns about its own extracting intrinsics.
  alignas(64) uint8_t last[64];
  _mm512_store_si512(last, a);
  const __m128i k16 = constants128(constants().by16);
  __m128i block = load128(last);
  for (int i = 1; i < 4; i++) block = fold128(block, k16, load128(last + 16 * i));
  return finish128(block, data, bytes);
}

#endif  // __x86_64__

struct Choice {
  crc64_kernels::Named usable[4] = {};

  Choice() {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool pclmul = __builtin_cpu_supports("pclmul");
    if (pclmul && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
      usable[count++] = {"vpclmulqdq", crc_vpclmul};
    }
    if (pclmul) usable[count++] = {"pclmulqdq", crc_pclmul};
#endif
    usable[count++] = {"table", crc_table};
  }
};
const Choice& choice() {
  static const Choice instance;
  return instance;
}

}  // namespace

uint64_t crc64(const void* data, size_t bytes, uint64_t seed) {
  return ~choice().usable[0].kernel(~seed, static_cast<const uint8_t*>(data), bytes);
}

const char* crc64_kernel() { return choice().usable[0].name; }

const crc64_kernels::Named* crc64_kernels::usable() { return choice().usable; }

}  // namespace hicache
