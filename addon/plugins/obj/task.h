// Coroutines of one thread: what takes several requests is written in the order in which it happens. Nothing here is for more than one thread.
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

namespace hicache {

// Begins when it is awaited, and goes on where it was awaited. Must be awaited to its end, or never begun.
template <typename Value>
class [[nodiscard]] Task {
 public:
  struct promise_type {
    std::optional<Value> value;
    std::exception_ptr thrown;
    std::coroutine_handle<> then;

    Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept {
      struct Final {
        bool await_ready() noexcept { return false; }
        std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> self) noexcept { return self.promise().then; }
        void await_resume() noexcept {}
      };
      return Final{};
    }
    void return_value(Value result) { value = std::move(result); }
    void unhandled_exception() { thrown = std::current_exception(); }
  };

  Task(Task&& other) noexcept : self_(std::exchange(other.self_, {})) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (self_) self_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> then) {
    self_.promise().then = then;
    return self_;
  }
  Value await_resume() {
    if (self_.promise().thrown) std::rethrow_exception(self_.promise().thrown);
    return std::move(*self_.promise().value);
  }

 private:
  explicit Task(std::coroutine_handle<promise_type> self) : self_(self) {}
  std::coroutine_handle<promise_type> self_;
};

// Begins at once and belongs to nobody. It must not throw.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

// Awaited by one, until `count` others have said that they are through.
class Countdown {
 public:
  explicit Countdown(size_t count) : left_(count) {}
  void one_done() {
    if (--left_ == 0 && then_) std::exchange(then_, {}).resume();
  }
  bool await_ready() const noexcept { return left_ == 0; }
  void await_suspend(std::coroutine_handle<> then) { then_ = then; }
  void await_resume() const noexcept {}

 private:
  size_t left_;
  std::coroutine_handle<> then_;
};

}  // namespace hicache
