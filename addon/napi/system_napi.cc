// Directories, engines, locks, cancellation and planned failures.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <mutex>
#include <set>

#include "agent/completion_queue.h"
#include "napi/support_napi.h"
#include "plugins/posix/posix_plugin.h"
#include "plugins/posix/probe.h"
#include "util/errno_name.h"
#include "util/fault.h"
#include "util/unique_fd.h"

namespace hicache {
namespace {

// A mount that has not answered after this long does not keep a process from ending.
constexpr unsigned probe_release_ms = 10000;

bool path_argument(const Napi::CallbackInfo& info, const char* function, std::string& path) {
  path = info.Length() > 0 && info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
  if (!path.empty() && path.find('\0') == std::string::npos) return true;
  throw_argument(info.Env(), std::string(function) + " needs a path.");
  return false;
}

Napi::Value make(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  if (!path_argument(info, "makeDirectory", path)) return env.Undefined();
  struct Answer {
    MadeDirectory made;
    std::string failed_call;
    int error = 0;
  };
  auto answer = std::make_shared<Answer>();
  return run_in_background(
      env, [answer, path] { answer->error = make_directory(path, answer->made, answer->failed_call); },
      [answer, path](Out& out, const Deferred& deferred) {
        if (answer->error != 0) return deferred.reject(out, out.system_error(answer->error, answer->failed_call + " of " + path));
        const napi_value told = out.object();
        out.set(told, "realPath", out.string(answer->made.real_path));
        out.set(told, "directory", out.boolean(answer->made.directory));
        out.set(told, "ownerUid", out.number(answer->made.owner_uid));
        out.set(told, "linkUid", out.number(answer->made.link_uid));
        deferred.resolve(out, told);
      },
      Napi::Value(), probe_release_ms);
}

Napi::Value usage(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  if (!path_argument(info, "usageOf", path)) return env.Undefined();
  struct Answer {
    struct statfs status;
    int error = 0;
  };
  auto answer = std::make_shared<Answer>();
  return run_in_background(
      env, [answer, path] { answer->error = ::statfs(path.c_str(), &answer->status) == 0 ? 0 : errno; },
      [answer, path](Out& out, const Deferred& deferred) {
        if (answer->error != 0) return deferred.reject(out, out.system_error(answer->error, "statfs of " + path));
        const struct statfs& status = answer->status;
        const auto unit = static_cast<double>(status.f_frsize > 0 ? status.f_frsize : status.f_bsize);
        const napi_value told = out.object();
        out.set(told, "usedBytes", out.number(static_cast<double>(status.f_blocks - status.f_bfree) * unit));
        out.set(told, "availableBytes", out.number(static_cast<double>(status.f_bavail) * unit));
        deferred.resolve(out, told);
      },
      Napi::Value(), probe_release_ms);
}

Napi::Value probe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  if (!path_argument(info, "probeDirectory", path)) return env.Undefined();
  struct Answer {
    DirectoryReport report;
    std::string failed_call;
    int error = 0;
  };
  auto answer = std::make_shared<Answer>();
  return run_in_background(
      env, [answer, path] { answer->error = probe_directory(path, answer->report, answer->failed_call); },
      [answer, path](Out& out, const Deferred& deferred) {
        if (answer->error != 0) return deferred.reject(out, out.system_error(answer->error, answer->failed_call + " of " + path));
        const DirectoryReport& report = answer->report;
        const napi_value told = out.object();
        out.set(told, "path", out.string(report.path));
        out.set(told, "realPath", out.string(report.real_path));
        out.set(told, "fileSystem", out.string(report.file_system));
        out.set(told, "direct", out.boolean(report.direct));
        out.set(told, "directReason", out.string(report.direct_reason));
        out.set(told, "engine", out.boolean(report.engine));
        out.set(told, "engineReason", out.string(report.engine_reason));
        out.set(told, "tmpfile", out.boolean(report.tmpfile));
        out.set(told, "freeBytes", out.number(static_cast<double>(report.free_bytes)));
        out.set(told, "totalBytes", out.number(static_cast<double>(report.total_bytes)));
        out.set(told, "ownerUid", out.number(report.owner_uid));
        out.set(told, "mode", out.number(report.mode));
        out.set(told, "writable", out.boolean(report.writable));
        out.set(told, "pageFiles", out.boolean(report.page_files));
        deferred.resolve(out, told);
      },
      Napi::Value(), probe_release_ms);
}

Napi::Value probe_engines(const Napi::CallbackInfo& info) {
  struct Answer {
    const char* name;
    bool usable = false;
    Refusal refusal;
  };
  auto answers = std::make_shared<std::vector<Answer>>();
  for (const char* name : {"aio", "io_uring", "posix_aio"}) answers->push_back({name, false, {}});
  return run_in_background(
      info.Env(),
      [answers] {
        for (Answer& answer : *answers) answer.usable = try_create_engine(answer.name, {}, answer.refusal) != nullptr;
      },
      [answers](Out& out, const Deferred& deferred) {
        const napi_value told = out.array(answers->size());
        for (size_t i = 0; i < answers->size(); i++) {
          const Answer& answer = (*answers)[i];
          const napi_value one = out.object();
          out.set(one, "name", out.string(answer.name));
          out.set(one, "usable", out.boolean(answer.usable));
          out.set(one, "reason", out.string(answer.usable ? "" : answer.refusal.reason));
          out.set(one, "remedy", out.string(answer.usable ? "" : answer.refusal.remedy));
          out.set(told, i, one);
        }
        deferred.resolve(out, told);
      });
}

// ---- locks ----

// Only what try_lock() gave out may be closed by unlock(): a number from JavaScript is not trusted with somebody else's descriptor.
struct Locks {
  std::mutex mutex;
  std::set<int> held;
};
Locks& locks() {
  static Locks* const the_locks = new Locks;
  return *the_locks;
}

// The descriptor, -1 when somebody else holds it, or -errno - 1 (`failed_call` names what failed).
int lock_file(const std::string& path, const char*& failed_call) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
  failed_call = "opening the lock file ";
  if (!fd) return -errno - 1;
  int result;
  do {
    result = ::flock(fd.get(), LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EWOULDBLOCK) return -1;
  failed_call = "locking ";
  if (result != 0) return -errno - 1;
  std::lock_guard lock(locks().mutex);
  locks().held.insert(fd.get());
  return fd.release();
}

bool forget_lock(const Napi::CallbackInfo& info, const char* function, int& descriptor) {
  const double number = info.Length() > 0 && info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
  std::lock_guard lock(locks().mutex);
  const bool known = number >= 0 && number <= INT32_MAX && std::floor(number) == number && locks().held.erase(static_cast<int>(number)) > 0;
  if (known) descriptor = static_cast<int>(number);
  else throw_argument(info.Env(), std::string(function) + " needs a descriptor that tryLock or lockFile gave.");
  return known;
}

Napi::Value try_lock(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  if (!path_argument(info, "tryLock", path)) return env.Undefined();
  const char* failed_call = "";
  const int result = lock_file(path, failed_call);
  if (result >= -1) return Napi::Number::New(env, result);
  make_system_error(env, -result - 1, failed_call + path).ThrowAsJavaScriptException();
  return env.Undefined();
}

Napi::Value unlock(const Napi::CallbackInfo& info) {
  int descriptor = -1;
  if (forget_lock(info, "unlock", descriptor)) ::close(descriptor);
  return info.Env().Undefined();
}

Napi::Value lock_in_background(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  if (!path_argument(info, "lockFile", path)) return env.Undefined();
  struct Answer {
    const char* failed_call = "";
    int result = -1;
  };
  auto answer = std::make_shared<Answer>();
  return run_in_background(
      env, [answer, path] { answer->result = lock_file(path, answer->failed_call); },
      [answer, path](Out& out, const Deferred& deferred) {
        if (answer->result < -1) return deferred.reject(out, out.system_error(-answer->result - 1, answer->failed_call + path));
        deferred.resolve(out, out.number(answer->result));
      },
      Napi::Value(), probe_release_ms);
}

// Closing, too, asks the file system, which may hang.
Napi::Value unlock_in_background(const Napi::CallbackInfo& info) {
  int descriptor = -1;
  if (!forget_lock(info, "unlockFile", descriptor)) return info.Env().Undefined();
  return run_in_background(
      info.Env(), [descriptor] { ::close(descriptor); }, [](Out& out, const Deferred& deferred) { deferred.resolve(out, out.undefined()); }, Napi::Value(),
      probe_release_ms);
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  request_cancel_everywhere();
  return info.Env().Undefined();
}

// ---- planned failures ----

Napi::Value set_faults(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsArray()) {
    throw_argument(env, "setFaults needs an array.");
    return env.Undefined();
  }
  const Napi::Array list = info[0].As<Napi::Array>();
  std::vector<fault::Plan> plans;
  for (uint32_t i = 0; i < list.Length(); i++) {
    const Napi::Value value = list.Get(i);
    if (value.IsEmpty() || !value.IsObject()) {
      throw_argument(env, "Every fault must be an object.");
      return env.Undefined();
    }
    const Napi::Object one = value.As<Napi::Object>();
    fault::Plan plan;
    double number;
    if (!string_of(one, "point", plan.point)) return env.Undefined();
    if (!one.Get("match").IsUndefined() && !string_of(one, "match", plan.match)) return env.Undefined();
    if (!number_of(one, "after", 0, 0, 1e15, number)) return env.Undefined();
    plan.after = static_cast<int64_t>(number);
    if (!number_of(one, "times", 1, 0, 1e15, number)) return env.Undefined();
    plan.times = static_cast<int64_t>(number);
    if (!number_of(one, "short", -1, -1, 1e15, number)) return env.Undefined();
    plan.short_bytes = static_cast<int64_t>(number);
    if (!bool_of(one, "hang", false, plan.hang)) return env.Undefined();
    if (!one.Get("errno").IsUndefined()) {
      std::string name;
      if (!string_of(one, "errno", name)) return env.Undefined();
      plan.error = errno_of(name);
      if (plan.error == 0) {
        throw_argument(env, "errno " + name + " is not known.");
        return env.Undefined();
      }
    }
    plans.push_back(std::move(plan));
  }
  fault::set(std::move(plans));
  return env.Undefined();
}

Napi::Value numbers(Napi::Env env, const std::vector<int64_t>& values) {
  Napi::Array out = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); i++) out.Set(i, Napi::Number::New(env, static_cast<double>(values[i])));
  return out;
}

Napi::Value faults_struck(const Napi::CallbackInfo& info) { return numbers(info.Env(), fault::struck()); }

Napi::Value clear_faults(const Napi::CallbackInfo& info) { return numbers(info.Env(), fault::clear()); }

}  // namespace

void export_system(Napi::Env env, Napi::Object exports) {
  exports.Set("probeDirectory", Napi::Function::New(env, probe, "probeDirectory"));
  exports.Set("probeEngines", Napi::Function::New(env, probe_engines, "probeEngines"));
  exports.Set("makeDirectory", Napi::Function::New(env, make, "makeDirectory"));
  exports.Set("usageOf", Napi::Function::New(env, usage, "usageOf"));
  exports.Set("lockFile", Napi::Function::New(env, lock_in_background, "lockFile"));
  exports.Set("unlockFile", Napi::Function::New(env, unlock_in_background, "unlockFile"));
  exports.Set("tryLock", Napi::Function::New(env, try_lock, "tryLock"));
  exports.Set("unlock", Napi::Function::New(env, unlock, "unlock"));
  exports.Set("cancel", Napi::Function::New(env, cancel, "cancel"));
  exports.Set("setFaults", Napi::Function::New(env, set_faults, "setFaults"));
  exports.Set("faultsStruck", Napi::Function::New(env, faults_struck, "faultsStruck"));
  exports.Set("clearFaults", Napi::Function::New(env, clear_faults, "clearFaults"));
}

}  // namespace hicache
