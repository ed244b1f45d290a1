// How a page is known in memory: 128 bits of its stored key and namespace under a secret of this process, so that nobody can make keys that meet. Equal to
// lib/storage/segment/page-digest.ts; docs/formats.md has the definition.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hicache::segments {

struct DigestSeed {
  uint32_t words[4];
};

// The 64 hex digits that a stored key of a page hash begins with, as 8 words. All zeros when it does not begin so.
void hash_words(const uint8_t* key, size_t length, uint32_t words[8]);

// `scope`: the 16 bytes that stand for the namespace and the rest of the key.
void page_digest(const DigestSeed& seed, const uint32_t hash[8], const uint8_t scope[16], uint32_t digest[4]);

}  // namespace hicache::segments
