#include "plugins/obj/http_loop.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "util/clock.h"

namespace hicache {
namespace {

constexpr int events_max = 64;
constexpr size_t buffer_bytes = 64 << 10;
// Of a status line with all headers, and of the line before a chunk.
constexpr size_t head_bytes_max = 256 << 10, chunk_line_bytes_max = 4 << 10;
constexpr size_t tls_piece_bytes = 256 << 10;
// As long as something waits for a deadline, it is looked for this often.
constexpr int64_t look_every_ns = 20'000'000;
// Marks a socket that epoll knows.
char known_socket;

std::string_view trimmed(std::string_view text) {
  const size_t from = text.find_first_not_of(" \t\r\n");
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(" \t\r\n") - from + 1);
}
bool same_name(std::string_view a, std::string_view b) { return a.size() == b.size() && ::strncasecmp(a.data(), b.data(), a.size()) == 0; }
// Is the word one of those between the commas?
bool lists(std::string_view value, std::string_view word) {
  while (true) {
    const size_t comma = value.find(',');
    if (same_name(trimmed(value.substr(0, comma)), word)) return true;
    if (comma == std::string_view::npos) return false;
    value.remove_prefix(comma + 1);
  }
}
bool number(std::string_view text, int base, uint64_t& out) {
  out = 0;
  if (text.empty() || text.size() > 15) return false;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 16;
    if (digit >= base) return false;
    out = out * static_cast<uint64_t>(base) + static_cast<uint64_t>(digit);
  }
  return true;
}
bool scheme_is(std::string_view url, std::string_view scheme) {
  const size_t end = url.find("://");
  return end != std::string_view::npos && same_name(url.substr(0, end), scheme);
}
template <typename Call>
bool in_gate(Gate* gate, Call&& call) {
  if (gate != nullptr) return gate->touch(call);
  call();
  return true;
}

}  // namespace

struct HttpLoop::Connection {
  enum class Part : uint8_t { head, body, chunk_line, chunk, chunk_end, trailer, over };

  explicit Connection(curl::Easy* handle) : easy(handle) {}
  curl::Easy* easy;
  char connect_error[curl::error_text_bytes] = {};
  int fd = -1;
  bool reused = false;
  HttpExchange* exchange = nullptr;  // nullptr: idle
  Place place;
  int64_t moved_ns = 0;

  // What is sent.
  std::string head;
  size_t head_at = 0;
  uint64_t body_at = 0;

  // What is received.
  Part part = Part::head;
  std::string text;  // of a head or a line that has not come as a whole
  uint64_t left = 0;
  bool until_close = false, keep = false, any = false, began_well = false;
  bool ending = false;  // the other side has sent its last: that is told once, so everything is read up to there

  bool sent() const { return head_at == head.size() && (exchange == nullptr || !exchange->sends_body || body_at == exchange->body_bytes); }
};

// What libcurl calls.
struct HttpCallbacks {
  static int socket(curl::Easy*, int fd, int what, void* at, void* known) {
    static_cast<HttpLoop*>(at)->socket_changed(fd, what, known);
    return 0;
  }
  static int timer(curl::Multi*, long ms, void* at) {
    static_cast<HttpLoop*>(at)->curl_due_ns_ = ms < 0 ? -1 : now_ns() + static_cast<int64_t>(ms) * 1'000'000;
    return 0;
  }
};

HttpLoop::HttpLoop(const curl::Api& api, HttpOptions options)
    : api_(api), options_(std::move(options)), secure_(options_.base.starts_with("https://")), by_curl_(secure_ || scheme_is(options_.proxy, "https")),
      asks_proxy_(!secure_ && (scheme_is(options_.proxy, "http") || scheme_is(options_.proxy, "https"))), epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      connections_max_(options_.connections), buffer_(buffer_bytes) {
  if (!epoll_ || !wake_) throw std::system_error(errno, std::generic_category(), "setting up an HTTP thread");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = static_cast<uint64_t>(wake_.get()) << 1 | 1;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) throw std::system_error(errno, std::generic_category(), "epoll_ctl");
  multi_ = api_.multi_init();
  if (multi_ == nullptr) throw std::system_error(ENOMEM, std::generic_category(), "curl_multi_init");
  api_.multi_setopt(multi_, curl::multi_option::socket_function, &HttpCallbacks::socket);
  api_.multi_setopt(multi_, curl::multi_option::socket_data, this);
  api_.multi_setopt(multi_, curl::multi_option::timer_function, &HttpCallbacks::timer);
  api_.multi_setopt(multi_, curl::multi_option::timer_data, this);
  api_.multi_setopt(multi_, curl::multi_option::pipelining, 0L);
  // Connections are kept by us, not by libcurl, which would close those that are too many for it.
  api_.multi_setopt(multi_, curl::multi_option::max_connects, 1L << 16);
  // No signal is ever handled here, also not one that a write to a closed socket raises.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::thread([this] { work(); });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    api_.multi_cleanup(multi_);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

HttpLoop::~HttpLoop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    ::eventfd_write(wake_.get(), 1);
  }
  thread_.join();
}

int64_t HttpLoop::cpu_ns() const {
  clockid_t clock;
  timespec time{};
  // std::thread hands its handle out to those who may change it.
  if (pthread_getcpuclockid(const_cast<std::thread&>(thread_).native_handle(), &clock) != 0 || ::clock_gettime(clock, &time) != 0) return 0;
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

void HttpLoop::post(std::function<void()> work) {
  std::lock_guard lock(mutex_);
  posted_.push_back(std::move(work));
  if (posted_.size() == 1) ::eventfd_write(wake_.get(), 1);
}

// ---- the thread ----

void HttpLoop::work() {
  pthread_setname_np(pthread_self(), "hicache-http");
  epoll_event events[events_max];
  while (true) {
    const int count = ::epoll_wait(epoll_.get(), events, events_max, wait_ms());
    for (int i = 0; i < count; i++) {
      const uint32_t what = events[i].events;
      if ((events[i].data.u64 & 1) == 0) {
        // Closed connections stay where they are until all events are through.
        auto& connection = *static_cast<Connection*>(events[i].data.ptr);
        connection.ending = connection.ending || (what & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0;
        go_on(connection, connection.ending || (what & EPOLLIN) != 0);
        continue;
      }
      const int fd = static_cast<int>(events[i].data.u64 >> 1);
      if (fd == wake_.get()) {
        eventfd_t ignored;
        ::eventfd_read(wake_.get(), &ignored);
        continue;
      }
      const int mask = (what & EPOLLIN ? curl::select_in : 0) | (what & EPOLLOUT ? curl::select_out : 0) | (what & (EPOLLERR | EPOLLHUP) ? curl::select_error : 0);
      int left = 0;
      api_.multi_socket_action(multi_, fd, mask, &left);
    }
    if (curl_due_ns_ >= 0 && now_ns() >= curl_due_ns_) {
      curl_due_ns_ = -1;
      int left = 0;
      api_.multi_socket_action(multi_, curl::socket_timeout, 0, &left);
    }
    take_opened();
    look_at_time();
    fire_timers();
    take_posted();
    resume_ended();
    start_waiting();
    closed_.clear();
    std::lock_guard lock(mutex_);
    if (stopping_ && posted_.empty() && waiting_.empty() && ended_.empty() && timers_.empty() && idle_.size() == open_.size()) break;
  }
  while (!open_.empty()) close(*open_.front());
  closed_.clear();
  api_.multi_cleanup(multi_);
}

int HttpLoop::wait_ms() const {
  if (!ended_.empty()) return 0;
  int64_t due = curl_due_ns_;
  const auto sooner = [&](int64_t other) {
    if (other >= 0 && (due < 0 || other < due)) due = other;
  };
  if (!timers_.empty()) sooner(timers_.begin()->first);
  sooner(look_due_ns_);
  if (due < 0) return -1;
  const int64_t left = due - now_ns();
  return left <= 0 ? 0 : static_cast<int>(std::min<int64_t>((left + 999'999) / 1'000'000, 60'000));
}

void HttpLoop::take_posted() {
  std::vector<std::function<void()>> taken;
  {
    std::lock_guard lock(mutex_);
    taken.swap(posted_);
  }
  for (const auto& one : taken) one();
}

void HttpLoop::resume_ended() {
  // Each may start others, or end some that run.
  while (!ended_.empty()) {
    std::vector<HttpExchange*> taken;
    taken.swap(ended_);
    for (HttpExchange* exchange : taken) std::exchange(exchange->then_, {}).resume();
  }
}

void HttpLoop::enqueue(HttpExchange& exchange) {
  exchange.code = exchange.status = exchange.os_errno = 0;
  exchange.cancelled = exchange.sent_again = exchange.memory_gone = false;
  exchange.error_text.clear();
  exchange.deadline_ns_ = exchange.timeout_ms > 0 ? now_ns() + exchange.timeout_ms * 1'000'000 : INT64_MAX;
  exchange.place_ = HttpExchange::Place::waiting;
  waiting_.push_back(&exchange);
}

void HttpLoop::start_waiting() {
  while (open_.size() > connections() && !idle_.empty()) close(*idle_.front());
  while (!waiting_.empty()) {
    HttpExchange& exchange = *waiting_.front();
    if (!idle_.empty()) {
      if (!silent(*idle_.back())) {
        close(*idle_.back());
        continue;
      }
      waiting_.pop_front();
      // The one that was used last: the others may be closed for want of work.
      Connection& connection = *idle_.back();
      idle_.pop_back();
      connection.reused = true;
      begin(connection, exchange);
    } else if (open_.size() < connections()) {
      waiting_.pop_front();
      if (!open(exchange)) end(exchange, curl::out_of_memory);
    } else {
      break;
    }
  }
  if (look_due_ns_ < 0 && (!waiting_.empty() || idle_.size() < open_.size())) look_due_ns_ = now_ns() + look_every_ns;
}

// Has nothing come over an idle connection? Whatever did would be taken for the next answer.
bool HttpLoop::silent(Connection& connection) {
  uint8_t byte = 0;
  size_t moved = 0;
  if (by_curl_) return api_.easy_recv(connection.easy, &byte, sizeof(byte), &moved) == curl::again;
  return ::recv(connection.fd, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

// Deadlines, and connections over which nothing moves.
void HttpLoop::look_at_time() {
  if (look_due_ns_ < 0) return;
  const int64_t now = now_ns();
  if (now < look_due_ns_) return;
  look_due_ns_ = -1;
  std::vector<Connection*> late;
  for (const auto& connection : open_) {
    if (connection->exchange == nullptr) continue;
    const bool stalled = connection->fd >= 0 && now - connection->moved_ns > options_.stalled_ms * 1'000'000;
    if (stalled || now >= connection->exchange->deadline_ns_) late.push_back(connection.get());
  }
  for (Connection* connection : late) {
    const bool deadline = now >= connection->exchange->deadline_ns_;
    HttpExchange& exchange = *connection->exchange;
    close(*connection);
    exchange.error_text = deadline ? "no answer in time" : "nothing moves over the connection any more";
    exchange.status = 0;
    end(exchange, curl::timed_out);
  }
  for (size_t i = 0; i < waiting_.size();) {
    HttpExchange& exchange = *waiting_[i];
    if (now < exchange.deadline_ns_) {
      i++;
      continue;
    }
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    exchange.error_text = "no connection was free in time";
    end(exchange, curl::timed_out);
  }
}

void HttpLoop::cancel(HttpExchange& exchange) {
  if (exchange.place_ == HttpExchange::Place::nowhere) return;
  exchange.cancelled = true;
  if (exchange.place_ == HttpExchange::Place::waiting) {
    std::erase(waiting_, &exchange);
  } else {
    const auto found = std::find_if(open_.begin(), open_.end(), [&](const auto& one) { return one->exchange == &exchange; });
    if (found != open_.end()) close(**found);
  }
  end(exchange, curl::aborted_by_callback);
}

void HttpLoop::end(HttpExchange& exchange, int code) {
  exchange.place_ = HttpExchange::Place::nowhere;
  exchange.code = code;
  if (code != curl::ok && exchange.error_text.empty()) exchange.error_text = api_.easy_strerror(code);
  ended_.push_back(&exchange);
}

// ---- timers ----

void HttpLoop::set(Timer& timer, int64_t ms) {
  timer.cancelled = false;
  timer.place_ = timers_.emplace(now_ns() + ms * 1'000'000, &timer);
  timer.set_ = true;
}

void HttpLoop::cancel(Timer& timer) {
  if (!timer.set_) return;
  timer.cancelled = true;
  timers_.erase(timer.place_);
  // Due at once: whoever cancels is not to find the sleeper gone when it returns.
  timer.place_ = timers_.emplace(0, &timer);
}

void HttpLoop::fire_timers() {
  const int64_t now = timers_.empty() ? 0 : now_ns();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    Timer* const timer = timers_.begin()->second;
    timers_.erase(timers_.begin());
    timer->set_ = false;
    std::exchange(timer->then_, {}).resume();
  }
}

// ---- connections ----

void HttpLoop::socket_changed(int socket, int what, void* known) {
  if (what == curl::poll::remove) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, socket, nullptr);
    api_.multi_assign(multi_, socket, nullptr);
    return;
  }
  epoll_event event{};
  event.data.u64 = static_cast<uint64_t>(socket) << 1 | 1;
  event.events = (what & curl::poll::in ? static_cast<uint32_t>(EPOLLIN) : 0u) | (what & curl::poll::out ? static_cast<uint32_t>(EPOLLOUT) : 0u);
  if (known == nullptr) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket, &event);
    api_.multi_assign(multi_, socket, &known_socket);
  } else {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, socket, &event);
  }
}

bool HttpLoop::open(HttpExchange& exchange) {
  namespace option = curl::option;
  curl::Easy* const easy = api_.easy_init();
  if (easy == nullptr) return false;
  auto connection = std::make_unique<Connection>(easy);
  const auto set = [&](int which, auto value) { api_.easy_setopt(easy, which, value); };
  set(option::url, options_.base.c_str());
  set(option::connect_only, 1L);
  set(option::no_signal, 1L);
  set(option::http_version, static_cast<long>(curl::http_version_1_1));
  set(option::tcp_nodelay, 1L);
  set(option::tcp_keepalive, 1L);
  // A thread that hangs in name resolution is left behind, not waited for.
  set(option::quick_exit, 1L);
  set(option::connect_timeout_ms, options_.connect_timeout_ms);
  // An empty proxy is none, whatever the environment says.
  set(option::proxy, options_.proxy.c_str());
  set(option::no_proxy, "");
  if (!options_.ca_bundle.empty()) set(option::ca_info, options_.ca_bundle.c_str());
  set(option::error_buffer, connection->connect_error);
  set(option::private_data, static_cast<void*>(connection.get()));
  if (api_.multi_add_handle(multi_, easy) != 0) {
    api_.easy_cleanup(easy);
    return false;
  }
  connection->exchange = &exchange;
  connection->moved_ns = now_ns();
  exchange.place_ = HttpExchange::Place::running;
  open_.push_front(std::move(connection));
  open_.front()->place = open_.begin();
  return true;
}

void HttpLoop::take_opened() {
  int left = 0;
  while (curl::Message* const message = api_.multi_info_read(multi_, &left)) {
    if (message->kind != curl::message_done) continue;
    const int code = message->data.result;
    void* at = nullptr;
    api_.easy_getinfo(message->easy, curl::info::private_data, &at);
    auto& connection = *static_cast<Connection*>(at);
    HttpExchange& exchange = *connection.exchange;
    if (code == curl::ok) {
      // The handle stays where it is: libcurl would close the connection with it.
      int fd = -1;
      api_.easy_getinfo(connection.easy, curl::info::active_socket, &fd);
      epoll_event event{};
      event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
      event.data.ptr = &connection;
      // libcurl has let go of the connection, and would close it one day as one that nobody uses: asking for a byte makes the handle hold it until its end.
      uint8_t byte = 0;
      size_t moved = 0;
      const bool held = fd >= 0 && api_.easy_recv(connection.easy, &byte, sizeof(byte), &moved) == curl::again;
      if (held && ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) {
        connection.fd = fd;
        begin(connection, exchange);
        continue;
      }
    }
    long error = 0;
    if (api_.easy_getinfo(connection.easy, curl::info::os_errno, &error) == 0) exchange.os_errno = static_cast<int>(error);
    exchange.error_text = connection.connect_error;
    close(connection);
    end(exchange, code == curl::ok ? curl::couldnt_connect : code);
  }
}

void HttpLoop::close(Connection& connection) {
  if (connection.fd >= 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection.fd, nullptr);
  std::erase(idle_, &connection);
  api_.multi_remove_handle(multi_, connection.easy);
  api_.easy_cleanup(connection.easy);
  connection.easy = nullptr;
  connection.fd = -1;
  connection.exchange = nullptr;
  closed_.splice(closed_.begin(), open_, connection.place);
}

// ---- what is said ----

void HttpLoop::begin(Connection& connection, HttpExchange& exchange) {
  connection.exchange = &exchange;
  connection.moved_ns = now_ns();
  exchange.place_ = HttpExchange::Place::running;
  std::string& head = connection.head;
  head.clear();
  head.append(exchange.method).append(" ");
  // A proxy wants to know whom it shall ask; through TLS it does not see it, and one that only passes bytes on (SOCKS) does not look.
  if (asks_proxy_) head.append(options_.base);
  head.append(exchange.target).append(" HTTP/1.1\r\n");
  for (const std::string& line : exchange.header_lines) head.append(line).append("\r\n");
  if (exchange.sends_body) head.append("Content-Length: ").append(std::to_string(exchange.body_bytes)).append("\r\n");
  head.append("\r\n");
  connection.head_at = 0;
  connection.body_at = 0;
  connection.part = Connection::Part::head;
  connection.text.clear();
  connection.left = 0;
  connection.until_close = connection.any = connection.began_well = false;
  connection.keep = true;
  go_on(connection, false);
}

void HttpLoop::go_on(Connection& connection, bool readable) {
  if (connection.easy == nullptr) return;
  if (connection.exchange == nullptr) {
    // What comes unasked is the server's good-bye.
    if (readable && connection.fd >= 0) close(connection);
    return;
  }
  if (!connection.sent() && !send_more(connection)) return;
  if (readable) receive_more(connection);
}

// False: the connection is gone.
bool HttpLoop::send_more(Connection& connection) {
  HttpExchange& exchange = *connection.exchange;
  while (!connection.sent()) {
    HttpExchange::Piece piece;
    if (exchange.sends_body && connection.body_at < exchange.body_bytes) {
      piece = exchange.body_piece(connection.body_at);
      piece.bytes = static_cast<size_t>(std::min<uint64_t>(piece.bytes, exchange.body_bytes - connection.body_at));
      // TLS says how far it is when all of a piece is out, and nothing before: so that it can be told from one that does not move, it gets little.
      if (by_curl_) piece.bytes = std::min(piece.bytes, tls_piece_bytes);
    }
    const size_t head_left = connection.head.size() - connection.head_at;
    const bool with_body = exchange.sends_body && connection.body_at < exchange.body_bytes;
    size_t moved = 0;
    int failed = 0;
    bool again = false;
    const bool there = (!with_body || piece.bytes > 0) && in_gate(piece.gate, [&] {
      if (by_curl_) {
        const void* const from = head_left > 0 ? static_cast<const void*>(connection.head.data() + connection.head_at) : piece.data;
        const int code = api_.easy_send(connection.easy, from, head_left > 0 ? head_left : piece.bytes, &moved);
        again = code == curl::again;
        failed = code == curl::ok || again ? 0 : EIO;
      } else {
        iovec parts[2] = {{connection.head.data() + connection.head_at, head_left}, {const_cast<uint8_t*>(piece.data), piece.bytes}};
        msghdr message{};
        message.msg_iov = head_left > 0 ? parts : parts + 1;
        message.msg_iovlen = head_left > 0 ? 2 : 1;
        const ssize_t count = ::sendmsg(connection.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count >= 0) moved = static_cast<size_t>(count);
        else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) again = true;
        else failed = errno;
      }
    });
    if (!there) {
      close(connection);
      exchange.error_text = "the memory was taken away";
      exchange.memory_gone = true;
      end(exchange, curl::read_error);
      return false;
    }
    if (failed != 0) {
      // It may have said why before it stopped listening.
      connection.ending = true;
      if (!receive_more(connection)) return false;
      if (connection.exchange == &exchange) lost(connection, curl::send_error, failed, "the connection broke while the request was sent");
      return false;
    }
    if (again) return true;
    connection.moved_ns = now_ns();
    const size_t of_head = std::min(moved, head_left);
    connection.head_at += of_head;
    connection.body_at += moved - of_head;
  }
  // Servers that send an answer in two pieces, and wait for the first to be acknowledged (radosgw unless tcp_nodelay is set), would otherwise take 40 ms a request.
  const int at_once = 1;
  ::setsockopt(connection.fd, IPPROTO_TCP, TCP_QUICKACK, &at_once, sizeof(at_once));
  return true;
}

// False: the connection does not belong to this exchange any more.
bool HttpLoop::receive_more(Connection& connection) {
  HttpExchange& exchange = *connection.exchange;
  while (true) {
    HttpExchange::Room room;
    if (connection.part == Connection::Part::body && connection.began_well && !connection.until_close) {
      room = exchange.body_room();
      // A body that is longer than what is wanted is refused where it is looked at.
      room.bytes = room.bytes < connection.left ? 0 : static_cast<size_t>(connection.left);
    }
    const bool direct = room.bytes > 0;
    if (!direct) room = {buffer_.data(), buffer_.size(), nullptr};
    size_t moved = 0;
    int failed = 0;
    bool again = false, over = false;
    const bool there = in_gate(room.gate, [&] {
      if (by_curl_) {
        const int code = api_.easy_recv(connection.easy, room.to, room.bytes, &moved);
        again = code == curl::again;
        failed = code == curl::ok || again ? 0 : EIO;
        over = code == curl::ok && moved == 0;
      } else {
        // A byte more than there may be: nobody must find it in front of the next answer.
        uint8_t surplus = 0;
        iovec parts[2] = {{room.to, room.bytes}, {&surplus, direct ? 1u : 0u}};
        msghdr message{};
        message.msg_iov = parts;
        message.msg_iovlen = 2;
        const ssize_t count = ::recvmsg(connection.fd, &message, MSG_DONTWAIT);
        if (count > 0) moved = static_cast<size_t>(count);
        else if (count == 0) over = true;
        else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) again = true;
        else failed = errno;
      }
    });
    if (!there) {
      close(connection);
      exchange.error_text = "the memory was taken away";
      exchange.memory_gone = true;
      end(exchange, curl::write_error);
      return false;
    }
    if (again) return true;
    if (over && connection.part == Connection::Part::body && connection.until_close) {
      connection.part = Connection::Part::over;
      connection.keep = false;
      answered(connection);
      return false;
    }
    if (failed != 0 || over) {
      const bool in_answer = connection.any;
      lost(connection, in_answer ? curl::partial_file : failed != 0 ? curl::recv_error : curl::got_nothing, failed, in_answer ? "the answer broke off" : "the connection was closed before an answer came");
      return false;
    }
    connection.moved_ns = now_ns();
    connection.any = true;
    if (moved > room.bytes) {
      moved = room.bytes;
      connection.keep = false;
    }
    const int64_t taken = feed(connection, room.to, moved);
    if (taken < 0) {
      close(connection);
      if (exchange.error_text.empty()) exchange.error_text = "the answer is not wanted";
      end(exchange, curl::write_error);
      return false;
    }
    if (connection.part == Connection::Part::over) {
      // What comes after an answer is none of ours: nobody knows any more where one begins.
      if (static_cast<size_t>(taken) < moved) connection.keep = false;
      answered(connection);
      return false;
    }
    // All that was there; the next that comes is told again.
    if (!by_curl_ && !connection.ending && moved < room.bytes) return true;
  }
}

void HttpLoop::answered(Connection& connection) {
  HttpExchange& exchange = *connection.exchange;
  // A request that was not even taken as a whole leaves the connection in the midst of it.
  if (connection.keep && connection.sent() && !connection.ending) {
    connection.exchange = nullptr;
    idle_.push_back(&connection);
  } else {
    close(connection);
  }
  end(exchange, curl::ok);
}

void HttpLoop::lost(Connection& connection, int code, int error, const char* what) {
  HttpExchange& exchange = *connection.exchange;
  const bool stale = connection.reused && !connection.any;
  const bool sent = connection.head_at > 0;
  close(connection);
  exchange.status = 0;
  if (stale) {
    // It had been closed while it was idle, and that was not known yet: nothing is wrong with the request.
    exchange.sent_again = exchange.sent_again || sent;
    exchange.place_ = HttpExchange::Place::waiting;
    waiting_.push_front(&exchange);
    return;
  }
  exchange.os_errno = error;
  exchange.error_text = what;
  if (error > 0 && error != EIO) exchange.error_text.append(": ").append(std::system_category().message(error));
  end(exchange, code);
}

int64_t HttpLoop::feed(Connection& connection, const uint8_t* data, size_t bytes) {
  using Part = Connection::Part;
  size_t at = 0;
  const auto malformed = [&] {
    connection.exchange->error_text = "the server does not answer in HTTP";
    return int64_t{-1};
  };
  // Up to an end that may come in pieces. False: more is to come.
  std::string_view whole;
  const auto until = [&](std::string_view mark, size_t most, bool& too_long) {
    const std::string_view rest(reinterpret_cast<const char*>(data) + at, bytes - at);
    if (connection.text.empty()) {
      const size_t end = rest.find(mark);
      if (end != std::string_view::npos) {
        whole = rest.substr(0, end + mark.size());
        at += whole.size();
        return true;
      }
    }
    const size_t before = connection.text.size();
    connection.text.append(rest);
    const size_t end = connection.text.find(mark, before < mark.size() ? 0 : before - mark.size());
    if (end == std::string::npos) {
      at = bytes;
      too_long = connection.text.size() > most;
      return false;
    }
    at += end + mark.size() - before;
    connection.text.resize(end + mark.size());
    whole = connection.text;
    return true;
  };
  while (at < bytes || connection.part == Part::over) {
    bool too_long = false;
    switch (connection.part) {
      case Part::head: {
        if (!until("\r\n\r\n", head_bytes_max, too_long)) {
          if (too_long) return malformed();
          break;
        }
        const std::string head(whole);
        connection.text.clear();
        if (!take_head(connection, head)) return -1;
        break;
      }
      case Part::body: {
        const size_t now = connection.until_close ? bytes - at : static_cast<size_t>(std::min<uint64_t>(connection.left, bytes - at));
        if (!take_body(connection, data + at, now)) return -1;
        at += now;
        if (connection.until_close) break;
        connection.left -= now;
        if (connection.left == 0) connection.part = Part::over;
        break;
      }
      case Part::chunk_line: {
        if (!until("\r\n", chunk_line_bytes_max, too_long)) {
          if (too_long) return malformed();
          break;
        }
        const std::string_view size = trimmed(whole.substr(0, whole.find(';')));
        const bool is_number = number(size, 16, connection.left);
        connection.text.clear();
        if (!is_number) return malformed();
        connection.part = connection.left == 0 ? Part::trailer : Part::chunk;
        break;
      }
      case Part::chunk: {
        const size_t now = static_cast<size_t>(std::min<uint64_t>(connection.left, bytes - at));
        if (!take_body(connection, data + at, now)) return -1;
        at += now;
        connection.left -= now;
        if (connection.left == 0) connection.part = Part::chunk_end;
        break;
      }
      case Part::chunk_end:
      case Part::trailer: {
        if (!until("\r\n", head_bytes_max, too_long)) {
          if (too_long) return malformed();
          break;
        }
        const bool empty = whole.size() == 2;
        connection.text.clear();
        if (connection.part == Part::chunk_end) {
          if (!empty) return malformed();
          connection.part = Part::chunk_line;
        } else if (empty) {
          connection.part = Part::over;
        }
        break;
      }
      case Part::over:
        return static_cast<int64_t>(at);
    }
  }
  return static_cast<int64_t>(at);
}

bool HttpLoop::take_head(Connection& connection, std::string_view head) {
  using Part = Connection::Part;
  HttpExchange& exchange = *connection.exchange;
  const auto malformed = [&] {
    exchange.error_text = "the server does not answer in HTTP";
    return false;
  };
  const size_t first = head.find("\r\n");
  const std::string_view line = head.substr(0, first);
  uint64_t status = 0;
  if (!line.starts_with("HTTP/1.") || line.size() < 12 || !number(line.substr(9, 3), 10, status)) return malformed();
  // A word in between: the answer itself is still to come.
  if (status < 200) return status != 101 || malformed();
  exchange.status = static_cast<int>(status);
  connection.keep = line[7] != '0';
  exchange.answer_begins();
  bool chunked = false, has_length = false;
  uint64_t length = 0;
  for (size_t at = first + 2; at < head.size();) {
    const size_t end = head.find("\r\n", at);
    const std::string_view one = head.substr(at, end - at);
    at = end + 2;
    if (one.empty()) continue;
    const size_t colon = one.find(':');
    if (colon == std::string_view::npos || one.find_first_of(std::string_view("\r\n\0", 3)) != std::string_view::npos) return malformed();
    const std::string_view name = trimmed(one.substr(0, colon)), value = trimmed(one.substr(colon + 1));
    if (same_name(name, "content-length")) {
      uint64_t said = 0;
      if (!number(value, 10, said) || (has_length && said != length)) return malformed();
      has_length = true;
      length = said;
    } else if (same_name(name, "transfer-encoding")) {
      // Nothing else was asked for, and nothing else is understood.
      chunked = same_name(value, "chunked");
      if (!chunked && !same_name(value, "identity")) return malformed();
    } else if (same_name(name, "connection")) {
      if (lists(value, "close")) connection.keep = false;
      else if (lists(value, "keep-alive")) connection.keep = true;
    }
    exchange.take_header(name, value);
  }
  // Whoever says two lengths may be two servers that disagree.
  if (chunked && has_length) connection.keep = false;
  const bool empty = exchange.method == "HEAD" || status == 204 || status == 304;
  connection.began_well = status < 300;
  if (!exchange.headers_end()) return false;
  connection.left = length;
  connection.until_close = !empty && !chunked && !has_length;
  if (empty) connection.part = Part::over;
  else if (chunked) connection.part = Part::chunk_line;
  else connection.part = has_length && length == 0 ? Part::over : Part::body;
  return true;
}

bool HttpLoop::take_body(Connection& connection, const uint8_t* data, size_t bytes) { return bytes == 0 || connection.exchange->take_body(data, bytes); }

}  // namespace hicache
