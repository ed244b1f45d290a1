// The record block: what it holds comes back, and no single changed bit of it goes unseen.
#include "pool/record.h"

#include <cstring>
#include <string>
#include <vector>

#include "test/check.h"

using namespace hicache;

int main() {
  const std::string identity(identity_bytes_max, 'i'), meta(record_meta_max, 'm');
  std::vector<uint8_t> block(record_bytes);
  Record out;

  CHECK_EQ(page_file_bytes(0), 4096u);
  CHECK_EQ(page_file_bytes(1), 8192u);
  CHECK_EQ(page_file_bytes(4096), 8192u);
  CHECK_EQ(page_file_bytes(4097), 12288u);

  for (size_t identity_length : {size_t{0}, size_t{1}, identity.size()}) {
    for (size_t meta_length : {size_t{0}, size_t{1}, meta.size()}) {
      Record record;
      record.payload_length = 0x1122334455667788;
      record.payload_crc = 0xfedcba9876543210;
      record.identity = std::string_view(identity).substr(0, identity_length);
      record.meta = std::string_view(meta).substr(0, meta_length);
      std::memset(block.data(), 0xff, block.size());
      encode_record(block.data(), record);
      CHECK(decode_record(block.data(), out) == RecordState::whole);
      CHECK_EQ(out.payload_length, record.payload_length);
      CHECK_EQ(out.payload_crc, record.payload_crc);
      CHECK(out.identity == record.identity && out.meta == record.meta);
    }
  }

  // Every bit: those of the magic make it a foreign block, those of the version can make it a later one, all others make it damaged.
  for (size_t bit = 0; bit < record_bytes * 8; bit++) {
    block[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    const RecordState state = decode_record(block.data(), out);
    const size_t byte = bit / 8;
    test_context() = "bit " + std::to_string(bit);
    CHECK(state == (byte < 8 ? RecordState::none : byte < 12 && bit != 64 ? RecordState::newer : RecordState::damaged));
    block[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
  CHECK(decode_record(block.data(), out) == RecordState::whole);

  // Zeros and noise are no records.
  std::memset(block.data(), 0, block.size());
  CHECK(decode_record(block.data(), out) == RecordState::none);

  // The same payload under another identity is another checksum.
  CHECK(payload_crc("a", "payload", 7) != payload_crc("b", "payload", 7));
  return 0;
}
