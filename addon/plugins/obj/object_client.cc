#include "plugins/obj/object_client.h"

#include <condition_variable>

#include "util/clock.h"

namespace hicache {
namespace {

constexpr unsigned connections = 16;

class TextBody final : public BodySource {
 public:
  explicit TextBody(const std::string& text) : text_(text) {}
  HttpExchange::Piece piece(uint64_t at) override { return {reinterpret_cast<const uint8_t*>(text_.data()) + at, text_.size() - static_cast<size_t>(at), nullptr}; }

 private:
  const std::string& text_;
};

}  // namespace

ObjectClient::ObjectClient(const curl::Api& api, const ObjectOptions& options)
    : endpoint_(std::make_shared<ObjectEndpoint>(options)), loop_(api, {endpoint_->base(), options.ca_bundle, options.proxy, connections}), caller_(loop_, endpoint_, true) {}

S3Answer ObjectClient::request(const ObjectCall& call) {
  std::mutex mutex;
  std::condition_variable over;
  bool done = false;
  S3Answer answer;
  loop_.post([&] {
    run(call, next_++, [&](S3Answer result) {
      std::lock_guard lock(mutex);
      answer = std::move(result);
      done = true;
      // Inside the lock: the one that waits may be gone the moment it is given up.
      over.notify_one();
    });
  });
  std::unique_lock lock(mutex);
  over.wait(lock, [&] { return done; });
  return answer;
}

Detached ObjectClient::run(const ObjectCall& call, uint64_t id, std::function<void(S3Answer)> done) {
  S3Request request;
  request.method = call.method;
  request.key = call.key;
  for (const auto& [name, value] : call.query) {
    if (!request.query.empty()) request.query += '&';
    request.query.append(sigv4::encoded(name, false)).append("=").append(sigv4::encoded(value, false));
  }
  request.headers = call.headers;
  request.retries = call.retries;
  TextBody source(call.body);
  if (!call.body.empty()) {
    request.source = &source;
    request.body_bytes = call.body.size();
    request.payload_hash = hex_of(Sha256::of(call.body));
  }
  S3Answer answer;
  answer.result = S3Result::cancelled;
  if (!closed_) {
    CallScope scope(loop_, now_ns() + call.timeout_ms * 1'000'000);
    running_[id] = &scope;
    answer = co_await caller_.call(scope, request);
    running_.erase(id);
  }
  done(std::move(answer));
}

void ObjectClient::close() {
  loop_.post([this] {
    closed_ = true;
    for (const auto& [id, scope] : std::map<uint64_t, CallScope*>(running_)) scope->cancel();
  });
}

}  // namespace hicache
