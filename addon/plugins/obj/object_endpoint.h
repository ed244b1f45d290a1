// Where objects are, and what all threads of one client know of their server.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

namespace hicache {

inline constexpr uint64_t part_bytes_min = 5 << 20;  // S3: of every part but the last

struct ObjectOptions {
  std::string endpoint;  // scheme://host[:port]
  std::string region, bucket;
  bool virtual_addressing = false;
  uint32_t credentials = 0;  // CredentialStore; 0: requests are not signed
  std::string ca_bundle, proxy;
  bool send_checksum = false, ask_checksum = false, sign_payload = false;
  uint64_t multipart_bytes = 32 << 20;
  unsigned threads = 4, connections = 16;
};

// Tries that go wrong are paid for from a budget that good answers fill up again, so that a server in distress is not asked many times as often as a healthy one.
// The figures are those of the AWS SDKs' standard mode: 500 tokens, 5 for another try, 10 when there was no answer at all; a good answer brings one back.
class RetryBudget {
 public:
  bool take(bool no_answer);
  void answered_well();

 private:
  static constexpr int tokens_max = 500;
  std::mutex mutex_;
  int tokens_ = tokens_max;
};

class ObjectEndpoint {
 public:
  explicit ObjectEndpoint(ObjectOptions options);

  const ObjectOptions& options() const { return options_; }
  bool secure() const { return secure_; }
  // What the Host header says.
  const std::string& host() const { return host_; }
  // The path of an object, encoded; '' = of the bucket.
  std::string path_of(std::string_view key) const;
  // scheme://host
  const std::string& base() const { return base_; }

  RetryBudget budget;
  // Seconds that the server's clock is ahead of ours, once it has complained.
  std::atomic<int64_t> clock_ahead_s{0};
  // It does not know If-None-Match on a PUT.
  std::atomic<bool> no_conditional_put{false};

 private:
  const ObjectOptions options_;
  bool secure_ = false;
  std::string host_, base_;
};

}  // namespace hicache
