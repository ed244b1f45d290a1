#include "segments/page_digest.h"

#include <cstring>

namespace hicache::segments {
namespace {

constexpr uint64_t each(uint64_t byte) { return byte * 0x0101010101010101; }

// 8 lower-case hex digits at once, the first the highest. False when one is none. (Loaded so that the first is the lowest byte.)
inline bool parse_digits(const uint8_t* text, uint32_t& word) {
  uint64_t v;
  std::memcpy(&v, text, sizeof(v));
  if constexpr (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) v = __builtin_bswap64(v);
  // What is ASCII carries nothing into its neighbour here; the top bit says "at least '0'", and so on.
  const uint64_t ascii = v & each(0x7f);
  const uint64_t digit = (ascii + each(0x80 - '0')) & ~(ascii + each(0x80 - ':')), letter = (ascii + each(0x80 - 'a')) & ~(ascii + each(0x80 - 'g'));
  if ((((digit | letter) & ~v) & each(0x80)) != each(0x80)) return false;
  uint64_t n = (v & each(0x0f)) + 9 * (v >> 6 & each(0x01));
  n = (n << 4 | n >> 8) & 0x00ff00ff00ff00ff;
  n = (n | n >> 8) & 0x0000ffff0000ffff;
  word = __builtin_bswap32(static_cast<uint32_t>(n | n >> 16));
  return true;
}

inline uint32_t rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

inline void quarter(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  a += b; d = rotate(d ^ a, 16);
  c += d; b = rotate(b ^ c, 12);
  a += b; d = rotate(d ^ a, 8);
  c += d; b = rotate(b ^ c, 7);
}

}  // namespace

void hash_words(const uint8_t* key, size_t length, uint32_t words[8]) {
  bool all = length >= 64;
  for (size_t i = 0; i < 8 && all; i++) all = parse_digits(key + 8 * i, words[i]);
  if (!all) std::memset(words, 0, 8 * sizeof(uint32_t));
}

void page_digest(const DigestSeed& seed, const uint32_t hash[8], const uint8_t scope[16], uint32_t digest[4]) {
  uint32_t s[16], x[16];
  std::memcpy(s, seed.words, 16);
  std::memcpy(s + 4, hash, 32);
  for (size_t i = 0; i < 4; i++) {
    const uint8_t* const at = scope + 4 * i;
    s[12 + i] = at[0] | static_cast<uint32_t>(at[1]) << 8 | static_cast<uint32_t>(at[2]) << 16 | static_cast<uint32_t>(at[3]) << 24;
  }
  std::memcpy(x, s, sizeof(x));
  for (int round = 0; round < 2; round++) {
    quarter(x[0], x[4], x[8], x[12]);
    quarter(x[1], x[5], x[9], x[13]);
    quarter(x[2], x[6], x[10], x[14]);
    quarter(x[3], x[7], x[11], x[15]);
    quarter(x[0], x[5], x[10], x[15]);
    quarter(x[1], x[6], x[11], x[12]);
    quarter(x[2], x[7], x[8], x[13]);
    quarter(x[3], x[4], x[9], x[14]);
  }
  for (size_t i = 0; i < 4; i++) digest[i] = (x[i] + s[i]) ^ (x[i + 4] + s[i + 4]);
}

}  // namespace hicache::segments
