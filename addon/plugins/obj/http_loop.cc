#include "plugins/obj/http_loop.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "util/clock.h"

namespace hicache {
namespace {

constexpr int events_max = 64;
// What is taken from a socket, and given to one, at once.
constexpr long buffer_bytes_min = 64 << 10, buffer_bytes_max = 512 << 10;
// Marks a socket that epoll knows.
char known_socket;

std::string_view trimmed(std::string_view text) {
  const size_t from = text.find_first_not_of(" \t\r\n");
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(" \t\r\n") - from + 1);
}

}  // namespace

// What libcurl calls.
struct HttpCallbacks {
  static size_t read(char* to, size_t size, size_t count, void* at) {
    auto& exchange = *static_cast<HttpExchange*>(at);
    const uint64_t now = std::min<uint64_t>(size * count, exchange.body_bytes - std::min(exchange.body_at_, exchange.body_bytes));
    if (now == 0) return 0;
    if (!exchange.give_body(exchange.body_at_, reinterpret_cast<uint8_t*>(to), static_cast<size_t>(now))) return curl::read_abort;
    exchange.body_at_ += now;
    return static_cast<size_t>(now);
  }
  // Only to the beginning, when libcurl sends everything again over another connection.
  static int seek(void* at, int64_t offset, int origin) {
    if (origin != SEEK_SET || offset < 0) return 1;
    auto& exchange = *static_cast<HttpExchange*>(at);
    exchange.sent_again = true;
    exchange.body_at_ = static_cast<uint64_t>(offset);
    return 0;
  }
  static size_t header(char* from, size_t size, size_t count, void* at) {
    auto& exchange = *static_cast<HttpExchange*>(at);
    const std::string_view line(from, size * count);
    if (line.substr(0, 5) == "HTTP/") {
      exchange.answer_begins();
      const size_t space = line.find(' ');
      exchange.status = 0;
      for (size_t i = space == std::string_view::npos ? line.size() : space + 1; i < line.size() && line[i] >= '0' && line[i] <= '9'; i++) exchange.status = exchange.status * 10 + (line[i] - '0');
    } else if (const size_t colon = line.find(':'); colon != std::string_view::npos) {
      exchange.take_header(trimmed(line.substr(0, colon)), trimmed(line.substr(colon + 1)));
    } else if (trimmed(line).empty() && exchange.status >= 200 && !exchange.headers_end()) {
      return 0;
    }
    return line.size();
  }
  static size_t write(char* from, size_t size, size_t count, void* at) {
    auto& exchange = *static_cast<HttpExchange*>(at);
    return exchange.take_body(reinterpret_cast<const uint8_t*>(from), size * count) ? size * count : 0;
  }
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
    : api_(api), options_(std::move(options)), epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), connections_(options_.connections) {
  if (!epoll_ || !wake_) throw std::system_error(errno, std::generic_category(), "setting up an HTTP thread");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = wake_.get();
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) throw std::system_error(errno, std::generic_category(), "epoll_ctl");
  multi_ = api_.multi_init();
  if (multi_ == nullptr) throw std::system_error(ENOMEM, std::generic_category(), "curl_multi_init");
  api_.multi_setopt(multi_, curl::multi_option::socket_function, &HttpCallbacks::socket);
  api_.multi_setopt(multi_, curl::multi_option::socket_data, this);
  api_.multi_setopt(multi_, curl::multi_option::timer_function, &HttpCallbacks::timer);
  api_.multi_setopt(multi_, curl::multi_option::timer_data, this);
  api_.multi_setopt(multi_, curl::multi_option::pipelining, 0L);
  api_.multi_setopt(multi_, curl::multi_option::max_connects, static_cast<long>(options_.connections));
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

void HttpLoop::work() {
  pthread_setname_np(pthread_self(), "hicache-http");
  epoll_event events[events_max];
  while (true) {
    const int count = ::epoll_wait(epoll_.get(), events, events_max, wait_ms());
    for (int i = 0; i < count; i++) {
      if (events[i].data.fd == wake_.get()) {
        eventfd_t ignored;
        ::eventfd_read(wake_.get(), &ignored);
        continue;
      }
      const uint32_t what = events[i].events;
      const int mask = (what & EPOLLIN ? curl::select_in : 0) | (what & EPOLLOUT ? curl::select_out : 0) | (what & (EPOLLERR | EPOLLHUP) ? curl::select_error : 0);
      int left = 0;
      api_.multi_socket_action(multi_, events[i].data.fd, mask, &left);
    }
    if (curl_due_ns_ >= 0 && now_ns() >= curl_due_ns_) {
      curl_due_ns_ = -1;
      int left = 0;
      api_.multi_socket_action(multi_, curl::socket_timeout, 0, &left);
    }
    take_ended();
    fire_timers();
    take_posted();
    resume_ended();
    start_waiting();
    std::lock_guard lock(mutex_);
    if (stopping_ && posted_.empty() && running_ == 0 && waiting_.empty() && ended_.empty() && timers_.empty()) break;
  }
  for (curl::Easy* easy : idle_) api_.easy_cleanup(easy);
  api_.multi_cleanup(multi_);
}

int HttpLoop::wait_ms() const {
  if (!ended_.empty()) return 0;
  int64_t due = curl_due_ns_;
  if (!timers_.empty() && (due < 0 || timers_.begin()->first < due)) due = timers_.begin()->first;
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

void HttpLoop::enqueue(HttpExchange& exchange) {
  exchange.code = exchange.status = exchange.os_errno = 0;
  exchange.cancelled = exchange.sent_again = false;
  exchange.error_text[0] = '\0';
  exchange.body_at_ = 0;
  exchange.place_ = HttpExchange::Place::waiting;
  waiting_.push_back(&exchange);
}

void HttpLoop::start_waiting() {
  while (!waiting_.empty() && running_ < connections()) {
    HttpExchange& exchange = *waiting_.front();
    waiting_.pop_front();
    if (start(exchange)) continue;
    exchange.place_ = HttpExchange::Place::nowhere;
    exchange.code = curl::out_of_memory;
    ended_.push_back(&exchange);
  }
}

bool HttpLoop::start(HttpExchange& exchange) {
  curl::Easy* easy = nullptr;
  if (idle_.empty()) {
    easy = api_.easy_init();
    if (easy == nullptr) return false;
  } else {
    easy = idle_.back();
    idle_.pop_back();
  }
  prepare(exchange, easy);
  if (api_.multi_add_handle(multi_, easy) != 0) {
    api_.easy_cleanup(easy);
    return false;
  }
  exchange.easy_ = easy;
  exchange.place_ = HttpExchange::Place::running;
  running_++;
  return true;
}

void HttpLoop::prepare(HttpExchange& exchange, curl::Easy* easy) {
  namespace option = curl::option;
  const auto set = [&](int which, auto value) { api_.easy_setopt(easy, which, value); };
  api_.easy_reset(easy);
  set(option::no_signal, 1L);
  set(option::http_version, static_cast<long>(curl::http_version_1_1));
  set(option::follow_location, 0L);
  set(option::no_progress, 1L);
  set(option::path_as_is, 1L);
  set(option::tcp_nodelay, 1L);
  set(option::tcp_keepalive, 1L);
  // A thread that hangs in name resolution is left behind, not waited for.
  set(option::quick_exit, 1L);
  set(option::connect_timeout_ms, options_.connect_timeout_ms);
  set(option::timeout_ms, exchange.timeout_ms);
  set(option::low_speed_limit, 1L);
  set(option::low_speed_time, options_.stalled_s);
  // An empty proxy is none, whatever the environment says.
  set(option::proxy, options_.proxy.c_str());
  set(option::no_proxy, "");
  set(option::suppress_connect_headers, 1L);
  if (!options_.ca_bundle.empty()) set(option::ca_info, options_.ca_bundle.c_str());
  set(option::error_buffer, exchange.error_text);
  set(option::private_data, static_cast<void*>(&exchange));
  set(option::header_function, &HttpCallbacks::header);
  set(option::header_data, static_cast<void*>(&exchange));
  set(option::write_function, &HttpCallbacks::write);
  set(option::write_data, static_cast<void*>(&exchange));
  set(option::buffer_size, std::clamp(static_cast<long>(exchange.answer_bytes_hint), buffer_bytes_min, buffer_bytes_max));
  set(option::url, exchange.url.c_str());
  if (exchange.method == "HEAD") {
    set(option::no_body, 1L);
  } else if (exchange.sends_body) {
    set(option::upload, 1L);
    set(option::in_file_size_large, static_cast<int64_t>(exchange.body_bytes));
    set(option::read_function, &HttpCallbacks::read);
    set(option::read_data, static_cast<void*>(&exchange));
    set(option::seek_function, &HttpCallbacks::seek);
    set(option::seek_data, static_cast<void*>(&exchange));
    set(option::upload_buffer_size, std::clamp(static_cast<long>(exchange.body_bytes), buffer_bytes_min, buffer_bytes_max));
    if (exchange.method != "PUT") set(option::custom_request, exchange.method.c_str());
  } else if (exchange.method != "GET") {
    set(option::custom_request, exchange.method.c_str());
  }
  exchange.list_.clear();
  exchange.list_.reserve(exchange.header_lines.size());
  for (std::string& line : exchange.header_lines) {
    exchange.list_.push_back({line.data(), nullptr});
    if (exchange.list_.size() > 1) exchange.list_[exchange.list_.size() - 2].next = &exchange.list_.back();
  }
  set(option::http_header, exchange.list_.empty() ? nullptr : exchange.list_.data());
}

void HttpLoop::end_running(HttpExchange& exchange, int code) {
  curl::Easy* const easy = exchange.easy_;
  long value = 0;
  if (code != curl::ok && api_.easy_getinfo(easy, curl::info::os_errno, &value) == 0) exchange.os_errno = static_cast<int>(value);
  api_.multi_remove_handle(multi_, easy);
  idle_.push_back(easy);
  running_--;
  exchange.easy_ = nullptr;
  exchange.place_ = HttpExchange::Place::nowhere;
  exchange.code = code;
  if (code != curl::ok && exchange.error_text[0] == '\0') std::strncpy(exchange.error_text, api_.easy_strerror(code), sizeof(exchange.error_text) - 1);
  ended_.push_back(&exchange);
}

void HttpLoop::take_ended() {
  int left = 0;
  while (curl::Message* const message = api_.multi_info_read(multi_, &left)) {
    if (message->kind != curl::message_done) continue;
    // The message is gone once its handle is removed.
    const int code = message->data.result;
    void* exchange = nullptr;
    api_.easy_getinfo(message->easy, curl::info::private_data, &exchange);
    end_running(*static_cast<HttpExchange*>(exchange), code);
  }
}

void HttpLoop::resume_ended() {
  // Each may start others, or end some that run.
  while (!ended_.empty()) {
    std::vector<HttpExchange*> taken;
    taken.swap(ended_);
    for (HttpExchange* exchange : taken) std::exchange(exchange->then_, {}).resume();
  }
}

void HttpLoop::cancel(HttpExchange& exchange) {
  if (exchange.place_ == HttpExchange::Place::nowhere) return;
  exchange.cancelled = true;
  if (exchange.place_ == HttpExchange::Place::running) return end_running(exchange, curl::aborted_by_callback);
  std::erase(waiting_, &exchange);
  exchange.place_ = HttpExchange::Place::nowhere;
  exchange.code = curl::aborted_by_callback;
  ended_.push_back(&exchange);
}

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

void HttpLoop::socket_changed(int socket, int what, void* known) {
  if (what == curl::poll::remove) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, socket, nullptr);
    api_.multi_assign(multi_, socket, nullptr);
    return;
  }
  // Servers that send an answer in two pieces, and wait for the first to be acknowledged (radosgw unless tcp_nodelay is set), would otherwise take 40 ms a request.
  const int at_once = 1;
  if (what & curl::poll::in) ::setsockopt(socket, IPPROTO_TCP, TCP_QUICKACK, &at_once, sizeof(at_once));
  epoll_event event{};
  event.data.fd = socket;
  event.events = (what & curl::poll::in ? static_cast<uint32_t>(EPOLLIN) : 0u) | (what & curl::poll::out ? static_cast<uint32_t>(EPOLLOUT) : 0u);
  if (known == nullptr) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket, &event);
    api_.multi_assign(multi_, socket, &known_socket);
  } else {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, socket, &event);
  }
}

}  // namespace hicache
