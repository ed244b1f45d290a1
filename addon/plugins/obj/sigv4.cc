#include "plugins/obj/sigv4.h"

#include <algorithm>
#include <ctime>

namespace hicache::sigv4 {
namespace {

std::string_view bytes_of(const Sha256Digest& digest) { return {reinterpret_cast<const char*>(digest.data()), digest.size()}; }

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  }
  return out;
}

// Without spaces at the ends, and with one where several stand.
void append_trimmed(std::string& out, std::string_view value) {
  const size_t from = value.find_first_not_of(" \t");
  if (from == std::string_view::npos) return;
  value = value.substr(from, value.find_last_not_of(" \t") - from + 1);
  for (size_t i = 0; i < value.size(); i++) {
    const bool space = value[i] == ' ';
    if (!space || value[i - 1] != ' ') out += value[i];
  }
}

std::string sorted_query(std::string_view query) {
  if (query.empty()) return {};
  std::vector<std::pair<std::string_view, std::string_view>> pairs;
  while (true) {
    const size_t end = query.find('&');
    const std::string_view one = query.substr(0, end);
    const size_t equals = one.find('=');
    pairs.emplace_back(one.substr(0, equals), equals == std::string_view::npos ? std::string_view() : one.substr(equals + 1));
    if (end == std::string_view::npos) break;
    query.remove_prefix(end + 1);
  }
  std::sort(pairs.begin(), pairs.end());
  std::string out;
  for (const auto& [name, value] : pairs) {
    if (!out.empty()) out += '&';
    out.append(name).append("=").append(value);
  }
  return out;
}

}  // namespace

std::string encoded(std::string_view text, bool keep_slashes) {
  static constexpr char digits[] = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size() + 16);
  for (const char c : text) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~' || (c == '/' && keep_slashes)) {
      out += c;
    } else {
      out += '%';
      out += digits[static_cast<uint8_t>(c) >> 4];
      out += digits[static_cast<uint8_t>(c) & 15];
    }
  }
  return out;
}

Signature Signer::sign(const Request& request, const Credentials& credentials, std::string_view date) {
  std::vector<std::pair<std::string, std::string_view>> headers;
  headers.reserve(request.headers.size());
  for (const auto& [name, value] : request.headers) headers.emplace_back(lower(name), value);
  // Those of one name stay in their order.
  std::stable_sort(headers.begin(), headers.end(), [](const auto& a, const auto& b) { return a.first < b.first; });

  Signature out;
  std::string& text = out.canonical_request;
  text.reserve(1024);
  text.append(request.method).append("\n");
  if (request.double_encode) text += encoded(request.path, true);
  else text.append(request.path);
  text.append("\n").append(sorted_query(request.query)).append("\n");
  std::string names;
  for (size_t i = 0; i < headers.size(); i++) {
    if (i > 0 && headers[i].first == headers[i - 1].first) {
      text.back() = ',';
    } else {
      text.append(headers[i].first).append(":");
      if (!names.empty()) names += ';';
      names += headers[i].first;
    }
    append_trimmed(text, headers[i].second);
    text += '\n';
  }
  text.append("\n").append(names).append("\n").append(request.payload_hash);

  const std::string day(date.substr(0, 8));
  const std::string scope = day + "/" + region_ + "/" + service_ + "/aws4_request";
  out.string_to_sign = "AWS4-HMAC-SHA256\n" + std::string(date) + "\n" + scope + "\n" + hex_of(Sha256::of(text));
  if (key_of_ != day + credentials.secret_key) {
    Sha256Digest key = hmac_sha256("AWS4" + credentials.secret_key, day);
    key = hmac_sha256(bytes_of(key), region_);
    key = hmac_sha256(bytes_of(key), service_);
    key = hmac_sha256(bytes_of(key), "aws4_request");
    key_ = bytes_of(key);
    key_of_ = day + credentials.secret_key;
  }
  out.authorization = "AWS4-HMAC-SHA256 Credential=" + credentials.access_key + "/" + scope + ", SignedHeaders=" + names + ", Signature=" + hex_of(hmac_sha256(key_, out.string_to_sign));
  return out;
}

std::string date_now(int64_t ahead_s) {
  const std::time_t now = std::time(nullptr) + static_cast<std::time_t>(ahead_s);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y%m%dT%H%M%SZ", &parts);
  return text;
}

}  // namespace hicache::sigv4
