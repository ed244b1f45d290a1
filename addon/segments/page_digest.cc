#include "segments/page_digest.h"

#include <array>
#include <cstring>

namespace hicache::segments {
namespace {

// Values of hex digits as page hashes have them (lower case); 0x80 = none.
constexpr std::array<uint8_t, 256> hex_values = [] {
  std::array<uint8_t, 256> values{};
  for (size_t i = 0; i < values.size(); i++) values[i] = 0x80;
  for (uint8_t i = 0; i < 10; i++) values['0' + i] = i;
  for (uint8_t i = 0; i < 6; i++) values['a' + i] = static_cast<uint8_t>(10 + i);
  return values;
}();

inline uint32_t rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

inline void quarter(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  a += b; d = rotate(d ^ a, 16);
  c += d; b = rotate(b ^ c, 12);
  a += b; d = rotate(d ^ a, 8);
  c += d; b = rotate(b ^ c, 7);
}

}  // namespace

void hash_words(const uint8_t* key, size_t length, uint32_t words[8]) {
  uint32_t wrong = length < 64 ? 0x80 : 0;
  for (size_t word = 0; word < 8 && wrong == 0; word++) {
    uint32_t value = 0;
    for (size_t i = 0; i < 8; i++) {
      const uint32_t digit = hex_values[key[8 * word + i]];
      wrong |= digit & 0x80;
      value = value << 4 | (digit & 15);
    }
    words[word] = value;
  }
  if (wrong != 0) std::memset(words, 0, 8 * sizeof(uint32_t));
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
