// A thread that talks HTTP/1.1 to one server over a bounded number of connections, with timers, and work that other threads hand it.
//
// libcurl opens the connections: names, proxies, TLS and its certificates are its business. What is said over them is ours, because libcurl's own transfers copy every body once and cost more than
// the kernel does (docs/decisions.md has the figures): a body goes straight from where it lies to the socket, and from the socket to where it shall be.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "plugins/obj/curl_api.h"
#include "util/gate.h"
#include "util/unique_fd.h"

namespace hicache {

struct HttpOptions {
  std::string base;  // scheme://host[:port]
  std::string ca_bundle, proxy;
  unsigned connections = 4;
  long connect_timeout_ms = 3000;
  // A connection over which nothing moves for so long is given up.
  int64_t stalled_ms = 20'000;
};

// One request and its answer. Lives until it has ended; all calls are made on the loop's thread.
class HttpExchange {
 public:
  // Memory that may belong to an environment that ends.
  struct Piece {
    const uint8_t* data = nullptr;
    size_t bytes = 0;
    Gate* gate = nullptr;
  };
  struct Room {
    uint8_t* to = nullptr;
    size_t bytes = 0;
    Gate* gate = nullptr;
  };

  std::string method, target;  // target: path and query, encoded
  std::vector<std::string> header_lines;  // `Name: value`; Content-Length is the loop's
  bool sends_body = false;
  uint64_t body_bytes = 0;
  // Of all of it; 0 = none.
  int64_t timeout_ms = 0;

  // How it ended: libcurl's code, and what it says; the status is 0 when there was no answer.
  int code = 0, status = 0, os_errno = 0;
  bool cancelled = false;
  // It was sent a second time: the connection that it had used before was gone, perhaps with the answer.
  bool sent_again = false;
  // The memory of its body, or for its answer, belongs to an environment that has ended.
  bool memory_gone = false;
  std::string error_text;

 protected:
  ~HttpExchange() = default;
  // Of the body, from `at` on; at least a byte.
  virtual Piece body_piece(uint64_t at) { return {}; }
  // An answer begins, with a header at a time; names are as the server wrote them.
  virtual void answer_begins() {}
  virtual void take_header(std::string_view name, std::string_view value) {}
  // False ends the exchange.
  virtual bool headers_end() { return true; }
  // Where the next bytes of the body may be received at once; none: wherever.
  virtual Room body_room() { return {}; }
  // Bytes of the body; where they begin where the room began, they lie there already.
  virtual bool take_body(const uint8_t* from, size_t bytes) { return true; }

 private:
  friend class HttpLoop;
  enum class Place : uint8_t { nowhere, waiting, running };
  Place place_ = Place::nowhere;
  int64_t deadline_ns_ = 0;
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

  // Any thread: how many connections may be open at once; those that are too many end with what they do.
  void limit(unsigned connections) { connections_max_.store(connections, std::memory_order_relaxed); }
  unsigned connections() const { return connections_max_.load(std::memory_order_relaxed); }
  // Processor time of the thread.
  int64_t cpu_ns() const;

 private:
  friend struct HttpCallbacks;
  // A connection from its opening to its end, and what is said over it at the moment.
  struct Connection;
  using Place = std::list<std::unique_ptr<Connection>>::iterator;

  void work();
  void take_posted();
  void start_waiting();
  void resume_ended();
  void enqueue(HttpExchange& exchange);
  void set(Timer& timer, int64_t ms);
  void fire_timers();
  void look_at_time();
  void socket_changed(int socket, int what, void* known);
  int wait_ms() const;

  bool silent(Connection& connection);
  bool open(HttpExchange& exchange);
  void take_opened();
  void begin(Connection& connection, HttpExchange& exchange);
  void go_on(Connection& connection, bool readable);
  bool send_more(Connection& connection);
  bool receive_more(Connection& connection);
  // Bytes taken; less than there are: the answer is over. -1: it makes no sense, or is not wanted.
  int64_t feed(Connection& connection, const uint8_t* data, size_t bytes);
  bool take_head(Connection& connection, std::string_view head);
  bool take_body(Connection& connection, const uint8_t* data, size_t bytes);
  void answered(Connection& connection);
  void lost(Connection& connection, int code, int error, const char* what);
  void end(HttpExchange& exchange, int code);
  void close(Connection& connection);

  const curl::Api& api_;
  const HttpOptions options_;
  const bool secure_;      // the server is talked to through TLS
  const bool by_curl_;     // the first hop is
  const bool asks_proxy_;  // the request goes to a proxy that reads it
  UniqueFd epoll_, wake_;
  curl::Multi* multi_ = nullptr;
  std::deque<HttpExchange*> waiting_;
  std::vector<HttpExchange*> ended_;
  std::list<std::unique_ptr<Connection>> open_, closed_;
  std::vector<Connection*> idle_;
  int64_t curl_due_ns_ = -1, look_due_ns_ = -1;
  std::multimap<int64_t, Timer*> timers_;
  std::atomic<unsigned> connections_max_;
  std::vector<uint8_t> buffer_;

  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace hicache
