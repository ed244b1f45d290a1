#include "plugins/hf3fs/hf3fs_probe.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "engine/engine_base.h"
#include "plugins/hf3fs/hf3fs_engine.h"
#include "plugins/hf3fs/registered_file.h"
#include "plugins/hf3fs/usrbio_api.h"
#include "pool/page_store.h"
#include "util/aligned_buffer.h"
#include "util/unique_fd.h"

namespace hicache::hf3fs {
namespace {

constexpr size_t trial_bytes = 4096;

class Done final : public Sink {
 public:
  void completed(IoRequest*) override {}
};

std::string outcome(const char* what, int64_t result) {
  if (result < 0) return std::string(what) + " 4096 bytes through usrbio: " + engines::describe_errno(static_cast<int>(-result));
  return std::string(what) + " 4096 bytes through usrbio moved " + std::to_string(result);
}

// A name of its own, locked, so that no sweep takes the file for a leftover.
UniqueFd make_file(const std::string& folder, std::string& path, std::string& reason) {
  uint64_t random[2] = {};
  if (::getrandom(random, sizeof(random), 0) != sizeof(random)) random[0] = static_cast<uint64_t>(::getpid());
  char name[40];
  std::snprintf(name, sizeof(name), "%016llx%016llx", static_cast<unsigned long long>(random[0]), static_cast<unsigned long long>(random[1]));
  path = folder + "/" + std::string(temporary_prefix) + name;
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) reason = "creating a file in " + folder + ": " + engines::describe_errno(errno);
  else ::flock(file.get(), LOCK_EX | LOCK_NB);
  return file;
}

// There and back. Empty, or why not.
std::string try_file(Hf3fsEngine& engine, int fd) {
  int error = 0;
  const auto registered = register_file(fd, error);
  if (registered == nullptr) return "making a file known to usrbio (hf3fs_reg_fd): " + engines::describe_errno(error);
  AlignedBuffer bytes(trial_bytes), back(trial_bytes);
  for (size_t i = 0; i < trial_bytes; i++) bytes.data()[i] = static_cast<uint8_t>(i * 7 + 1);
  std::memset(back.data(), 0, trial_bytes);
  Done done;
  for (const auto kind : {IoRequest::Kind::write, IoRequest::Kind::read}) {
    const bool writing = kind == IoRequest::Kind::write;
    IoRequest request;
    request.kind = kind;
    request.iov_count = 1;
    request.fd = fd;
    request.iov[0] = {(writing ? bytes : back).data(), trial_bytes};
    engine.submit(&request);
    engine.flush(done);
    // Ends by the engine's own deadline: the request lies on this stack.
    while (engine.in_flight() > 0) engine.wait(done, -1);
    if (request.result != static_cast<int64_t>(trial_bytes)) return outcome(writing ? "writing" : "reading", request.result);
  }
  if (std::memcmp(bytes.data(), back.data(), trial_bytes) != 0) return "reading through usrbio did not give back what was written through it";
  return {};
}

}  // namespace

Probe probe(const std::string& path, const ProbeOptions& options) {
  Probe report;
  Refusal refusal;
  const Api* const api = load(refusal);
  if (api == nullptr) {
    report.reason = refusal.reason;
    report.remedy = refusal.remedy;
    return report;
  }
  report.library = api->path;
  report.version = api->version;
  const char* const mount_remedy = "name a directory on a mounted 3FS, and the mount as plugin.3fs.mount_point";
  const std::string mount = mount_point_of(*api, path, report.reason);
  if (mount.empty()) {
    report.remedy = mount_remedy;
    return report;
  }
  if (!options.mount_point.empty()) {
    const std::string configured = mount_point_of(*api, options.mount_point, report.reason);
    if (configured.empty()) {
      report.remedy = mount_remedy;
      return report;
    }
    if (configured != mount) {
      report.reason = path + " lies on the 3FS at " + mount + ", and mount_point " + options.mount_point + " on that at " + configured;
      report.remedy = mount_remedy;
      return report;
    }
  }
  report.mount_point = mount;

  Options engine_options;
  engine_options.mount_point = mount;
  engine_options.iopool_size = engine_options.queue_depth = 2;
  engine_options.slot_bytes = trial_bytes;
  engine_options.timeout_ms = options.timeout_ms;
  const auto engine = try_create_engine(engine_options, report.reason, report.remedy);
  if (engine == nullptr) return report;
  std::string file_path;
  const UniqueFd file = make_file(path, file_path, report.reason);
  if (!file) {
    report.remedy = "look at the rights of that directory, its quota and the state of 3FS";
    return report;
  }
  report.reason = try_file(*engine, file.get());
  ::unlink(file_path.c_str());
  report.usable = report.reason.empty();
  if (!report.usable) report.remedy = "look at the state of 3FS (its FUSE daemon, the storage and metadata services) and whether a program of its own can use usrbio there";
  return report;
}

}  // namespace hicache::hf3fs
