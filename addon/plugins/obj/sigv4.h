// AWS Signature Version 4 in an Authorization header. Rules: AWS, "Signature Version 4 signing process" and "Authenticating Requests: Using the Authorization Header".
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "plugins/obj/credentials.h"
#include "util/sha256.h"

namespace hicache::sigv4 {

inline constexpr std::string_view unsigned_payload = "UNSIGNED-PAYLOAD";

using Header = std::pair<std::string, std::string>;

// Everything but unreserved characters as %XX; `/` stays where it separates.
std::string encoded(std::string_view text, bool keep_slashes);

struct Request {
  std::string_view method;
  std::string_view path;   // encoded, begins with '/'
  std::string_view query;  // encoded name=value pairs, joined by '&'; in any order
  // All of them are signed. Names in any case; `host` and `x-amz-date` are among them.
  const std::vector<Header>& headers;
  std::string_view payload_hash;
  bool double_encode = false;  // every service but S3
};

struct Signature {
  std::string authorization, canonical_request, string_to_sign;
};

// Signs for one region and service; keeps the key that it derives, which holds for a day.
class Signer {
 public:
  Signer(std::string region, std::string service) : region_(std::move(region)), service_(std::move(service)) {}

  // `date` is yyyymmddThhmmssZ.
  Signature sign(const Request& request, const Credentials& credentials, std::string_view date);

 private:
  const std::string region_, service_;
  std::string key_of_, key_;  // day and secret, and what they give
};

// Now, as x-amz-date wants it; `ahead_s` corrects a clock that is wrong.
std::string date_now(int64_t ahead_s = 0);

}  // namespace hicache::sigv4
