// SHA-256 by every kernel that runs here, against the examples of FIPS 180-4, and HMAC against those of RFC 4231.
#include "util/sha256.h"

#include <string>

#include "test/check.h"

using namespace hicache;

namespace {

// The digest by one kernel, however the text is cut.
std::string digest_by(sha256_kernels::Kernel kernel, const std::string& text) {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::string padded = text + '\x80';
  while (padded.size() % 64 != 56) padded += '\0';
  for (int i = 7; i >= 0; i--) padded += static_cast<char>((text.size() * 8) >> (8 * i));
  kernel(state, reinterpret_cast<const uint8_t*>(padded.data()), padded.size() / 64);
  uint8_t digest[32];
  for (size_t i = 0; i < 32; i++) digest[i] = static_cast<uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)));
  return hex_of(digest, sizeof(digest));
}

}  // namespace

int main() {
  const std::pair<std::string, std::string> known[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const auto& [text, digest] : known) {
    CHECK_EQ(hex_of(Sha256::of(text)), digest);
    for (const auto* one = sha256_kernels::usable(); one->name != nullptr; one++) {
      test_context() = one->name;
      CHECK_EQ(digest_by(one->kernel, text), digest);
    }
  }
  // In pieces of every size it is the same as at once.
  std::string text;
  for (int i = 0; i < 517; i++) text += static_cast<char>(i * 7);
  for (size_t piece = 1; piece <= text.size(); piece++) {
    Sha256 hash;
    for (size_t at = 0; at < text.size(); at += piece) hash.update(std::string_view(text).substr(at, piece));
    CHECK_EQ(hex_of(hash.finish()), digest_by(sha256_kernels::usable()[0].kernel, text));
  }
  CHECK_EQ(hex_of(hmac_sha256(std::string(20, '\x0b'), "Hi There")), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  CHECK_EQ(hex_of(hmac_sha256("Jefe", "what do ya want for nothing?")), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  CHECK_EQ(hex_of(hmac_sha256(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First")),
           "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
  return 0;
}
