#include "plugins/obj/s3_call.h"

#include <strings.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "util/clock.h"

namespace hicache {
namespace {

// Of an error, or of an answer that nobody takes as it comes: listings of 1,000 keys of 1,024 bytes, each %XX, fit.
constexpr size_t text_bytes_max = 8 << 20;
// Of what a server says, in a message.
constexpr size_t message_bytes_max = 200;
constexpr int64_t backoff_base_ms = 50, backoff_max_ms = 5000;
// A clock that is this far off is the reason for RequestTimeTooSkewed; less is not.
constexpr int64_t skew_worth_mending_s = 60;
constexpr std::string_view empty_hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

bool same_name(std::string_view a, std::string_view b) { return a.size() == b.size() && ::strncasecmp(a.data(), b.data(), a.size()) == 0; }

int64_t http_date(const std::string& text) {
  std::tm parts{};
  if (::strptime(text.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &parts) == nullptr) return -1;
  return static_cast<int64_t>(::timegm(&parts));
}

bool digits(std::string_view text) {
  return !text.empty() && text.size() < 19 && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

class CallExchange final : public HttpExchange {
 public:
  CallExchange(const S3Request& request, S3Answer& answer, bool all_headers) : request_(request), answer_(answer), all_headers_(all_headers) {
    method = request.method;
    sends_body = request.source != nullptr || request.method == "PUT" || request.method == "POST";
    body_bytes = request.body_bytes;
  }

  bool unwanted() const { return unwanted_; }
  bool complete() const { return method == "HEAD" || !answer_.has_length || taken_ == answer_.length; }

 protected:
  Piece body_piece(uint64_t at) override { return request_.source == nullptr ? Piece{} : request_.source->piece(at); }
  Room body_room() override { return request_.sink == nullptr ? Room{} : request_.sink->room(); }
  void answer_begins() override {
    answer_.has_length = false;
    answer_.length = 0;
    answer_.etag.clear();
    answer_.record.clear();
    answer_.checksum.clear();
    answer_.range.clear();
    answer_.region.clear();
    answer_.date.clear();
    answer_.retry_after_s = answer_.retry_at_s = -1;
    answer_.all.clear();
    answer_.body.clear();
    taken_ = 0;
    begun_ = false;
  }
  void take_header(std::string_view name, std::string_view value) override {
    if (same_name(name, "content-length")) {
      if (!digits(value)) return;
      answer_.has_length = true;
      answer_.length = std::strtoull(std::string(value).c_str(), nullptr, 10);
    } else if (same_name(name, "etag")) {
      answer_.etag = value;
    } else if (same_name(name, "x-amz-meta-hicache-nixl")) {
      answer_.record = value;
    } else if (same_name(name, "x-amz-checksum-crc64nvme")) {
      answer_.checksum = value;
    } else if (same_name(name, "content-range")) {
      answer_.range = value;
    } else if (same_name(name, "x-amz-bucket-region")) {
      answer_.region = value;
    } else if (same_name(name, "date")) {
      answer_.date = value;
    } else if (same_name(name, "retry-after")) {
      if (digits(value)) {
        answer_.retry_after_s = std::strtoll(std::string(value).c_str(), nullptr, 10);
      } else {
        answer_.retry_at_s = http_date(std::string(value));
      }
    }
    if (all_headers_) answer_.all.emplace_back(name, value);
  }
  bool take_body(const uint8_t* from, size_t bytes) override {
    taken_ += bytes;
    if (request_.sink == nullptr || status >= 300) {
      if (answer_.body.size() + bytes > text_bytes_max) return false;
      answer_.body.append(reinterpret_cast<const char*>(from), bytes);
      return true;
    }
    if (!begun_ && !begin()) return false;
    unwanted_ = !request_.sink->take(from, bytes);
    return !unwanted_;
  }
  // What is not wanted is not even begun: its body may be megabytes.
  bool headers_end() override { return request_.sink == nullptr || status >= 300 || method == "HEAD" || begin(); }

 private:
  bool begin() {
    if (begun_) return true;
    begun_ = true;
    answer_.status = status;
    unwanted_ = !request_.sink->begins(answer_);
    return !unwanted_;
  }

  const S3Request& request_;
  S3Answer& answer_;
  const bool all_headers_;
  bool begun_ = false, unwanted_ = false;
  uint64_t taken_ = 0;
};

// One line, without what a terminal would obey, and without what nobody may see.
std::string shown(std::string text, const Credentials* credentials) {
  if (credentials != nullptr) {
    for (const std::string* secret : {&credentials->secret_key, &credentials->session_token, &credentials->access_key}) {
      if (secret->size() < 4) continue;
      for (size_t at; (at = text.find(*secret)) != std::string::npos;) text.replace(at, secret->size(), "***");
    }
  }
  for (char& c : text) {
    if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  if (text.size() > message_bytes_max) {
    text.resize(message_bytes_max);
    // Not in the middle of a character.
    while (!text.empty() && (static_cast<uint8_t>(text.back()) & 0xc0) == 0x80) text.pop_back();
    if (!text.empty() && static_cast<uint8_t>(text.back()) >= 0xc0) text.pop_back();
  }
  return text;
}

// HEAD has no body, so its status is all there is.
const char* usual_code(int status) {
  switch (status) {
    case 301: return "PermanentRedirect";
    case 302: return "Found";
    case 307: return "TemporaryRedirect";
    case 400: return "BadRequest";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "NotFound";
    case 405: return "MethodNotAllowed";
    case 409: return "Conflict";
    case 411: return "LengthRequired";
    case 412: return "PreconditionFailed";
    case 416: return "InvalidRange";
    case 429: return "TooManyRequests";
    case 500: return "InternalError";
    case 501: return "NotImplemented";
    case 502: return "BadGateway";
    case 503: return "ServiceUnavailable";
    case 504: return "GatewayTimeout";
    default: return "Error";
  }
}

bool certificate_failed(int code) {
  return code == curl::peer_failed_verification || code == curl::ssl_certproblem || code == curl::ssl_cacert_badfile || code == curl::ssl_issuer_error;
}

bool worth_another(const S3Answer& answer) {
  if (answer.status == 0) return answer.code.empty() && !answer.certificate && answer.curl_code != curl::url_malformat && answer.curl_code != curl::out_of_memory;
  if (answer.status >= 500) return answer.status != 501 && answer.status != 505;
  return answer.status == 429 || answer.status == 408 || answer.code == "RequestTimeout" || answer.code == "SlowDown" || answer.code == "ConditionalRequestConflict" ||
         answer.code == "OperationAborted";
}

}  // namespace

std::string xml_text(std::string_view xml, std::string_view name) {
  const std::string open = std::string("<").append(name).append(">"), close = std::string("</").append(name).append(">");
  const size_t from = xml.find(open);
  if (from == std::string_view::npos) return {};
  const size_t end = xml.find(close, from);
  if (end == std::string_view::npos) return {};
  std::string text(xml.substr(from + open.size(), end - from - open.size()));
  static constexpr std::pair<std::string_view, char> entities[] = {{"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&#34;", '"'}, {"&apos;", '\''}, {"&amp;", '&'}};
  for (const auto& [entity, character] : entities) {
    for (size_t at = 0; (at = text.find(entity, at)) != std::string::npos; at++) text.replace(at, entity.size(), 1, character);
  }
  return text;
}

void CallScope::cancel() {
  if (cancelled_) return;
  cancelled_ = true;
  for (HttpExchange* exchange : std::vector<HttpExchange*>(exchanges_)) loop_.cancel(*exchange);
  for (HttpLoop::Timer* timer : std::vector<HttpLoop::Timer*>(timers_)) loop_.cancel(*timer);
}

void S3Caller::sign(HttpExchange& exchange, const S3Request& request, const Credentials& credentials) {
  const std::string path = endpoint_->path_of(request.key);
  exchange.target = path;
  if (!request.query.empty()) exchange.target.append("?").append(request.query);
  const std::string date = sigv4::date_now(endpoint_->clock_ahead_s.load(std::memory_order_relaxed));
  const std::string_view hash = request.payload_hash.empty() ? empty_hash : std::string_view(request.payload_hash);
  std::vector<sigv4::Header> headers = request.headers;
  headers.emplace_back("host", endpoint_->host());
  headers.emplace_back("x-amz-content-sha256", hash);
  headers.emplace_back("x-amz-date", date);
  if (!credentials.session_token.empty()) headers.emplace_back("x-amz-security-token", credentials.session_token);
  exchange.header_lines.clear();
  for (const auto& [name, value] : headers) exchange.header_lines.push_back(name + ": " + value);
  if (!credentials.access_key.empty()) {
    exchange.header_lines.push_back("Authorization: " + signer_.sign({exchange.method, path, request.query, headers, hash}, credentials, date).authorization);
  }
  exchange.header_lines.push_back("User-Agent: hicache-nixl");
}

Task<bool> S3Caller::pause(CallScope& scope, int64_t ms) {
  HttpLoop::Timer timer;
  scope.timers_.push_back(&timer);
  co_await loop_.sleep(timer, ms);
  std::erase(scope.timers_, &timer);
  co_return !scope.cancelled();
}

Task<S3Answer> S3Caller::once(CallScope& scope, const S3Request& request) {
  S3Answer answer;
  if (scope.cancelled()) {
    answer.result = S3Result::cancelled;
    co_return answer;
  }
  std::shared_ptr<const Credentials> credentials;
  if (endpoint_->options().credentials != 0) {
    credentials = CredentialStore::instance().find(endpoint_->options().credentials);
    if (credentials == nullptr) {
      answer.result = S3Result::refused;
      answer.code = "NoCredentials";
      answer.why = "NoCredentials: the credentials were taken back";
      co_return answer;
    }
  }
  CallExchange exchange(request, answer, all_headers_);
  static const Credentials nobody;
  sign(exchange, request, credentials == nullptr ? nobody : *credentials);
  exchange.timeout_ms = std::max<int64_t>(1, (scope.deadline_ns - now_ns()) / 1'000'000);
  scope.exchanges_.push_back(&exchange);
  co_await loop_.run(exchange);
  std::erase(scope.exchanges_, static_cast<HttpExchange*>(&exchange));

  answer.curl_code = exchange.code;
  answer.os_errno = exchange.os_errno;
  answer.status = exchange.status;
  answer.repeated = exchange.sent_again;
  if (answer.retry_at_s >= 0) {
    const int64_t theirs = http_date(answer.date);
    answer.retry_after_s = std::max<int64_t>(0, answer.retry_at_s - (theirs < 0 ? static_cast<int64_t>(std::time(nullptr)) : theirs));
  }
  if (request.error_in_body && exchange.code == curl::ok && answer.status < 300 && answer.body.find("<Error>") != std::string::npos) answer.status = 500;
  if (scope.cancelled() || exchange.cancelled) {
    answer.result = S3Result::cancelled;
  } else if (exchange.unwanted()) {
    answer.result = S3Result::unwanted;
  } else if (exchange.memory_gone) {
    answer.result = S3Result::broken;
    answer.why = "the memory was taken away";
  } else if (exchange.code != curl::ok || (answer.status < 300 && !exchange.complete())) {
    // Also an answer whose body broke off: it says nothing.
    answer.certificate = certificate_failed(exchange.code);
    answer.why = shown(exchange.error_text.empty() ? "the answer broke off" : exchange.error_text, credentials.get());
    answer.status = 0;
  } else if (answer.status < 300 || answer.status == 304 || answer.status == 404 || answer.status == 412 || answer.status == 416) {
    answer.result = S3Result::answered;
    if (answer.status >= 300) answer.code = xml_text(answer.body, "Code");
    // A bucket that is not there is not a page that is not there.
    if (answer.status == 404 && answer.code == "NoSuchBucket") answer.result = S3Result::refused;
  } else {
    answer.result = S3Result::refused;
    answer.code = xml_text(answer.body, "Code");
  }
  if (answer.status >= 300) {
    if (answer.code.empty()) answer.code = usual_code(answer.status);
    const std::string message = xml_text(answer.body, "Message");
    answer.code = shown(answer.code, credentials.get());
    std::string why = answer.code;
    if (!message.empty() && message != answer.code) why.append(": ").append(message);
    if (!answer.region.empty()) why.append(" (the bucket is in region ").append(answer.region).append(")");
    answer.why = shown(std::move(why), credentials.get());
  }
  co_return answer;
}

// Of a refusal: was the request signed by a clock that is not the server's, and is the difference known now?
bool S3Caller::mend_clock(const S3Answer& answer, int64_t signed_ahead_s) {
  // HEAD has no body that could name the reason.
  if (answer.code != "RequestTimeTooSkewed" && !(answer.status == 403 && answer.body.empty())) return false;
  const int64_t theirs = http_date(answer.date);
  if (theirs < 0) return false;
  // Not against what is known now: the answer to another request may have mended it meanwhile, or the clocks may agree again.
  const int64_t ahead = theirs - static_cast<int64_t>(std::time(nullptr));
  if (std::abs(ahead - signed_ahead_s) < skew_worth_mending_s) return false;
  endpoint_->clock_ahead_s.store(ahead, std::memory_order_relaxed);
  return true;
}

Task<S3Answer> S3Caller::call(CallScope& scope, const S3Request& request) {
  bool mended_clock = false, repeated = false;
  for (unsigned tries = 1;; tries++) {
    const int64_t signed_ahead_s = endpoint_->clock_ahead_s.load(std::memory_order_relaxed);
    S3Answer answer = co_await once(scope, request);
    answer.repeated = repeated = repeated || answer.repeated || tries > 1;
    if (answer.result == S3Result::answered) endpoint_->budget.answered_well();
    const bool again = answer.result == S3Result::unavailable || answer.result == S3Result::refused;
    if (!again) co_return answer;
    if (!mended_clock && mend_clock(answer, signed_ahead_s)) {
      mended_clock = true;
      continue;
    }
    if (!worth_another(answer)) {
      // Nobody can answer for a server whose certificate does not hold.
      co_return answer;
    }
    answer.result = S3Result::unavailable;
    if (tries > request.retries || !endpoint_->budget.take(answer.status == 0)) co_return answer;
    const int64_t most = std::min(backoff_max_ms, backoff_base_ms << std::min(tries, 10u));
    int64_t wait = std::uniform_int_distribution<int64_t>(0, most)(random_);
    if (answer.retry_after_s >= 0) wait = std::max(wait, std::min<int64_t>(answer.retry_after_s, 86'400) * 1000);
    if (now_ns() + wait * 1'000'000 >= scope.deadline_ns) co_return answer;
    const bool go_on = co_await pause(scope, wait);
    if (!go_on) {
      answer.result = S3Result::cancelled;
      co_return answer;
    }
  }
}

}  // namespace hicache
