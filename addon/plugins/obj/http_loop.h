// A thread that talks HTTP: libcurl's multi interface over epoll, a bounded number of connections, timers, and work that other threads hand it.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "plugins/obj/curl_api.h"
#include "util/unique_fd.h"

namespace hicache {

struct HttpOptions {
  std::string ca_bundle, proxy;
  unsigned connections = 4;
  long connect_timeout_ms = 3000;
  // A connection over which nothing moves for so long is given up.
  long stalled_s = 20;
};

// One request and its answer. Lives until it has ended; all calls are made on the loop's thread.
class HttpExchange {
 public:
  std::string method, url;
  std::vector<std::string> header_lines;  // `Name: value`
  bool sends_body = false;
  uint64_t body_bytes = 0;
  // Bytes of the answer that are expected: how much is taken from the socket at once.
  size_t answer_bytes_hint = 0;
  // Of all of it; 0 = none.
  long timeout_ms = 0;

  // How it ended: libcurl's code, and what it says; the status is 0 when there was no answer.
  int code = 0, status = 0, os_errno = 0;
  bool cancelled = false;
  // libcurl has sent it a second time: the connection that it had used before was gone, perhaps with the answer.
  bool sent_again = false;
  char error_text[curl::error_text_bytes] = {};

 protected:
  ~HttpExchange() = default;
  // Fills in at most `room` bytes of the body from `at` on; false: it cannot be had any more, and the exchange ends.
  virtual bool give_body(uint64_t at, uint8_t* to, size_t room) { return false; }
  // An answer begins (there may be several, and the last one counts), with a header at a time; names are as the server wrote them.
  virtual void answer_begins() {}
  virtual void take_header(std::string_view name, std::string_view value) {}
  // False ends the exchange.
  virtual bool headers_end() { return true; }
  virtual bool take_body(const uint8_t* from, size_t bytes) { return true; }

 private:
  friend class HttpLoop;
  friend struct HttpCallbacks;
  enum class Place : uint8_t { nowhere, waiting, running };
  Place place_ = Place::nowhere;
  curl::Easy* easy_ = nullptr;
  std::vector<curl::Slist> list_;
  uint64_t body_at_ = 0;
  std::coroutine_handle<> then_;
};

class HttpLoop {
 public:
  // Throws std::system_error.
  HttpLoop(const curl::Api& api, HttpOptions options);
  // Nothing may be under way; waits for the thread.
  ~HttpLoop();
  HttpLoop(const HttpLoop&) = delete;
  HttpLoop& operator=(const HttpLoop&) = delete;

  // Any thread: runs on the loop's thread.
  void post(std::function<void()> work);

  // ---- on the loop's thread ----
  // co_await: runs the exchange when a connection is free, to its end.
  auto run(HttpExchange& exchange) {
    struct Awaitable {
      HttpLoop& loop;
      HttpExchange& exchange;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> then) {
        exchange.then_ = then;
        loop.enqueue(exchange);
      }
      void await_resume() const noexcept {}
    };
    return Awaitable{*this, exchange};
  }
  // It ends as cancelled, soon; its connection is closed. Nothing happens when it is not under way.
  void cancel(HttpExchange& exchange);

  class Timer {
   public:
    bool cancelled = false;

   private:
    friend class HttpLoop;
    std::coroutine_handle<> then_;
    std::multimap<int64_t, Timer*>::iterator place_;
    bool set_ = false;
  };
  // co_await: goes on after that time, or when it is cancelled.
  auto sleep(Timer& timer, int64_t ms) {
    struct Awaitable {
      HttpLoop& loop;
      Timer& timer;
      int64_t ms;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> then) {
        timer.then_ = then;
        loop.set(timer, ms);
      }
      void await_resume() const noexcept {}
    };
    return Awaitable{*this, timer, ms};
  }
  void cancel(Timer& timer);

  // Any thread: how many connections may be busy at once; those that are too many end with what they do.
  void limit(unsigned connections) { connections_.store(connections, std::memory_order_relaxed); }
  unsigned connections() const { return connections_.load(std::memory_order_relaxed); }
  // Processor time of the thread.
  int64_t cpu_ns() const;

 private:
  friend struct HttpCallbacks;
  void work();
  void take_posted();
  void start_waiting();
  bool start(HttpExchange& exchange);
  void prepare(HttpExchange& exchange, curl::Easy* easy);
  void end_running(HttpExchange& exchange, int code);
  void take_ended();
  void resume_ended();
  void enqueue(HttpExchange& exchange);
  void set(Timer& timer, int64_t ms);
  void fire_timers();
  void socket_changed(int socket, int what, void* known);
  int wait_ms() const;

  const curl::Api& api_;
  const HttpOptions options_;
  UniqueFd epoll_, wake_;
  curl::Multi* multi_ = nullptr;
  std::deque<HttpExchange*> waiting_;
  std::vector<HttpExchange*> ended_;
  std::vector<curl::Easy*> idle_;
  size_t running_ = 0;
  int64_t curl_due_ns_ = -1;
  std::multimap<int64_t, Timer*> timers_;
  std::atomic<unsigned> connections_;

  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace hicache
