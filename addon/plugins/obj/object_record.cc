#include "plugins/obj/object_record.h"

#include <algorithm>
#include <charconv>

#include "util/crc64.h"

namespace hicache {
namespace {

constexpr std::string_view url_alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr std::string_view plain_alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void append_base64(std::string& out, std::string_view bytes, std::string_view alphabet) {
  uint32_t held = 0;
  int bits = 0;
  for (const char c : bytes) {
    held = held << 8 | static_cast<uint8_t>(c);
    bits += 8;
    while (bits >= 6) {
      bits -= 6;
      out += alphabet[held >> bits & 63];
    }
  }
  if (bits > 0) out += alphabet[held << (6 - bits) & 63];
}

// What another encoder would have written: no stray bits, no strange length.
bool from_base64(std::string_view text, std::string_view alphabet, std::string& out) {
  out.clear();
  uint32_t held = 0;
  int bits = 0;
  for (const char c : text) {
    const size_t value = alphabet.find(c);
    if (value == std::string_view::npos) return false;
    held = held << 6 | static_cast<uint32_t>(value);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out += static_cast<char>(held >> bits & 0xff);
    }
  }
  return bits < 6 && (held & ((1u << bits) - 1)) == 0;
}

void append_hex(std::string& out, uint64_t value) {
  static constexpr char digits[] = "0123456789abcdef";
  for (int shift = 60; shift >= 0; shift -= 4) out += digits[value >> shift & 15];
}

bool from_hex(std::string_view text, uint64_t& value) {
  if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != std::string_view::npos) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string encode_object_record(uint64_t length, uint64_t crc, std::string_view identity, std::string_view meta) {
  std::string text = "1." + std::to_string(length) + ".";
  append_hex(text, crc);
  text += '.';
  append_base64(text, identity, url_alphabet);
  text += '.';
  append_base64(text, meta, url_alphabet);
  const uint64_t seal = crc64(text.data(), text.size());
  text += '.';
  append_hex(text, seal);
  return text;
}

ObjectRecordState decode_object_record(std::string_view text, ObjectRecord& out) {
  if (text.empty()) return ObjectRecordState::none;
  const size_t dot = text.find('.');
  const std::string_view version = text.substr(0, dot);
  unsigned number = 0;
  const auto [end, error] = std::from_chars(version.data(), version.data() + version.size(), number);
  if (error != std::errc() || end != version.data() + version.size()) return ObjectRecordState::damaged;
  if (number > 1) return ObjectRecordState::newer;
  std::string_view parts[6];
  std::string_view rest = text;
  for (size_t i = 0; i < 6; i++) {
    const size_t next = rest.find('.');
    if ((next == std::string_view::npos) != (i == 5)) return ObjectRecordState::damaged;
    parts[i] = rest.substr(0, next);
    if (i < 5) rest.remove_prefix(next + 1);
  }
  uint64_t seal = 0;
  if (!from_hex(parts[5], seal) || seal != crc64(text.data(), text.size() - 17)) return ObjectRecordState::damaged;
  const auto [length_end, length_error] = std::from_chars(parts[1].data(), parts[1].data() + parts[1].size(), out.length);
  const bool numbers = number == 1 && length_error == std::errc() && length_end == parts[1].data() + parts[1].size() && from_hex(parts[2], out.crc);
  return numbers && from_base64(parts[3], url_alphabet, out.identity) && from_base64(parts[4], url_alphabet, out.meta) ? ObjectRecordState::whole : ObjectRecordState::damaged;
}

std::string checksum_header(uint64_t crc) {
  std::string bytes;
  for (int shift = 56; shift >= 0; shift -= 8) bytes += static_cast<char>(crc >> shift & 0xff);
  std::string text;
  append_base64(text, bytes, plain_alphabet);
  return text + "=";
}

bool checksum_of_header(std::string_view text, uint64_t& crc) {
  if (text.size() != 12 || text.back() != '=') return false;
  std::string bytes;
  if (!from_base64(text.substr(0, 11), plain_alphabet, bytes) || bytes.size() != 8) return false;
  crc = 0;
  for (const char c : bytes) crc = crc << 8 | static_cast<uint8_t>(c);
  return true;
}

}  // namespace hicache
