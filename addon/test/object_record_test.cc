// An object's record: what it holds comes back, no changed character of it goes unseen, and nothing else passes for one.
#include "plugins/obj/object_record.h"

#include <string>

#include "test/check.h"

using namespace hicache;

int main() {
  std::string bytes;
  for (int i = 0; i < 256; i++) bytes += static_cast<char>(i);
  ObjectRecord out;
  for (size_t identity = 0; identity <= bytes.size(); identity += 17) {
    for (size_t meta = 0; meta < 8; meta++) {
      const std::string text = encode_object_record(0x123456789a, 0xfedcba9876543210, std::string_view(bytes).substr(0, identity), std::string_view(bytes).substr(0, meta));
      CHECK(decode_object_record(text, out) == ObjectRecordState::whole);
      CHECK_EQ(out.length, 0x123456789au);
      CHECK_EQ(out.crc, 0xfedcba9876543210u);
      CHECK(out.identity == bytes.substr(0, identity) && out.meta == bytes.substr(0, meta));
    }
  }
  const std::string text = encode_object_record(65536, 1, "an identity", "a meta");
  CHECK(text.size() < 2048);  // all that S3 takes of metadata
  for (size_t i = 0; i < text.size(); i++) {
    for (const char c : {'0', '1', '2', '9', 'a', 'A', '.', '-', '_', ' ', '='}) {
      if (text[i] == c) continue;
      std::string changed = text;
      changed[i] = c;
      test_context() = changed;
      // The first dot's place can become a digit of a later version.
      const bool later = (i == 0 && c > '1' && c <= '9') || (i == 1 && c >= '0' && c <= '9');
      CHECK(decode_object_record(changed, out) == (later ? ObjectRecordState::newer : ObjectRecordState::damaged));
    }
    CHECK(i == 0 || decode_object_record(std::string_view(text).substr(0, i), out) == ObjectRecordState::damaged);
    CHECK(decode_object_record(text.substr(0, i) + text[i] + text.substr(i), out) != ObjectRecordState::whole);
  }
  CHECK(decode_object_record("", out) == ObjectRecordState::none);
  CHECK(decode_object_record("somebody else's", out) == ObjectRecordState::damaged);
  CHECK(decode_object_record("2.whatever it will be", out) == ObjectRecordState::newer);

  uint64_t crc = 0;
  for (const uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{0xae8b14860a799888}, ~uint64_t{0}}) {
    CHECK(checksum_of_header(checksum_header(value), crc));
    CHECK_EQ(crc, value);
  }
  // CRC-64/NVME's check value, as S3 writes it.
  CHECK_EQ(checksum_header(0xae8b14860a799888), std::string("rosUhgp5mIg="));
  CHECK(!checksum_of_header("rosUhgp5mIg=-3", crc) && !checksum_of_header("", crc) && !checksum_of_header("rosUhgp5mI!=", crc));
  return 0;
}
