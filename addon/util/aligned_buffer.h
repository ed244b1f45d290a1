// Memory whose address and size suit O_DIRECT.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "agent/protocol.h"

namespace hicache {

inline constexpr size_t round_up(size_t bytes, size_t unit = block_bytes) { return (bytes + unit - 1) / unit * unit; }
inline constexpr size_t round_down(size_t bytes, size_t unit = block_bytes) { return bytes / unit * unit; }
inline bool is_aligned(const void* address, size_t unit = block_bytes) {
  return reinterpret_cast<uintptr_t>(address) % unit == 0;
}

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes, size_t alignment = block_bytes) : bytes_(round_up(bytes, alignment)) {
    data_ = static_cast<uint8_t*>(std::aligned_alloc(alignment, bytes_));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    if (this != &other) {
      std::free(data_);
      data_ = std::exchange(other.data_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  ~AlignedBuffer() { std::free(data_); }

  uint8_t* data() const { return data_; }
  size_t size() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace hicache
