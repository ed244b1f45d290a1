// cuFile's driver, once a process: open, and what is registered with it. Any thread; nothing throws. Calls may block.
//
// Files are registered by whoever opens them (register_file(), the answer is kept beside the descriptor) or, where nobody has done so, by the engine for the time of one request.
// So an engine never has to learn of a close: what it registers itself ends before the request is handed back, and until then the submitter keeps the file open.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "plugins/gds/cufile_api.h"
#include "plugins/gds/cufile_handle.h"

namespace hicache::cufile {

class CufileDriver {
 public:
  static CufileDriver& instance();

  // Loads the library and opens its driver; at once when that is done. Only where probe() has found it usable: where it is not, this may never return. Keeps descriptors 0 to 2 open,
  // for the library has been seen to close 0.
  bool open(Failure&);
  bool is_open() const { return api_.load(std::memory_order_acquire) != nullptr; }
  // nullptr until it is open.
  const Api* api() const { return api_.load(std::memory_order_acquire); }
  // For tests, and the end of a service. False while anything is registered.
  bool close(Failure&);

  // The file's registration, made when there is none. Let go of it before the descriptor is closed.
  std::shared_ptr<CufileHandle> register_file(int fd, Failure&);
  // Device memory, so that it is not staged through cuFile's own. Let go of it before the memory ends. It may fail where transfers still work (5036).
  std::shared_ptr<void> register_buffer(int device, uint64_t address, size_t bytes, Failure&);

  // The latest failure of a transfer, for health(): requests themselves end with an errno.
  void note(const Failure& failure);
  Failure latest() const;

 private:
  void deregister(CufileHandle* handle);

  std::mutex open_mutex_;
  std::atomic<const Api*> api_{nullptr};
  std::mutex mutex_;
  std::condition_variable deregistered_;
  std::unordered_map<int, std::weak_ptr<CufileHandle>> handles_;  // by descriptor; until it is deregistered
  std::atomic<size_t> buffers_{0};
  mutable std::mutex note_mutex_;
  Failure latest_;
};

// What probe() goes by. The defaults are the machine's.
struct ProbeOptions {
  std::string modules = "/proc/modules";
  std::string device_nodes = "/dev/nvidia-fs0";
};
struct ProbeReport {
  enum class Mode : uint8_t { unavailable, compat, gds };
  bool usable = false;
  Mode mode = Mode::unavailable;
  bool nvidia_fs = false;             // the kernel module is loaded
  bool allow_compat = true;           // by cuFile's configuration
  bool force_compat = false;
  std::string path, version;          // of the library
  std::string cuda_path;
  int devices = 0;
  std::string reason, remedy;         // why it is not usable, or why it is in compatibility mode
};
const char* name_of(ProbeReport::Mode mode);
// Opens cuFile's driver to see. It may never return, or harm the process: for a child process with a time limit.
ProbeReport probe(const ProbeOptions& options = {});

}  // namespace hicache::cufile
