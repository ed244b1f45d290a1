// Memory that belongs to a JavaScript environment ends with it, and native threads may still be at work then. Whoever reads or writes such memory
// in user space does it inside touch(); close() returns when nobody is inside, and nobody gets in any more. (The kernel needs no gate: it
// answers EFAULT, or holds the pages itself.)
#pragma once

#include <mutex>
#include <shared_mutex>

namespace hicache {

class Gate {
 public:
  // False, without a call, once it is closed. What runs inside must not block.
  template <typename Call>
  bool touch(Call&& call) {
    std::shared_lock lock(mutex_);
    if (closed_) return false;
    call();
    return true;
  }
  bool closed() {
    std::shared_lock lock(mutex_);
    return closed_;
  }
  void close() {
    std::unique_lock lock(mutex_);
    closed_ = true;
  }

 private:
  std::shared_mutex mutex_;
  bool closed_ = false;
};

}  // namespace hicache
