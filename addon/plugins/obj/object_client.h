// Requests apart from pages: listings, deletes of many, probes. One thread and a few connections of its own.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "plugins/obj/s3_call.h"

namespace hicache {

struct ObjectCall {
  std::string method, key;
  std::vector<std::pair<std::string, std::string>> query;  // not encoded
  std::vector<sigv4::Header> headers;
  std::string body;
  int64_t timeout_ms = 10'000;
  unsigned retries = 3;
};

class ObjectClient {
 public:
  // Throws std::system_error.
  ObjectClient(const curl::Api& api, const ObjectOptions& options);
  // Nothing may be under way: whoever waits in request() holds the client.
  ~ObjectClient() = default;

  // Blocks until it has ended: for threads that may wait. Any thread; several at once.
  S3Answer request(const ObjectCall& call);
  // What is under way ends soon as cancelled, and so does everything that comes.
  void close();

 private:
  Detached run(const ObjectCall& call, uint64_t id, std::function<void(S3Answer)> done);

  std::shared_ptr<ObjectEndpoint> endpoint_;
  // On the loop's thread.
  std::map<uint64_t, CallScope*> running_;
  uint64_t next_ = 1;
  bool closed_ = false;
  HttpLoop loop_;
  S3Caller caller_;
};

}  // namespace hicache
