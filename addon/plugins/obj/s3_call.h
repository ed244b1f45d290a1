// One S3 request: signed, tried again where that can help, never beyond its deadline.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "plugins/obj/http_loop.h"
#include "plugins/obj/object_endpoint.h"
#include "plugins/obj/sigv4.h"
#include "plugins/obj/task.h"

namespace hicache {

// Where a request's bytes come from and go to. Called on the loop's thread, for each try anew.
class BodySource {
 public:
  virtual HttpExchange::Piece piece(uint64_t at) = 0;

 protected:
  ~BodySource() = default;
};
struct S3Answer;
class BodySink {
 public:
  // A good answer begins. False: its body is not wanted.
  virtual bool begins(const S3Answer& answer) = 0;
  // Where the next bytes may be received at once; those that were lie there when they are taken.
  virtual HttpExchange::Room room() { return {}; }
  virtual bool take(const uint8_t* from, size_t bytes) = 0;

 protected:
  ~BodySink() = default;
};

struct S3Request {
  std::string method;
  std::string key;    // '' = the bucket
  std::string query;  // encoded
  std::vector<sigv4::Header> headers;  // beside host, date, security token, payload hash
  BodySource* source = nullptr;
  uint64_t body_bytes = 0;
  // Hex SHA-256 of the body, or UNSIGNED-PAYLOAD; empty: of no bytes.
  std::string payload_hash;
  BodySink* sink = nullptr;  // nullptr: a good answer's body is kept as text
  // The server may begin to answer before it knows how that will end: 200, and an error in the body.
  bool error_in_body = false;
  unsigned retries = 3;
};

enum class S3Result : uint8_t {
  answered,     // with a status below 300, or one that says how it is: 304, 404, 412, 416
  unwanted,     // the sink did not want it
  refused,      // the server answered, and will not do it
  unavailable,  // no answer, or none that helps, as often as it was tried
  cancelled,
  broken,       // our own memory failed, or was taken away
};

struct S3Answer {
  S3Result result = S3Result::unavailable;
  int status = 0;         // 0: no answer
  int curl_code = 0;      // why there was none
  int os_errno = 0;
  bool repeated = false;  // it was sent more than once: whatever was asked may have been done before
  bool certificate = false;  // it was not to be trusted
  std::string why;        // for people; never holds a secret
  std::string code;       // S3's own word for what is wrong
  std::string body;       // bounded
  // Headers.
  bool has_length = false;
  uint64_t length = 0;
  std::string etag, record, checksum, range, region, date;
  int64_t retry_after_s = -1, retry_at_s = -1;  // as a number, or as a date of the server's clock
  std::vector<sigv4::Header> all;  // only when asked for
};

// What one operation has under way, so that it can be called off.
class CallScope {
 public:
  explicit CallScope(HttpLoop& loop, int64_t deadline_ns) : deadline_ns(deadline_ns), loop_(loop) {}
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

  void cancel();
  bool cancelled() const { return cancelled_; }
  const int64_t deadline_ns;

 private:
  friend class S3Caller;
  HttpLoop& loop_;
  bool cancelled_ = false;
  std::vector<HttpExchange*> exchanges_;
  std::vector<HttpLoop::Timer*> timers_;
};

// The calls of one loop.
class S3Caller {
 public:
  S3Caller(HttpLoop& loop, std::shared_ptr<ObjectEndpoint> endpoint, bool all_headers = false)
      : loop_(loop), endpoint_(std::move(endpoint)), signer_(endpoint_->options().region, "s3"), all_headers_(all_headers), random_(std::random_device{}()) {}

  // The request lives until it has ended.
  Task<S3Answer> call(CallScope& scope, const S3Request& request);
  ObjectEndpoint& endpoint() { return *endpoint_; }

 private:
  Task<S3Answer> once(CallScope& scope, const S3Request& request);
  bool mend_clock(const S3Answer& answer, int64_t signed_ahead_s);
  void sign(HttpExchange& exchange, const S3Request& request, const Credentials& credentials);
  Task<bool> pause(CallScope& scope, int64_t ms);

  HttpLoop& loop_;
  const std::shared_ptr<ObjectEndpoint> endpoint_;
  sigv4::Signer signer_;
  const bool all_headers_;
  std::minstd_rand random_;
};

// The text of an XML element, its entities resolved; empty when it is not there.
std::string xml_text(std::string_view xml, std::string_view name);

}  // namespace hicache
