// A storage plugin moves the data of operations. POSIX is the one there is; 3FS, GPUDirect Storage, object stores and the bridge to an
// installed NIXL fit behind the same interface.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "agent/operation.h"

namespace hicache {

// All calls are made on the agent's thread and never block. An operation ends by Operation::finish(), from any thread.
class Plugin {
 public:
  virtual ~Plugin() = default;  // nothing may be in flight

  // The name of the engine that moves the data.
  virtual const char* engine() const = 0;
  // Readable when process() has something to do.
  virtual std::vector<int> event_fds() const = 0;
  virtual void process() = 0;

  // Starts every operation of the batch. What it needs for that it keeps in Batch::plugin_state.
  virtual void start(Batch& batch) = 0;
  // Ends what waits and has been called off (Operation::called_off()).
  virtual void withdraw_called_off() = 0;
  // Asks whoever holds it to let go of a started operation; it finishes in any case, possibly much later.
  virtual void cancel(Operation& operation) = 0;
  // From now on nothing new starts; what waits ends as cancelled.
  virtual void stop() = 0;

  virtual size_t directories() const = 0;
  // `error` is 0 or an errno.
  using ListDone = std::function<void(int error, std::vector<ListedFile>& files)>;
  using SweepDone = std::function<void(int error, size_t removed)>;
  virtual void list(size_t directory, std::string folder, bool records, ListDone done) = 0;
  virtual void sweep(size_t directory, std::string folder, SweepDone done) = 0;
  // Listings and sweeps that are not over.
  virtual size_t calls() const = 0;
};

}  // namespace hicache
