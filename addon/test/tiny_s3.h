// A few of S3's answers, enough to walk every branch of the plugin under the sanitizers. What real servers do is a matter of the specs.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "test/check.h"

namespace hicache {

class TinyS3 {
 public:
  struct Object {
    std::string record, body, etag;
  };
  // What becomes of the requests whose key has this in it, so often; a letter each: '5' 500, 's' 503 with Retry-After 0, 'r' reset, 'h' hold until released, 'c' half of the body and then reset,
  // 'w' a wrong byte in the body, 'n' 501, 'x' another answer behind the right one, 'u' a body until the connection's end, 'k' in chunks of 7 bytes.
  void plan(const std::string& match, char fault, int times = 1) {
    std::lock_guard lock(mutex_);
    plans_.push_back({match, fault, times});
  }
  // Lets go of what is held; answers how many.
  int release() {
    std::lock_guard lock(mutex_);
    released_++;
    changed_.notify_all();
    return held_;
  }
  void wait_held(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return held_ >= count; });
  }
  void wait_closed() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return open_ == 0; });
  }
  std::map<std::string, Object> objects() {
    std::lock_guard lock(mutex_);
    return objects_;
  }
  void change(const std::string& key, const std::function<void(Object&)>& change) {
    std::lock_guard lock(mutex_);
    change(objects_[key]);
  }
  size_t uploads() {
    std::lock_guard lock(mutex_);
    return uploads_.size();
  }
  std::string endpoint() const { return "http://127.0.0.1:" + std::to_string(port_); }
  std::atomic<int> requests{0};

  TinyS3() {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0 && ::listen(listener_, 64) == 0);
    CHECK(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] {
      while (true) {
        const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (fd < 0) return;
        std::lock_guard lock(mutex_);
        open_++;
        threads_.emplace_back([this, fd] { serve(fd); });
      }
    });
  }
  ~TinyS3() {
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    ::close(listener_);
    release();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  struct Plan {
    std::string match;
    char fault;
    int times;
  };

  char fault_of(const std::string& key) {
    for (Plan& plan : plans_) {
      if (plan.times == 0 || key.find(plan.match) == std::string::npos) continue;
      plan.times--;
      return plan.fault;
    }
    return 0;
  }

  static std::string header(const std::string& head, const std::string& name) {
    const size_t at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return {};
    const size_t from = at + name.size() + 4;
    return head.substr(from, head.find("\r\n", from) - from);
  }

  void serve(int fd) {
    std::string input;
    char buffer[65536];
    bool open = true;
    const auto more = [&] {
      const ssize_t count = ::recv(fd, buffer, sizeof(buffer), 0);
      if (count > 0) input.append(buffer, static_cast<size_t>(count));
      return count > 0;
    };
    while (open) {
      size_t end;
      while ((end = input.find("\r\n\r\n")) == std::string::npos && (open = more())) {
      }
      if (!open) break;
      const std::string head = input.substr(0, end + 2);
      input.erase(0, end + 4);
      const std::string length = header(head, "Content-Length");
      const size_t bytes = length.empty() ? 0 : std::stoul(length);
      while (input.size() < bytes && (open = more())) {
      }
      if (!open) break;
      const std::string body = input.substr(0, bytes);
      input.erase(0, bytes);
      requests++;
      open = answer(fd, head, body);
    }
    ::close(fd);
    std::lock_guard lock(mutex_);
    open_--;
    changed_.notify_all();
  }

  bool send_all(int fd, const std::string& text) {
    size_t sent = 0;
    while (sent < text.size()) {
      const ssize_t count = ::send(fd, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) return false;
      sent += static_cast<size_t>(count);
    }
    return true;
  }
  bool reply(int fd, int status, const std::string& headers, const std::string& body, bool head) {
    return send_all(fd, "HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + headers + "\r\n" + (head ? "" : body));
  }
  static std::string error(const char* code) { return std::string("<Error><Code>") + code + "</Code><Message>as planned &amp; said</Message></Error>"; }

  bool answer(int fd, const std::string& head, const std::string& sent) {
    const std::string method = head.substr(0, head.find(' '));
    const size_t from = head.find(' ') + 1;
    const std::string target = head.substr(from, head.find(' ', from) - from);
    const std::string path = target.substr(0, target.find('?')), query = target.find('?') == std::string::npos ? "" : target.substr(target.find('?') + 1);
    const bool is_head = method == "HEAD";
    std::unique_lock lock(mutex_);
    const char fault = fault_of(target);
    if (fault == 'h') {
      const int now = released_;
      held_++;
      changed_.notify_all();
      changed_.wait(lock, [&] { return released_ != now; });
      held_--;
    }
    const auto say = [&](int status, const std::string& headers, const std::string& body) {
      lock.unlock();
      return reply(fd, status, headers, body, is_head);
    };
    if (fault == '5') return say(500, "", error("InternalError"));
    if (fault == 's') return say(503, "Retry-After: 0\r\n", error("SlowDown"));
    if (fault == 'n') return say(501, "", error("NotImplemented"));
    if (fault == 'r') {
      linger reset{1, 0};
      ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
      return false;
    }
    const auto found = objects_.find(path);
    const std::string tag = "\"" + std::to_string(++tags_) + "\"";
    if (method == "POST" && query == "uploads=") {
      uploads_[tags_] = {header(head, "x-amz-meta-hicache-nixl"), {}};
      return say(200, "", "<R><UploadId>" + std::to_string(tags_) + "</UploadId></R>");
    }
    if (const size_t at = query.find("uploadId="); at != std::string::npos) {
      const auto upload = uploads_.find(std::stoi(query.substr(at + 9)));
      if (upload == uploads_.end()) return say(404, "", error("NoSuchUpload"));
      if (method == "DELETE") {
        uploads_.erase(upload);
        return say(204, "", "");
      }
      if (method == "PUT") {
        upload->second.second[std::stoi(query.substr(query.find('=') + 1))] = sent;
        return say(200, "ETag: " + tag + "\r\n", "");
      }
      Object object{upload->second.first, "", tag};
      for (const auto& [number, part] : upload->second.second) object.body += part;
      objects_[path] = object;
      uploads_.erase(upload);
      return say(200, "", "<CompleteMultipartUploadResult/>");
    }
    if (method == "PUT") {
      if (found != objects_.end() && header(head, "if-none-match") == "*") return say(412, "", error("PreconditionFailed"));
      objects_[path] = {header(head, "x-amz-meta-hicache-nixl"), sent, tag};
      return say(200, "ETag: " + tag + "\r\n", "");
    }
    if (method == "DELETE") {
      if (found != objects_.end()) objects_.erase(found);
      return say(204, "", "");
    }
    if (found == objects_.end()) return say(404, "", error("NoSuchKey"));
    Object object = found->second;
    const std::string match = header(head, "if-match"), range = header(head, "range");
    if (!match.empty() && match != object.etag) return say(412, "", error("PreconditionFailed"));
    std::string headers = "ETag: " + object.etag + "\r\n" + (object.record.empty() ? "" : "x-amz-meta-hicache-nixl: " + object.record + "\r\n");
    int status = 200;
    if (!range.empty()) {
      const size_t first = std::stoul(range.substr(6)), last = std::min(std::stoul(range.substr(range.find('-') + 1)), object.body.size() - 1);
      headers += "Content-Range: bytes " + std::to_string(first) + "-" + std::to_string(last) + "/" + std::to_string(object.body.size()) + "\r\n";
      object.body = object.body.substr(first, last - first + 1);
      status = 206;
    }
    if (fault == 'w') object.body[object.body.size() / 2] ^= 1;
    if (fault == 'c') {
      lock.unlock();
      send_all(fd, "HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Length: " + std::to_string(object.body.size()) + "\r\n" + headers + "\r\n" + object.body.substr(0, object.body.size() / 2));
      return false;
    }
    if (fault == 'u' || fault == 'k') {
      lock.unlock();
      std::string text = "HTTP/1.1 " + std::to_string(status) + " X\r\n" + headers;
      if (fault == 'u') {
        send_all(fd, text + "\r\n" + object.body);
        return false;
      }
      text += "Transfer-Encoding: chunked\r\n\r\n";
      for (size_t at = 0; at < object.body.size(); at += 7) {
        const std::string piece = object.body.substr(at, 7);
        text += "00" + std::to_string(piece.size()) + ";name=value\r\n" + piece + "\r\n";
      }
      return send_all(fd, text + "0\r\nTrailer: value\r\n\r\n");
    }
    if (fault == 'x') {
      // In one piece with the answer: what comes once the next request is on its way no client can tell from its answer.
      lock.unlock();
      return send_all(fd, "HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Length: " + std::to_string(object.body.size()) + "\r\n" + headers + "\r\n" + (is_head ? "" : object.body) +
                              "HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\nWRONG");
    }
    return say(status, headers, object.body);
  }

  int listener_ = -1;
  uint16_t port_ = 0;
  std::thread acceptor_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::thread> threads_;
  std::vector<Plan> plans_;
  std::map<std::string, Object> objects_;
  std::map<int, std::pair<std::string, std::map<int, std::string>>> uploads_;
  int tags_ = 0, held_ = 0, released_ = 0, open_ = 0;
};

}  // namespace hicache
