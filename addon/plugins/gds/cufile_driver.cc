#include "plugins/gds/cufile_driver.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <new>

#include "util/unique_fd.h"

namespace hicache::cufile {
namespace {

constexpr int standard_descriptors = 3;

// While it lives the standard descriptors are open, and at its end they still are.
class StandardDescriptors {
 public:
  StandardDescriptors() {
    for (int fd = 0; fd < standard_descriptors; fd++) {
      if (::fcntl(fd, F_GETFD) < 0) put(fd, ::open("/dev/null", O_RDWR));
      copies_[fd] = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, standard_descriptors));
    }
  }
  StandardDescriptors(const StandardDescriptors&) = delete;
  StandardDescriptors& operator=(const StandardDescriptors&) = delete;
  ~StandardDescriptors() {
    for (int fd = 0; fd < standard_descriptors; fd++) {
      if (::fcntl(fd, F_GETFD) < 0 && copies_[fd]) put(fd, ::fcntl(copies_[fd].get(), F_DUPFD, fd));
    }
  }

 private:
  // The lowest free number was asked for. Another one means that somebody else has taken it meanwhile.
  static void put(int fd, int made) {
    if (made >= 0 && made != fd) ::close(made);
  }
  UniqueFd copies_[standard_descriptors];
};

}  // namespace

bool CufileHandle::current() const {
  struct stat status;
  return ::fstat(fd_, &status) == 0 && status.st_dev == device_ && status.st_ino == inode_;
}

CufileDriver& CufileDriver::instance() {
  // Never destroyed: threads may outlive main().
  static CufileDriver* const the_driver = new CufileDriver;
  return *the_driver;
}

bool CufileDriver::open(Failure& failure) {
  std::lock_guard lock(open_mutex_);
  if (is_open()) return true;
  const Api* const api = load(failure);
  // It looks for the CUDA driver itself, with less to say where there is none.
  if (api == nullptr || cuda::Devices::get(failure) == nullptr) return false;
  Error error;
  {
    const StandardDescriptors kept;
    error = api->driver_open();
  }
  // Somebody else in this process may use cuFile, too.
  if (error.code != 0 && error.code != code::already_open) {
    failure = failure_of("opening cuFile's driver", error.code, error.cuda);
    return false;
  }
  api_.store(api, std::memory_order_release);
  return true;
}

bool CufileDriver::close(Failure& failure) {
  std::lock_guard open_lock(open_mutex_);
  const Api* const api = this->api();
  if (api == nullptr) return true;
  std::lock_guard lock(mutex_);
  if (!handles_.empty() || buffers_ > 0) {
    failure = {"IN_USE", std::to_string(handles_.size()).append(" files and ").append(std::to_string(buffers_.load())).append(" buffers are still registered with cuFile"), "let go of them first"};
    return false;
  }
  const Error error = api->driver_close();
  if (error.code != 0) {
    failure = failure_of("closing cuFile's driver", error.code, error.cuda);
    return false;
  }
  api_.store(nullptr, std::memory_order_release);
  return true;
}

std::shared_ptr<CufileHandle> CufileDriver::register_file(int fd, Failure& failure) {
  const Api* const api = this->api();
  if (api == nullptr) {
    failure = failure_of("registering a file", code::driver_not_open);
    return nullptr;
  }
  try {
    std::shared_ptr<CufileHandle> handle;
    {
      std::unique_lock lock(mutex_);
      for (;;) {
        const auto found = handles_.find(fd);
        if (found == handles_.end()) break;
        handle = found->second.lock();
        if (handle != nullptr) break;
        // Its last holder is just deregistering it.
        deregistered_.wait(lock);
      }
      if (handle == nullptr) {
        struct stat status;
        if (::fstat(fd, &status) != 0) {
          failure = failure_of("registering a file", errno);
          return nullptr;
        }
        std::unique_ptr<CufileHandle> made(new CufileHandle(fd, status.st_dev, status.st_ino));
        auto& entry = handles_[fd];
        // Every byte that is not ours is to be zero.
        Description description{};
        description.file.whole = nullptr;
        description.type = descriptor_type;
        description.file.fd = fd;
        const Error error = api->handle_register(&made->handle_, &description);
        if (error.code != 0) {
          handles_.erase(fd);
          failure = failure_of("registering a file", error.code, error.cuda);
          return nullptr;
        }
        // Should this fail for want of memory, the deleter has been called, which waits for the lock.
        lock.unlock();
        handle = std::shared_ptr<CufileHandle>(made.release(), [this](CufileHandle* last) { deregister(last); });
        lock.lock();
        entry = handle;
        lock.unlock();
        deregistered_.notify_all();
        return handle;
      }
    }
    if (handle->current()) return handle;
    failure = {"EBADF", std::string("descriptor ").append(std::to_string(fd)).append(" stands for another file than the one that is registered with cuFile"),
               "this is a mistake in hicache-nixl: a file was closed before its registration ended; please report it"};
  } catch (const std::bad_alloc&) {
    failure = failure_of("registering a file", ENOMEM);
  }
  return nullptr;
}

void CufileDriver::deregister(CufileHandle* handle) {
  {
    std::lock_guard lock(mutex_);
    api()->handle_deregister(handle->handle_);
    handles_.erase(handle->fd_);
  }
  deregistered_.notify_all();
  delete handle;
}

std::shared_ptr<void> CufileDriver::register_buffer(int device, uint64_t address, size_t bytes, Failure& failure) {
  const std::string what = std::string("registering ").append(std::to_string(bytes)).append(" bytes of device ").append(std::to_string(device));
  const Api* const api = this->api();
  if (api == nullptr) {
    failure = failure_of(what, code::driver_not_open);
    return nullptr;
  }
  cuda::Devices* const devices = cuda::Devices::get(failure);
  if (devices == nullptr) return nullptr;
  void* const base = reinterpret_cast<void*>(address);
  Error error{};
  if (!devices->with_current(device, failure, [&] { error = api->buffer_register(base, bytes, 0); })) return nullptr;
  if (error.code != 0) {
    failure = failure_of(what, error.code, error.cuda);
    return nullptr;
  }
  buffers_++;
  const auto deregister = [this, api, devices, device](void* registered) {
    Failure ignored;
    devices->with_current(device, ignored, [&] { api->buffer_deregister(registered); });
    buffers_--;
  };
  try {
    return std::shared_ptr<void>(base, deregister);
  } catch (const std::bad_alloc&) {
    // The deleter has been called.
    failure = failure_of(what, ENOMEM);
    return nullptr;
  }
}

void CufileDriver::note(const Failure& failure) {
  std::lock_guard lock(note_mutex_);
  latest_ = failure;
}

Failure CufileDriver::latest() const {
  std::lock_guard lock(note_mutex_);
  return latest_;
}

}  // namespace hicache::cufile
