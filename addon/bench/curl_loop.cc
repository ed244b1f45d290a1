// Objects put and got by libcurl and nothing above it: what a plain C++ program reaches.
#include <algorithm>
#include <cstring>
#include <memory>

#include "bench/bench_support.h"
#include "plugins/obj/curl_api.h"
#include "plugins/obj/sigv4.h"
#include "util/little_endian.h"

namespace hicache::bench {
namespace {

struct Slot {
  curl::Easy* easy = nullptr;
  uint8_t* memory = nullptr;
  uint64_t page = 0;
  size_t at = 0;
  int64_t started_ns = 0;
  std::string url;
  std::vector<std::string> lines;
  std::vector<curl::Slist> list;
};

class CurlLoop {
 public:
  CurlLoop(const curl::Api& api, const CurlLoopOptions& options, Result& result)
      : api_(api), options_(options), result_(result), endpoint_(options.endpoint), signer_(options.endpoint.region, "s3"),
        credentials_(CredentialStore::instance().find(options.endpoint.credentials)), multi_(api.multi_init()) {
    api_.multi_setopt(multi_, curl::multi_option::pipelining, 0L);
    api_.multi_setopt(multi_, curl::multi_option::max_connects, static_cast<long>(options.concurrency));
  }
  ~CurlLoop() {
    for (Slot& slot : slots_) {
      if (slot.easy == nullptr) continue;
      api_.multi_remove_handle(multi_, slot.easy);
      api_.easy_cleanup(slot.easy);
    }
    api_.multi_cleanup(multi_);
  }

  void run(uint8_t* memory) {
    if (credentials_ == nullptr) return fail_with("the credentials are not known");
    slots_.resize(std::min<uint64_t>(options_.concurrency, options_.pages));
    for (size_t i = 0; i < slots_.size(); i++) {
      slots_[i].memory = memory + i * options_.page_bytes;
      slots_[i].easy = api_.easy_init();
      if (slots_[i].easy == nullptr) return fail_with("memory");
    }
    // Connections are opened before the clock starts: by a HEAD of whatever is there.
    for (Slot& slot : slots_) start(slot, "HEAD");
    perform([](Slot&) { return false; });
    if (result_.error != 0) return;
    result_.latency_us.reserve(options_.pages);
    const double cpu_before = cpu_seconds();
    const int64_t began = now_ns();
    measured_ = true;
    for (Slot& slot : slots_) next(slot);
    perform([this](Slot& slot) { return next(slot); });
    result_.seconds = static_cast<double>(now_ns() - began) / 1e9;
    result_.cpu_seconds = cpu_seconds() - cpu_before;
    result_.bytes = options_.pages * options_.page_bytes;
  }

 private:
  void fail_with(const std::string& what) {
    if (result_.error != 0) return;
    result_.error = EIO;
    result_.failed = what;
  }

  bool next(Slot& slot) {
    if (begun_ == options_.pages || result_.error != 0) return false;
    slot.page = begun_++;
    slot.at = 0;
    if (options_.put) little_endian::put<uint64_t>(slot.memory, 0, slot.page);
    start(slot, options_.put ? "PUT" : "GET");
    return true;
  }

  void start(Slot& slot, const char* method) {
    namespace option = curl::option;
    const bool put = method[0] == 'P', head = method[0] == 'H';
    const std::string key = options_.prefix + std::to_string(slot.page), path = endpoint_.path_of(key), date = sigv4::date_now();
    std::string hash(sigv4::unsigned_payload);
    if (options_.endpoint.sign_payload || !put) hash = hex_of(Sha256::of(slot.memory, put ? options_.page_bytes : 0));
    std::vector<sigv4::Header> headers = {{"host", endpoint_.host()}, {"x-amz-content-sha256", hash}, {"x-amz-date", date}};
    if (!credentials_->session_token.empty()) headers.emplace_back("x-amz-security-token", credentials_->session_token);
    slot.url = endpoint_.base() + path;
    slot.lines.clear();
    for (const auto& [name, value] : headers) slot.lines.push_back(name + ": " + value);
    slot.lines.push_back("Authorization: " + signer_.sign({method, path, "", headers, hash}, *credentials_, date).authorization);
    slot.lines.push_back("Expect:");
    slot.list.assign(slot.lines.size(), {nullptr, nullptr});
    for (size_t i = 0; i < slot.lines.size(); i++) slot.list[i] = {slot.lines[i].data(), i + 1 < slot.lines.size() ? &slot.list[i + 1] : nullptr};
    const auto set = [&](int which, auto value) { api_.easy_setopt(slot.easy, which, value); };
    api_.easy_reset(slot.easy);
    set(option::no_signal, 1L);
    set(option::http_version, static_cast<long>(curl::http_version_1_1));
    set(option::url, slot.url.c_str());
    set(option::http_header, slot.list.data());
    set(option::private_data, static_cast<void*>(&slot));
    set(option::proxy, "");
    if (!options_.endpoint.ca_bundle.empty()) set(option::ca_info, options_.endpoint.ca_bundle.c_str());
    set(option::buffer_size, 512L << 10);
    set(option::write_function, &CurlLoop::write);
    set(option::write_data, static_cast<void*>(this));
    if (!head) set(option::write_data, static_cast<void*>(&slot));
    if (head) set(option::no_body, 1L);
    slot.at = 0;
    page_bytes_ = options_.page_bytes;
    if (put) {
      set(option::upload, 1L);
      set(option::in_file_size_large, static_cast<int64_t>(options_.page_bytes));
      set(option::read_function, &CurlLoop::read);
      set(option::read_data, static_cast<void*>(&slot));
      set(option::upload_buffer_size, 512L << 10);
    }
    slot.started_ns = now_ns();
    api_.multi_add_handle(multi_, slot.easy);
    running_++;
  }

  template <typename Again>
  void perform(Again&& again) {
    while (running_ > 0) {
      int still = 0, left = 0;
      api_.multi_perform(multi_, &still);
      bool one_ended = false;
      while (curl::Message* const message = api_.multi_info_read(multi_, &left)) {
        one_ended = true;
        curl::Easy* const easy = message->easy;
        const int code = message->data.result;
        void* at = nullptr;
        api_.easy_getinfo(easy, curl::info::private_data, &at);
        Slot& slot = *static_cast<Slot*>(at);
        long status = 0;
        api_.easy_getinfo(easy, curl::info::response_code, &status);
        api_.multi_remove_handle(multi_, easy);
        running_--;
        if (code != 0) fail_with(api_.easy_strerror(code));
        if (measured_) {
          if (code == 0 && status != 200) fail_with("HTTP status " + std::to_string(status));
          if (slot.at != options_.page_bytes) fail_with("an object of another length");
          if (little_endian::take<uint64_t>(slot.memory, 0) != slot.page) fail_with("an object that is another one");
          result_.latency_us.push_back(static_cast<double>(now_ns() - slot.started_ns) / 1e3);
        }
        again(slot);
      }
      if (!one_ended && running_ > 0) api_.multi_poll(multi_, nullptr, 0, 1000, nullptr);
    }
  }

  static size_t write(char* from, size_t size, size_t count, void* to) {
    Slot& slot = *static_cast<Slot*>(to);
    const size_t bytes = size * count;
    if (bytes > page_bytes_ - std::min(slot.at, page_bytes_)) return 0;
    std::memcpy(slot.memory + slot.at, from, bytes);
    slot.at += bytes;
    return bytes;
  }
  static size_t read(char* to, size_t size, size_t count, void* from) {
    Slot& slot = *static_cast<Slot*>(from);
    const size_t bytes = std::min(size * count, page_bytes_ - slot.at);
    std::memcpy(to, slot.memory + slot.at, bytes);
    slot.at += bytes;
    return bytes;
  }

  const curl::Api& api_;
  const CurlLoopOptions& options_;
  Result& result_;
  const ObjectEndpoint endpoint_;
  sigv4::Signer signer_;
  const std::shared_ptr<const Credentials> credentials_;
  curl::Multi* const multi_;
  std::vector<Slot> slots_;
  uint64_t begun_ = 0;
  size_t running_ = 0;
  bool measured_ = false;
  // libcurl's callbacks know the slot alone; one loop runs at a time.
  static inline thread_local size_t page_bytes_ = 0;
};

}  // namespace

Result curl_loop(const CurlLoopOptions& options) {
  Result result;
  Refusal refusal;
  const curl::Api* const api = curl::load(refusal);
  if (api == nullptr) {
    result.error = EIO;
    result.failed = refusal.reason;
    return result;
  }
  const size_t slots = static_cast<size_t>(std::min<uint64_t>(options.concurrency, options.pages));
  const Buffers buffers(std::max<size_t>(4096, options.page_bytes * slots));
  CurlLoop(*api, options, result).run(buffers.data());
  return result;
}

}  // namespace hicache::bench
