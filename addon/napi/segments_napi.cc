// The segment layout's blocking work, each call on a thread of its own: `segments` of the addon.
#include <sys/types.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <system_error>
#include <thread>

#include "napi/support_napi.h"
#include "segments/followed_folders.h"
#include "segments/segment_io.h"
#include "segments/segment_names.h"
#include "segments/segment_space.h"
#include "segments/writers.h"

namespace hicache {
namespace {

using segments::DigestSeed;
using segments::Failure;

// A mount that has not answered after this long does not keep a process from ending.
constexpr unsigned release_ms = 10000;
constexpr double bytes_max = 9007199254740991.0;

// ---- arguments ----

// Reads arguments in their order; after the first that is wrong an exception is pending, and `ok` is false.
class Arguments {
 public:
  Arguments(const Napi::CallbackInfo& info, const char* function) : info_(info), function_(function) {}
  bool ok = true;

  std::string directory() {
    const Napi::Value value = next();
    std::string path = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
    if (path.empty() || path.find('\0') != std::string::npos) wrong("needs a directory");
    return path;
  }
  std::string folder(bool may_be_empty = false) { return folder_in(next(), may_be_empty); }
  std::string folder_in(const Napi::Value& value, bool may_be_empty = false) {
    std::string name = value.IsString() ? value.As<Napi::String>().Utf8Value() : "-";
    if (!segments::valid_folder_name(name) && !(may_be_empty && name.empty())) wrong("needs the name of a writer's folder");
    return name;
  }
  uint32_t id() { return id_in(next()); }
  uint32_t id_in(const Napi::Value& value) { return static_cast<uint32_t>(number_in(value, 0, UINT32_MAX, "the id of a segment")); }
  double number(double low, double high, const char* what) { return number_in(next(), low, high, what); }
  double number_in(const Napi::Value& value, double low, double high, const char* what) {
    const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
    if (number >= low && number <= high && std::floor(number) == number) return number;
    wrong((std::string("needs ") + what).c_str());
    return low;
  }
  bool boolean() {
    const Napi::Value value = next();
    if (!value.IsBoolean()) wrong("needs a boolean");
    return ok && value.As<Napi::Boolean>().Value();
  }
  DigestSeed seed() {
    const Napi::Value value = next();
    Bytes bytes;
    DigestSeed seed{};
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint32_array || !bytes_of(value, bytes) || bytes.length != sizeof(seed.words)) {
      wrong("needs a seed of 4 words");
    } else {
      std::memcpy(seed.words, bytes.data, sizeof(seed.words));
    }
    return seed;
  }
  // A multiple of a block.
  uint32_t extent_bytes_in(const Napi::Value& value) {
    const auto bytes = static_cast<uint32_t>(number_in(value, block_bytes, 1 << 30, "extentBytes from 4096 to 1 GiB"));
    if (bytes % block_bytes != 0) wrong("needs extentBytes that are a multiple of 4096");
    return bytes;
  }
  Napi::Value next() {
    const size_t i = at_++;
    return i < info_.Length() ? info_[i] : info_.Env().Undefined();
  }
  void wrong(const char* what) {
    if (ok) throw_argument(info_.Env(), std::string("segments.") + function_ + " " + what + ".");
    ok = false;
  }

 private:
  const Napi::CallbackInfo& info_;
  const char* const function_;
  size_t at_ = 0;
};

// ---- answers ----

// Runs `work` on a thread of its own; `tell` makes its answer on the event loop. `work` may throw what the segments' code throws.
template <typename Answer>
Napi::Value run(Napi::Env env, std::function<void(Answer&)> work, std::function<napi_value(Out&, Answer&)> tell, std::shared_ptr<Answer> answer = std::make_shared<Answer>()) {
  auto failure = std::make_shared<std::optional<Failure>>();
  return run_in_background(
      env,
      [answer, failure, work = std::move(work)] {
        try {
          work(*answer);
        } catch (const Failure& what) {
          *failure = what;
        } catch (const std::bad_alloc&) {
          *failure = Failure{ENOMEM, "the segments of a directory"};
        }
      },
      [answer, failure, tell = std::move(tell)](Out& out, const Deferred& deferred) {
        if (*failure) return deferred.reject(out, out.system_error((*failure)->error, (*failure)->what));
        deferred.resolve(out, tell(out, *answer));
      },
      Napi::Value(), release_ms);
}

napi_value number(Out& out, uint64_t value) { return out.number(static_cast<double>(value)); }

// Tens of megabytes: handed over as they are where the runtime takes memory of ours, without a copy on the event loop.
napi_value rows(Out& out, segments::Rows& rows) {
  const size_t length = rows.bytes();
  if (length < 64 << 10 || !out.ok()) return out.copy(rows.data(), length);
  uint8_t* const data = rows.release();
  napi_value buffer = nullptr, view = nullptr;
  const napi_status made = napi_create_external_arraybuffer(
      out.env(), data, length, [](napi_env, void* memory, void*) { std::free(memory); }, nullptr, &buffer);
  if (made != napi_ok) {
    view = out.copy(data, length);
    std::free(data);
    return view;
  }
  return napi_create_typedarray(out.env(), napi_uint8_array, length, buffer, 0, &view) == napi_ok ? view : out.copy(nullptr, 0);
}

napi_value strings(Out& out, const std::vector<std::string>& list) {
  const napi_value told = out.array(list.size());
  for (size_t i = 0; i < list.size(); i++) out.set(told, i, out.string(list[i]));
  return told;
}

napi_value ids(Out& out, const std::vector<uint32_t>& list) {
  const napi_value told = out.array(list.size());
  for (size_t i = 0; i < list.size(); i++) out.set(told, i, out.number(list[i]));
  return told;
}

napi_value bytes(Out& out, const std::vector<std::string>& list) {
  const napi_value told = out.array(list.size());
  for (size_t i = 0; i < list.size(); i++) out.set(told, i, out.copy(list[i].data(), list[i].size()));
  return told;
}

napi_value loaded(Out& out, segments::Loaded& from) {
  const napi_value told = out.object();
  out.set(told, "sequence", number(out, from.sequence));
  const napi_value list = out.array(from.segments.size());
  for (size_t i = 0; i < from.segments.size(); i++) {
    const segments::LoadedSegment& segment = from.segments[i];
    const napi_value one = out.object();
    out.set(one, "id", out.number(segment.id));
    out.set(one, "dataBytes", number(out, segment.data_bytes));
    out.set(one, "extentBytes", out.number(segment.extent_bytes));
    out.set(one, "slots", out.number(segment.slots));
    out.set(list, i, one);
  }
  out.set(told, "segments", list);
  out.set(told, "rows", rows(out, from.rows));
  out.set(told, "metas", bytes(out, from.metas));
  out.set(told, "namespaces", bytes(out, from.namespaces));
  out.set(told, "damaged", number(out, from.damaged));
  return told;
}

// ---- writers ----

// A folder that an environment opened and did not close is given back when the environment ends: the process may live on for long.
struct OpenFolder {
  std::string directory, folder;
  int owner_fd = -1;
  uint64_t serial = 0;

  void give_back() const {
    if (owner_fd < 0) return;
    // It may block, and nobody waits for it.
    try {
      std::thread([open = *this] { segments::close_writer(open.directory, open.folder, open.owner_fd, open.serial); }).detach();
    } catch (const std::system_error&) {
      segments::close_writer(directory, folder, owner_fd, serial);
    }
  }
};

struct OpenAnswer {
  segments::Opened opened;
  OpenFolder open;
  bool told = false;
  ~OpenAnswer() {
    // The environment ended before it could be told.
    if (!told) open.give_back();
  }
};

// The environment ends. What closeWriter() has closed is not known by this serial any more.
void ends(void* data) {
  const std::unique_ptr<OpenFolder> open(static_cast<OpenFolder*>(data));
  if (segments::is_writer(open->directory, open->folder, open->owner_fd)) open->give_back();
}

Napi::Value open(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "open");
  const std::string directory = arguments.directory();
  if (!arguments.ok) return info.Env().Undefined();
  return run<OpenAnswer>(
      info.Env(),
      [directory](OpenAnswer& answer) {
        answer.opened = segments::open_writer(directory);
        answer.open = {directory, answer.opened.folder, answer.opened.owner_fd, answer.opened.serial};
      },
      [](Out& out, OpenAnswer& answer) {
        const napi_value told = out.object();
        out.set(told, "folder", out.string(answer.opened.folder));
        out.set(told, "ownerFd", out.number(answer.opened.owner_fd));
        out.set(told, "adopted", strings(out, answer.opened.adopted));
        out.set(told, "usedBytes", number(out, answer.opened.used_bytes));
        if (out.ok()) {
          auto kept = std::make_unique<OpenFolder>(answer.open);
          if (napi_add_env_cleanup_hook(out.env(), ends, kept.get()) == napi_ok) {
            kept.release();
            answer.told = true;
          }
        }
        return told;
      });
}

Napi::Value close_writer(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "closeWriter");
  const std::string directory = arguments.directory(), folder = arguments.folder();
  const auto fd = static_cast<int>(arguments.number(0, INT32_MAX, "the descriptor that open() gave"));
  if (!arguments.ok) return info.Env().Undefined();
  if (!segments::is_writer(directory, folder, fd)) {
    arguments.wrong("needs a folder and descriptor that open() gave");
    return info.Env().Undefined();
  }
  struct Nothing {};
  return run<Nothing>(
      info.Env(), [directory, folder, fd](Nothing&) { segments::close_writer(directory, folder, fd); },
      [](Out& out, Nothing&) { return out.undefined(); });
}

// ---- reading ----

Napi::Value load(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "load");
  const std::string directory = arguments.directory(), folder = arguments.folder();
  const DigestSeed seed = arguments.seed();
  const Napi::Value which = arguments.next();
  std::optional<std::vector<uint32_t>> wanted;
  if (which.IsArray()) {
    const Napi::Array list = which.As<Napi::Array>();
    wanted.emplace();
    for (uint32_t i = 0; i < list.Length() && arguments.ok; i++) wanted->push_back(arguments.id_in(list.Get(i)));
  } else if (!which.IsNull()) {
    arguments.wrong("needs a list of ids or null");
  }
  if (!arguments.ok) return info.Env().Undefined();
  return run<segments::Loaded>(
      info.Env(), [=](segments::Loaded& answer) { segments::load(directory, folder, seed, wanted ? &*wanted : nullptr, answer); }, loaded);
}

Napi::Value poll(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "poll");
  const std::string directory = arguments.directory(), own = arguments.folder(true);
  const Napi::Value list_value = arguments.next();
  std::vector<segments::Followed> followed;
  if (list_value.IsArray()) {
    const Napi::Array list = list_value.As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length() && arguments.ok; i++) {
      const Napi::Value value = list.Get(i);
      if (value.IsEmpty() || !value.IsObject()) {
        arguments.wrong("needs followed folders with their sequences");
        break;
      }
      const Napi::Object one = value.As<Napi::Object>();
      const std::string folder = arguments.folder_in(one.Get("folder"));
      followed.push_back({folder, static_cast<uint64_t>(arguments.number_in(one.Get("sequence"), 0, bytes_max, "sequences that are whole numbers"))});
    }
  } else {
    arguments.wrong("needs a list of followed folders");
  }
  const DigestSeed seed = arguments.seed();
  if (!arguments.ok) return info.Env().Undefined();
  return run<segments::Polled>(
      info.Env(), [=](segments::Polled& answer) { answer = segments::poll(directory, own, followed, seed); },
      [](Out& out, segments::Polled& answer) {
        const napi_value told = out.object();
        const napi_value folders = out.array(answer.folders.size());
        for (size_t i = 0; i < answer.folders.size(); i++) {
          const segments::PolledFolder& folder = answer.folders[i];
          const napi_value one = out.object();
          out.set(one, "name", out.string(folder.name));
          out.set(one, "live", out.boolean(folder.live));
          out.set(one, "wants", out.boolean(folder.wants));
          out.set(one, "machine", out.string(folder.same_machine ? "this" : "other"));
          out.set(folders, i, one);
        }
        out.set(told, "folders", folders);
        const napi_value changes = out.array(answer.changes.size());
        for (size_t i = 0; i < answer.changes.size(); i++) {
          segments::FolderChanges& change = answer.changes[i];
          const napi_value one = out.object();
          out.set(one, "folder", out.string(change.folder));
          out.set(one, "sequence", number(out, change.sequence));
          out.set(one, "lapped", out.boolean(change.lapped));
          out.set(one, "gone", out.boolean(change.gone));
          napi_value null = nullptr;
          if (!change.any && napi_get_null(out.env(), &null) == napi_ok) out.set(one, "loaded", null);
          else out.set(one, "loaded", loaded(out, change.loaded));
          out.set(one, "whole", ids(out, change.whole));
          const napi_value asked = out.array(3 * change.asked.size());
          size_t at = 0;
          for (const Change& page : change.asked) {
            out.set(asked, at++, out.number(page.segment));
            out.set(asked, at++, out.number(page.slot));
            out.set(asked, at++, number(out, page.generation));
          }
          out.set(one, "asked", asked);
          out.set(changes, i, one);
        }
        out.set(told, "changes", changes);
        return told;
      });
}

Napi::Value records(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "records");
  const std::string directory = arguments.directory(), folder = arguments.folder();
  const uint32_t id = arguments.id();
  if (!arguments.ok) return info.Env().Undefined();
  return run<std::string>(
      info.Env(), [=](std::string& answer) { answer = segments::records(directory, folder, id); },
      [](Out& out, std::string& answer) { return out.copy(answer.data(), answer.size()); });
}

Napi::Value usage(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "usage");
  const std::string directory = arguments.directory();
  if (!arguments.ok) return info.Env().Undefined();
  return run<segments::Usage>(
      info.Env(), [=](segments::Usage& answer) { answer = segments::usage(directory); },
      [](Out& out, segments::Usage& answer) {
        const napi_value told = out.object();
        out.set(told, "usedBytes", number(out, answer.used_bytes));
        out.set(told, "writers", out.number(answer.writers));
        return told;
      });
}

// ---- space ----

Napi::Value grant(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "grant");
  const std::string directory = arguments.directory(), folder = arguments.folder();
  const Napi::Value value = arguments.next();
  if (value.IsEmpty() || !value.IsObject()) arguments.wrong("needs options");
  if (!arguments.ok) return info.Env().Undefined();
  const Napi::Object object = value.As<Napi::Object>();
  segments::GrantOptions options;
  double data_bytes = 0, capacity = 0, keep_free_bytes = 0;
  options.extent_bytes = arguments.extent_bytes_in(object.Get("extentBytes"));
  if (!arguments.ok || !number_of(object, "dataBytes", std::nan(""), options.extent_bytes, 1e15, data_bytes) || !number_of(object, "capacity", 0, 0, bytes_max, capacity) ||
      !number_of(object, "keepFreeBytes", 0, 0, bytes_max, keep_free_bytes) || !bool_of(object, "direct", false, options.direct) ||
      !bool_of(object, "prefill", true, options.prefill)) {
    return info.Env().Undefined();
  }
  options.data_bytes = round_down(static_cast<uint64_t>(data_bytes));
  options.capacity = static_cast<uint64_t>(capacity);
  options.keep_free_bytes = static_cast<uint64_t>(keep_free_bytes);
  return run<segments::Granted>(
      info.Env(), [=](segments::Granted& answer) { answer = segments::grant(directory, folder, options); },
      [](Out& out, segments::Granted& answer) {
        const napi_value told = out.object();
        out.set(told, "id", out.number(answer.id));
        out.set(told, "refused", out.string(answer.refused));
        out.set(told, "dataBytes", number(out, answer.data_bytes));
        out.set(told, "slots", out.number(answer.slots));
        out.set(told, "usedBytes", number(out, answer.used_bytes));
        out.set(told, "freeBytes", number(out, answer.free_bytes));
        return told;
      });
}

Napi::Value reassign(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "reassign");
  const std::string directory = arguments.directory(), folder = arguments.folder();
  const uint32_t id = arguments.id(), extent_bytes = arguments.extent_bytes_in(arguments.next());
  if (!arguments.ok) return info.Env().Undefined();
  return run<segments::Reassigned>(
      info.Env(), [=](segments::Reassigned& answer) { answer = segments::reassign(directory, folder, id, extent_bytes); },
      [](Out& out, segments::Reassigned& answer) {
        const napi_value told = out.object();
        out.set(told, "slots", out.number(answer.slots));
        out.set(told, "dataBytes", number(out, answer.data_bytes));
        return told;
      });
}

struct Done {};

Napi::Value release(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "release");
  const std::string directory = arguments.directory(), folder = arguments.folder();
  const uint32_t id = arguments.id();
  if (!arguments.ok) return info.Env().Undefined();
  return run<Done>(
      info.Env(), [=](Done&) { segments::release(directory, folder, id); }, [](Out& out, Done&) { return out.undefined(); });
}

Napi::Value adopt(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "adopt");
  const std::string directory = arguments.directory(), folder = arguments.folder();
  if (!arguments.ok) return info.Env().Undefined();
  return run<std::vector<uint32_t>>(
      info.Env(), [=](std::vector<uint32_t>& answer) { answer = segments::adopt(directory, folder); },
      [](Out& out, std::vector<uint32_t>& answer) { return ids(out, answer); });
}

Napi::Value ask(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "ask");
  const std::string directory = arguments.directory(), folder = arguments.folder();
  const Napi::Value value = arguments.next();
  std::vector<Change> slots;
  if (value.IsArray()) {
    const Napi::Array list = value.As<Napi::Array>();
    if (list.Length() % 3 != 0) arguments.wrong("needs segments, slots and generations in turn");
    for (uint32_t i = 0; i + 2 < list.Length() && arguments.ok; i += 3) {
      const uint32_t segment = arguments.id_in(list.Get(i)), slot = arguments.id_in(list.Get(i + 1));
      slots.push_back({segment, slot, static_cast<uint64_t>(arguments.number_in(list.Get(i + 2), 1, bytes_max, "generations from 1 on"))});
    }
  } else {
    arguments.wrong("needs a list of segments, slots and generations in turn");
  }
  if (!arguments.ok) return info.Env().Undefined();
  return run<Done>(
      info.Env(), [=](Done&) { segments::ask(directory, folder, slots); }, [](Out& out, Done&) { return out.undefined(); });
}

Napi::Value wants(const Napi::CallbackInfo& info) {
  Arguments arguments(info, "wants");
  const std::string directory = arguments.directory(), folder = arguments.folder();
  const bool wanted = arguments.boolean();
  if (!arguments.ok) return info.Env().Undefined();
  return run<Done>(
      info.Env(), [=](Done&) { segments::set_wants(directory, folder, wanted); }, [](Out& out, Done&) { return out.undefined(); });
}

}  // namespace

void export_segments(Napi::Env env, Napi::Object exports) {
  const Napi::Object out = Napi::Object::New(env);
  out.Set("open", Napi::Function::New(env, open, "open"));
  out.Set("load", Napi::Function::New(env, load, "load"));
  out.Set("poll", Napi::Function::New(env, poll, "poll"));
  out.Set("grant", Napi::Function::New(env, grant, "grant"));
  out.Set("reassign", Napi::Function::New(env, reassign, "reassign"));
  out.Set("release", Napi::Function::New(env, release, "release"));
  out.Set("adopt", Napi::Function::New(env, adopt, "adopt"));
  out.Set("ask", Napi::Function::New(env, ask, "ask"));
  out.Set("wants", Napi::Function::New(env, wants, "wants"));
  out.Set("records", Napi::Function::New(env, records, "records"));
  out.Set("usage", Napi::Function::New(env, usage, "usage"));
  out.Set("closeWriter", Napi::Function::New(env, close_writer, "closeWriter"));
  exports.Set("segments", out);
}

}  // namespace hicache
