#include "plugins/obj/page_transfer.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "util/clock.h"
#include "util/crc64.h"

namespace hicache {
namespace {

constexpr char record_header[] = "x-amz-meta-hicache-nixl";
// Parts of one page in flight: more of them help one page, and hinder the others.
constexpr size_t parts_max = 10'000;
constexpr int64_t deadline_default_ms = 30'000;
// A body that is wrong may have been spoilt on its way: it is read so often.
constexpr int reads_max = 2;

int64_t deadline_of(const Operation& operation) {
  const int64_t ms = operation.file_offset == 0 ? deadline_default_ms : static_cast<int64_t>(std::min<uint64_t>(operation.file_offset, 1ull << 40));
  return now_ns() + ms * 1'000'000;
}

// Memory, or a part of it.
class MemorySource final : public BodySource {
 public:
  MemorySource(const Memory& memory, uint64_t from) : memory_(memory), from_(from) {}
  HttpExchange::Piece piece(uint64_t at) override { return {memory_.data + from_ + at, memory_.length - static_cast<size_t>(from_ + at), memory_.gate}; }

 private:
  const Memory& memory_;
  const uint64_t from_;
};

class TextSource final : public BodySource {
 public:
  explicit TextSource(const std::string& text) : text_(text) {}
  HttpExchange::Piece piece(uint64_t at) override { return {reinterpret_cast<const uint8_t*>(text_.data()) + at, text_.size() - static_cast<size_t>(at), nullptr}; }

 private:
  const std::string& text_;
};

// Takes a body of one exact length into memory, and its checksum while it passes; what stands behind that goes to `tail`, which has its size when the body begins.
class MemorySink final : public BodySink {
 public:
  using Wanted = std::function<bool(const S3Answer&)>;
  MemorySink(const Memory& memory, uint64_t from, uint64_t bytes, bool sum, std::vector<uint8_t>& tail, Wanted wanted)
      : memory_(memory), from_(from), bytes_(bytes), sum_(sum), tail_(tail), wanted_(std::move(wanted)) {}

  bool begins(const S3Answer& answer) override {
    taken_ = 0;
    crc_ = 0;
    tail_.clear();
    return wanted_(answer);
  }
  HttpExchange::Room room() override {
    if (taken_ < bytes_ || tail_.empty()) return {memory_.data + from_ + taken_, static_cast<size_t>(bytes_ - taken_), memory_.gate};
    return {tail_.data() + (taken_ - bytes_), static_cast<size_t>(bytes_ + tail_.size() - taken_), nullptr};
  }
  bool take(const uint8_t* from, size_t bytes) override {
    if (bytes > bytes_ + tail_.size() - taken_) return false;
    const size_t first = taken_ < bytes_ ? static_cast<size_t>(std::min<uint64_t>(bytes, bytes_ - taken_)) : 0;
    if (first > 0 && !take_into_memory(from, first)) return false;
    if (bytes == first) return true;
    uint8_t* const to = tail_.data() + (taken_ - bytes_);
    if (from + first != to) std::memcpy(to, from + first, bytes - first);
    taken_ += bytes - first;
    return true;
  }
  bool whole() const { return taken_ == bytes_ + tail_.size(); }
  bool lost() const { return lost_; }
  uint64_t crc() const { return crc_; }

 private:
  bool take_into_memory(const uint8_t* from, size_t bytes) {
    uint8_t* const to = memory_.data + from_ + taken_;
    const bool there = memory_.touch([&] {
      if (from != to) std::memcpy(to, from, bytes);
      if (sum_) crc_ = crc64(to, bytes, crc_);
    });
    taken_ += bytes;
    lost_ = !there;
    return there;
  }

  const Memory& memory_;
  const uint64_t from_, bytes_;
  const bool sum_;
  std::vector<uint8_t>& tail_;
  const Wanted wanted_;
  uint64_t taken_ = 0, crc_ = 0;
  bool lost_ = false;
};

// May an object of that length, without metadata, end in a record block?
bool may_end_in_record(const S3Answer& answer, uint64_t object_bytes) { return answer.record.empty() && object_bytes >= record_bytes && object_bytes % block_bytes == 0; }

// `bytes 0-99/1234`: is it that range, and of how many bytes?
bool range_is(const S3Answer& answer, uint64_t from, uint64_t bytes, uint64_t& total) {
  const std::string wanted = "bytes " + std::to_string(from) + "-" + std::to_string(from + bytes - 1) + "/";
  if (answer.status != 206 || !answer.has_length || answer.length != bytes || !answer.range.starts_with(wanted)) return false;
  const char* const end = answer.range.data() + answer.range.size();
  const auto [stopped, error] = std::from_chars(answer.range.data() + wanted.size(), end, total);
  return error == std::errc() && stopped == end;
}
// The bytes of the whole object, of whatever range.
bool total_of_range(const std::string& range, uint64_t& total) {
  const size_t slash = range.find('/');
  if (slash == std::string::npos) return false;
  const auto [end, error] = std::from_chars(range.data() + slash + 1, range.data() + range.size(), total);
  return error == std::errc() && end == range.data() + range.size();
}
// What stands in the text of an XML element.
std::string xml_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else out += c;
  }
  return out;
}

}  // namespace

PageTransfer::PageTransfer(HttpLoop& loop, S3Caller& caller, Operation& operation)
    : loop_(loop), caller_(caller), operation_(operation), scope_(loop, deadline_of(operation)) {}

Task<Outcome> PageTransfer::run() {
  switch (operation_.op) {
    case Op::page_write: return write();
    case Op::page_read: return read();
    case Op::page_check: return check();
    case Op::page_delete: return remove();
    default: return unsupported();
  }
}

Task<Outcome> PageTransfer::unsupported() { co_return Outcome::failed(ENOTSUP); }

bool PageTransfer::given_up() const {
  // Nobody is left to hear of a page whose environment has ended, or to vouch for its memory.
  return scope_.cancelled() || operation_.cancelling() || (operation_.memory.gate != nullptr && operation_.memory.gate->closed());
}

Outcome PageTransfer::unusable(const S3Answer& answer) const {
  if (answer.result == S3Result::cancelled) return Outcome::failed(ECANCELED);
  if (answer.result == S3Result::broken) return Outcome::failed(EFAULT);
  Outcome outcome = Outcome::of(answer.result == S3Result::refused ? Status::refused : Status::unavailable);
  outcome.error = answer.status;
  outcome.set_meta(std::string_view(answer.why).substr(0, meta_bytes_max));
  return outcome;
}

bool PageTransfer::judge(const S3Answer& answer, uint64_t object_bytes, bool with_unverified, ObjectRecord& record, bool& unverified, Outcome& outcome) const {
  unverified = false;
  switch (decode_object_record(answer.record, record)) {
    case ObjectRecordState::none:
      unverified = with_unverified;
      if (!unverified) outcome = Outcome::of(Status::absent);
      return unverified;
    case ObjectRecordState::newer:
      outcome = Outcome::failed(EPROTONOSUPPORT);
      return false;
    case ObjectRecordState::damaged:
      outcome = Outcome::of(Status::corrupt);
      return false;
    case ObjectRecordState::whole:
      break;
  }
  if (record.identity != operation_.identity) {
    outcome = Outcome::of(Status::identity);
    return false;
  }
  if (record.length == object_bytes) return true;
  outcome = Outcome::of(Status::corrupt);
  return false;
}

Task<S3Answer> PageTransfer::read_block(uint64_t object_bytes, const std::string& etag) {
  block_.assign(record_bytes, 0);
  const Memory memory{block_.data(), block_.size(), nullptr};
  const uint64_t from = object_bytes - record_bytes;
  std::vector<uint8_t> none;
  MemorySink sink(memory, 0, record_bytes, false, none, [&](const S3Answer& answer) {
    uint64_t total = 0;
    return range_is(answer, from, record_bytes, total) && total == object_bytes;
  });
  S3Request request;
  request.method = "GET";
  request.key = operation_.name;
  request.headers = {{"range", "bytes=" + std::to_string(from) + "-" + std::to_string(object_bytes - 1)}};
  if (!etag.empty()) request.headers.emplace_back("if-match", etag);
  request.sink = &sink;
  S3Answer answer = co_await caller_.call(scope_, request);
  // Another object has taken its place, or the server knows no ranges.
  const bool other = answer.result == S3Result::unwanted || (answer.result == S3Result::answered && (answer.status >= 300 || !sink.whole()));
  if (other) {
    answer.result = S3Result::answered;
    if (answer.status != 404) answer.status = 412;
    block_.clear();
  }
  co_return answer;
}

bool PageTransfer::judge_block(const uint8_t* block, uint64_t object_bytes, Record& record, Outcome& outcome) const {
  switch (decode_record(block, record)) {
    case RecordState::none:
      outcome = Outcome::of(Status::absent);
      return false;
    case RecordState::newer:
      outcome = Outcome::failed(EPROTONOSUPPORT);
      return false;
    case RecordState::damaged:
      outcome = Outcome::of(Status::corrupt);
      return false;
    case RecordState::whole:
      break;
  }
  if (record.identity != operation_.identity) {
    outcome = Outcome::of(Status::identity);
    return false;
  }
  if (page_file_bytes(record.payload_length) == object_bytes) return true;
  outcome = Outcome::of(Status::corrupt);
  return false;
}

// The payload is in the caller's memory, its record here.
Outcome PageTransfer::judge_page_file(const uint8_t* block, uint64_t object_bytes, bool& again) const {
  const uint64_t length = operation_.memory.length;
  Record record;
  Outcome outcome;
  if (!judge_block(block, object_bytes, record, outcome)) return outcome.status == Status::absent ? Outcome::of(Status::length, object_bytes) : outcome;
  if (record.payload_length != length) return Outcome::of(Status::length, record.payload_length);
  uint64_t crc = record.payload_crc;
  const bool skip = (operation_.flags & flag::skip_checksum) != 0;
  if (!skip && !operation_.memory.touch([&] { crc = payload_crc(operation_.identity, operation_.memory.data, operation_.memory.length); })) return Outcome::failed(EFAULT);
  if (crc != record.payload_crc) {
    again = true;
    return Outcome::of(Status::corrupt);
  }
  outcome = Outcome::of(Status::ok, length);
  outcome.set_meta(record.meta);
  return outcome;
}

// An object without metadata is exactly as long as was asked for, and was read as a whole: is it a page and its record, and so not what it seems to be?
bool PageTransfer::ends_in_record(uint64_t length, Outcome& outcome) const {
  if (length < record_bytes || length % block_bytes != 0) return false;
  std::vector<uint8_t> block(record_bytes);
  if (!operation_.memory.touch([&] { std::memcpy(block.data(), operation_.memory.data + (length - record_bytes), record_bytes); })) return false;
  Record record;
  if (judge_block(block.data(), length, record, outcome)) outcome = Outcome::of(Status::length, record.payload_length);
  return outcome.status != Status::absent;
}

// ---- look-ups ----

Task<S3Answer> PageTransfer::head() {
  S3Request request;
  request.method = "HEAD";
  request.key = operation_.name;
  S3Answer answer = co_await caller_.call(scope_, request);
  co_return answer;
}

Task<Outcome> PageTransfer::check() {
  const S3Answer answer = co_await head();
  if (answer.result != S3Result::answered) co_return unusable(answer);
  if (answer.status == 404) co_return Outcome::of(Status::absent);
  ObjectRecord record;
  bool unverified = false;
  Outcome outcome;
  if (may_end_in_record(answer, answer.length)) {
    const S3Answer end = co_await read_block(answer.length, answer.etag);
    if (end.result != S3Result::answered) co_return unusable(end);
    Record inner;
    if (!block_.empty() && judge_block(block_.data(), answer.length, inner, outcome)) {
      outcome = Outcome::of(Status::ok, inner.payload_length);
      outcome.set_meta(inner.meta);
      co_return outcome;
    }
    if (!block_.empty() && outcome.status != Status::absent) co_return outcome;
  }
  if (!judge(answer, answer.length, (operation_.flags & flag::accept_unverified) != 0, record, unverified, outcome)) co_return outcome;
  outcome = Outcome::of(unverified ? Status::unverified : Status::ok, answer.length);
  if (!unverified) outcome.set_meta(record.meta);
  co_return outcome;
}

Task<Outcome> PageTransfer::remove() {
  if ((operation_.flags & flag::force) == 0) {
    const S3Answer answer = co_await head();
    if (answer.result != S3Result::answered) co_return unusable(answer);
    if (answer.status == 404) co_return Outcome::of(Status::absent);
    ObjectRecord record;
    bool unverified = false;
    Outcome outcome;
    bool ours = false;
    if (may_end_in_record(answer, answer.length)) {
      const S3Answer end = co_await read_block(answer.length, answer.etag);
      if (end.result != S3Result::answered) co_return unusable(end);
      Record inner;
      ours = !block_.empty() && judge_block(block_.data(), answer.length, inner, outcome);
      if (!ours && !block_.empty() && outcome.status != Status::absent && outcome.status != Status::corrupt) co_return outcome;
    }
    ours = ours || judge(answer, answer.length, (operation_.flags & flag::accept_unverified) != 0, record, unverified, outcome);
    // One of ours whose length is wrong may go; so may one that names nobody, as long as it is not somebody else's.
    if (!ours && outcome.status != Status::corrupt) co_return outcome;
  }
  S3Request request;
  request.method = "DELETE";
  request.key = operation_.name;
  const S3Answer answer = co_await caller_.call(scope_, request);
  if (answer.result != S3Result::answered) co_return unusable(answer);
  // With a retry, the first may have done it.
  co_return Outcome::of(answer.status == 404 && !answer.repeated ? Status::absent : Status::ok);
}

// ---- writes ----

bool PageTransfer::ranged() const {
  const uint64_t from = caller_.endpoint().options().multipart_bytes;
  return from > 0 && operation_.memory.length >= std::max(from, part_bytes_min + 1);
}

uint64_t PageTransfer::part_bytes() const {
  // As many parts as connections, each as large as S3 wants it.
  const uint64_t bytes = operation_.memory.length, even = (bytes + loop_.connections() - 1) / loop_.connections();
  return std::max({part_bytes_min, even, (bytes + parts_max - 1) / parts_max});
}

bool PageTransfer::signs_payload() const {
  // TLS vouches for the bytes on their way. Without it whoever could alter what is written could alter what is read, which nobody signs: a hash of every byte would cost more than all the rest of
  // a request, and buy nothing that the page's checksum does not.
  const ObjectOptions& options = caller_.endpoint().options();
  return options.sign_payload && options.credentials != 0;
}

bool PageTransfer::sum_payload(uint64_t& crc) const {
  return operation_.memory.touch([&] { crc = crc64(operation_.memory.data, operation_.memory.length); });
}

std::vector<sigv4::Header> PageTransfer::page_headers() const { return {{record_header, record_}, {"content-type", "application/octet-stream"}}; }

Task<PageTransfer::Look> PageTransfer::look(Outcome& failure) {
  const S3Answer answer = co_await head();
  if (answer.result != S3Result::answered) {
    failure = unusable(answer);
    co_return Look::failed;
  }
  if (answer.status == 404) co_return Look::absent;
  ObjectRecord record;
  if (decode_object_record(answer.record, record) == ObjectRecordState::newer) co_return Look::newer;
  if (may_end_in_record(answer, answer.length)) {
    const S3Answer end = co_await read_block(answer.length, answer.etag);
    if (end.result != S3Result::answered) {
      failure = unusable(end);
      co_return Look::failed;
    }
    Record inner;
    const RecordState state = block_.empty() ? RecordState::none : decode_record(block_.data(), inner);
    if (state == RecordState::newer) co_return Look::newer;
    if (state == RecordState::whole && inner.payload_length == operation_.memory.length && page_file_bytes(inner.payload_length) == answer.length &&
        inner.identity == operation_.identity && inner.meta == operation_.meta) {
      uint64_t crc = ~inner.payload_crc;
      operation_.memory.touch([&] { crc = payload_crc(operation_.identity, operation_.memory.data, operation_.memory.length); });
      if (crc == inner.payload_crc) co_return Look::same;
    }
  }
  co_return answer.record == record_ && answer.length == operation_.memory.length ? Look::same : Look::other;
}

Task<Outcome> PageTransfer::write() {
  if (!sum_payload(crc_)) co_return Outcome::failed(EFAULT);
  record_ = encode_object_record(operation_.memory.length, crc_, operation_.identity, operation_.meta);
  const uint64_t length = operation_.memory.length;
  bool conditional = (operation_.flags & flag::replace) == 0;
  Outcome failure;
  if (conditional && (operation_.flags & flag::compare_first) != 0) {
    const Look found = co_await look(failure);
    if (found == Look::failed) co_return failure;
    if (found == Look::same) co_return Outcome::of(Status::already_there, length);
    if (found == Look::newer) co_return Outcome::failed(EPROTONOSUPPORT);
    conditional = found == Look::absent;
  }
  bool in_doubt = false;
  while (true) {
    if (given_up()) co_return Outcome::failed(ECANCELED);
    const bool only_if_absent = conditional && !caller_.endpoint().no_conditional_put.load(std::memory_order_relaxed);
    S3Answer answer = co_await put(only_if_absent);
    // An earlier try may have stored it, and its answer was lost.
    in_doubt = in_doubt || answer.repeated;
    if (answer.result == S3Result::answered && answer.status < 300) co_return Outcome::of(Status::ok, length);
    if (only_if_absent && answer.status == 501) {
      caller_.endpoint().no_conditional_put.store(true, std::memory_order_relaxed);
      continue;
    }
    if (only_if_absent && answer.status == 412) {
      const Look found = co_await look(failure);
      if (found == Look::failed) co_return failure;
      if (found == Look::same) co_return Outcome::of(in_doubt ? Status::ok : Status::already_there, length);
      if (found == Look::newer) co_return Outcome::failed(EPROTONOSUPPORT);
      conditional = false;
      continue;
    }
    if (answer.result == S3Result::answered) answer.result = S3Result::refused;
    co_return unusable(answer);
  }
}

Task<S3Answer> PageTransfer::put(bool only_if_absent) {
  if (ranged()) {
    S3Answer answer = co_await put_parts(only_if_absent);
    co_return answer;
  }
  const ObjectOptions& options = caller_.endpoint().options();
  MemorySource source(operation_.memory, 0);
  S3Request request;
  request.method = "PUT";
  request.key = operation_.name;
  request.headers = page_headers();
  if (only_if_absent) request.headers.emplace_back("if-none-match", "*");
  if (options.send_checksum) request.headers.emplace_back("x-amz-checksum-crc64nvme", checksum_header(crc_));
  request.source = &source;
  request.body_bytes = operation_.memory.length;
  S3Answer answer;
  if (!signs_payload()) {
    request.payload_hash = sigv4::unsigned_payload;
  } else if (!operation_.memory.touch([&] { request.payload_hash = hex_of(Sha256::of(operation_.memory.data, operation_.memory.length)); })) {
    answer.result = S3Result::broken;
    co_return answer;
  }
  answer = co_await caller_.call(scope_, request);
  co_return answer;
}

Task<S3Answer> PageTransfer::put_parts(bool only_if_absent) {
  S3Request create;
  create.method = "POST";
  create.key = operation_.name;
  create.query = "uploads=";
  create.headers = page_headers();
  S3Answer answer = co_await caller_.call(scope_, create);
  if (answer.result != S3Result::answered || answer.status >= 300) co_return answer;
  const std::string upload = xml_text(answer.body, "UploadId");
  if (upload.empty()) {
    answer.result = S3Result::refused;
    answer.why = "the answer to the beginning of a multipart upload names no UploadId";
    co_return answer;
  }
  const uint64_t bytes = operation_.memory.length, each = part_bytes();
  const size_t parts = static_cast<size_t>((bytes + each - 1) / each);
  std::vector<std::string> etags(parts);
  S3Answer failed;
  failed.result = S3Result::answered;
  Countdown left(parts);
  for (size_t i = 0; i < parts; i++) put_part(upload, i, i * each, std::min(each, bytes - i * each), etags[i], failed, left);
  co_await left;
  if (failed.result == S3Result::answered) {
    answer = co_await complete_parts(upload, etags, only_if_absent);
    if (answer.result == S3Result::answered && answer.status < 300) co_return answer;
  } else {
    answer = failed;
  }
  // Parts of an upload that nobody completes cost money for ever.
  co_await abort_parts(upload);
  co_return answer;
}

Detached PageTransfer::put_part(const std::string& upload, size_t index, uint64_t at, uint64_t bytes, std::string& etag, S3Answer& failed, Countdown& left) {
  MemorySource source(operation_.memory, at);
  S3Request request;
  request.method = "PUT";
  request.key = operation_.name;
  request.query = "partNumber=" + std::to_string(index + 1) + "&uploadId=" + sigv4::encoded(upload, false);
  request.source = &source;
  request.body_bytes = bytes;
  bool there = true;
  if (!signs_payload()) {
    request.payload_hash = sigv4::unsigned_payload;
  } else {
    there = operation_.memory.touch([&] { request.payload_hash = hex_of(Sha256::of(operation_.memory.data + at, static_cast<size_t>(bytes))); });
  }
  S3Answer answer;
  answer.result = S3Result::broken;
  if (there && failed.result == S3Result::answered) answer = co_await caller_.call(scope_, request);
  if (answer.result == S3Result::answered && answer.status >= 300) answer.result = S3Result::refused;
  if (answer.result == S3Result::answered && answer.etag.empty()) {
    answer.result = S3Result::refused;
    answer.why = "the answer to a part has no ETag";
  }
  etag = answer.etag;
  // The first failure is the reason; what followed from it is not.
  if (answer.result != S3Result::answered && failed.result == S3Result::answered) failed = std::move(answer);
  left.one_done();
}

Task<S3Answer> PageTransfer::complete_parts(const std::string& upload, const std::vector<std::string>& etags, bool only_if_absent) {
  std::string xml = "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
  for (size_t i = 0; i < etags.size(); i++) xml += "<Part><PartNumber>" + std::to_string(i + 1) + "</PartNumber><ETag>" + xml_escaped(etags[i]) + "</ETag></Part>";
  xml += "</CompleteMultipartUpload>";
  TextSource source(xml);
  S3Request request;
  request.method = "POST";
  request.key = operation_.name;
  request.query = "uploadId=" + sigv4::encoded(upload, false);
  request.headers = {{"content-type", "application/xml"}};
  if (only_if_absent) request.headers.emplace_back("if-none-match", "*");
  request.source = &source;
  request.body_bytes = xml.size();
  request.payload_hash = hex_of(Sha256::of(xml));
  request.error_in_body = true;
  S3Answer answer = co_await caller_.call(scope_, request);
  if (answer.repeated && answer.result == S3Result::answered && answer.status == 404) {
    // It may have been completed by a try whose answer was lost. Where that cannot be told either, nobody knows: no words of the server's about an upload that is gone.
    S3Answer there = co_await head();
    if (there.result != S3Result::answered) co_return there;
    if (there.status < 300 && there.record == record_ && there.length == operation_.memory.length) answer.status = 200;
  }
  co_return answer;
}

Task<bool> PageTransfer::abort_parts(const std::string& upload) {
  // Also when the page was called off, for which there is a scope of its own: a moment, and no more.
  CallScope scope(loop_, now_ns() + 2'000'000'000);
  S3Request request;
  request.method = "DELETE";
  request.key = operation_.name;
  request.query = "uploadId=" + sigv4::encoded(upload, false);
  request.retries = 1;
  const S3Answer answer = co_await caller_.call(scope, request);
  co_return answer.result == S3Result::answered;
}

// ---- reads ----

Task<Outcome> PageTransfer::read() {
  for (int tries = 1;; tries++) {
    bool again = false;
    Outcome outcome;
    if (ranged()) outcome = co_await read_ranges(again);
    else outcome = co_await read_once(again);
    if (!again || tries == reads_max || given_up() || now_ns() >= scope_.deadline_ns) co_return outcome;
  }
}

Task<Outcome> PageTransfer::read_once(bool& again) {
  const uint64_t length = operation_.memory.length;
  const bool skip = (operation_.flags & flag::skip_checksum) != 0, ask = caller_.endpoint().options().ask_checksum;
  ObjectRecord record;
  bool unverified = false;
  Outcome verdict = Outcome::of(Status::corrupt);
  std::vector<uint8_t> tail;
  MemorySink sink(operation_.memory, 0, length, !skip, tail, [&](const S3Answer& answer) {
    if (!answer.has_length) {
      verdict = Outcome::of(Status::corrupt);
      return false;
    }
    if (may_end_in_record(answer, answer.length) && answer.length == page_file_bytes(length)) {
      tail.resize(static_cast<size_t>(answer.length - length));
      return true;
    }
    if (!judge(answer, answer.length, (operation_.flags & flag::accept_unverified) != 0, record, unverified, verdict)) return false;
    if (answer.length == length) return true;
    verdict = Outcome::of(Status::length, answer.length);
    return false;
  });
  S3Request request;
  request.method = "GET";
  request.key = operation_.name;
  if (ask) request.headers.emplace_back("x-amz-checksum-mode", "ENABLED");
  request.sink = &sink;
  const S3Answer answer = co_await caller_.call(scope_, request);
  if (answer.result == S3Result::unwanted) co_return sink.lost() ? Outcome::failed(EFAULT) : verdict;
  if (answer.result != S3Result::answered) co_return unusable(answer);
  if (answer.status == 404) co_return Outcome::of(Status::absent);
  if (answer.status >= 300 || !sink.whole()) co_return Outcome::of(Status::corrupt);
  if (!tail.empty()) co_return judge_page_file(tail.data() + tail.size() - record_bytes, length + tail.size(), again);
  if (Outcome inner; unverified && ends_in_record(length, inner)) co_return inner;
  uint64_t theirs = 0;
  const bool vouched = ask && !skip && checksum_of_header(answer.checksum, theirs);
  if ((!unverified && !skip && record.crc != sink.crc()) || (vouched && theirs != sink.crc())) {
    again = true;
    co_return Outcome::of(Status::corrupt);
  }
  Outcome outcome = Outcome::of(unverified && !vouched ? Status::unverified : Status::ok, length);
  if (!unverified) outcome.set_meta(record.meta);
  co_return outcome;
}

Task<Outcome> PageTransfer::read_ranges(bool& again) {
  const uint64_t length = operation_.memory.length, each = part_bytes();
  const bool skip = (operation_.flags & flag::skip_checksum) != 0;
  ObjectRecord record;
  bool unverified = false;
  Outcome verdict = Outcome::of(Status::corrupt);
  // The first part says what the object is; all the others must be of that one.
  std::vector<uint8_t> none;
  bool page_file = false;
  MemorySink sink(operation_.memory, 0, std::min(each, length), false, none, [&](const S3Answer& answer) {
    uint64_t total = 0;
    page_file = false;
    if (answer.status != 206 || !total_of_range(answer.range, total)) {
      verdict = Outcome::of(Status::length, answer.length);
      if (answer.length == length) verdict = Outcome::of(Status::corrupt);
      return false;
    }
    object_bytes_ = total;
    page_file = may_end_in_record(answer, total) && total == page_file_bytes(length);
    if (!page_file && !judge(answer, total, (operation_.flags & flag::accept_unverified) != 0, record, unverified, verdict)) return false;
    if (!page_file && total != length) {
      verdict = Outcome::of(Status::length, total);
      return false;
    }
    uint64_t same = 0;
    verdict = Outcome::of(Status::corrupt);
    return range_is(answer, 0, std::min(each, length), same);
  });
  S3Request request;
  request.method = "GET";
  request.key = operation_.name;
  request.headers = {{"range", "bytes=0-" + std::to_string(std::min(each, length) - 1)}};
  request.sink = &sink;
  S3Answer answer = co_await caller_.call(scope_, request);
  if (answer.result == S3Result::unwanted) co_return sink.lost() ? Outcome::failed(EFAULT) : verdict;
  if (answer.result != S3Result::answered) co_return unusable(answer);
  if (answer.status == 404) co_return Outcome::of(Status::absent);
  if (answer.status == 416) co_return Outcome::of(Status::length, 0);
  if (answer.status >= 300 || !sink.whole() || answer.etag.empty()) co_return Outcome::of(Status::corrupt);

  const std::string etag = answer.etag;
  const size_t parts = static_cast<size_t>((length + each - 1) / each);
  answer.result = S3Result::answered;
  answer.status = 200;
  Countdown left(parts - 1);
  for (size_t i = 1; i < parts; i++) read_range(i, i * each, std::min(each, length - i * each), etag, answer, left);
  co_await left;
  if (answer.result == S3Result::answered && answer.status == 412) {
    // Another page has taken its place meanwhile.
    again = true;
    co_return Outcome::of(Status::stale);
  }
  if (answer.result == S3Result::unwanted) co_return Outcome::failed(EFAULT);
  if (answer.result == S3Result::answered && answer.status == 404) co_return Outcome::of(Status::absent);
  if (answer.result == S3Result::answered && answer.status >= 300) {
    again = true;
    co_return Outcome::of(Status::corrupt);
  }
  if (answer.result != S3Result::answered) co_return unusable(answer);
  if (page_file) {
    const S3Answer end = co_await read_block(object_bytes_, etag);
    if (end.result != S3Result::answered) co_return unusable(end);
    again = block_.empty();
    if (again) co_return Outcome::of(end.status == 404 ? Status::absent : Status::stale);
    co_return judge_page_file(block_.data(), object_bytes_, again);
  }
  if (Outcome inner; unverified && ends_in_record(length, inner)) co_return inner;
  if (!unverified && !skip) {
    uint64_t crc = 0;
    if (!sum_payload(crc)) co_return Outcome::failed(EFAULT);
    if (crc != record.crc) {
      again = true;
      co_return Outcome::of(Status::corrupt);
    }
  }
  Outcome outcome = Outcome::of(unverified ? Status::unverified : Status::ok, length);
  if (!unverified) outcome.set_meta(record.meta);
  co_return outcome;
}

Detached PageTransfer::read_range(size_t index, uint64_t at, uint64_t bytes, const std::string& etag, S3Answer& all, Countdown& left) {
  std::vector<uint8_t> none;
  MemorySink sink(operation_.memory, at, bytes, false, none, [&](const S3Answer& answer) {
    uint64_t total = 0;
    return range_is(answer, at, bytes, total) && total == object_bytes_;
  });
  S3Request request;
  request.method = "GET";
  request.key = operation_.name;
  request.headers = {{"range", "bytes=" + std::to_string(at) + "-" + std::to_string(at + bytes - 1)}, {"if-match", etag}};
  request.sink = &sink;
  if (all.result == S3Result::answered && all.status == 200) {
    S3Answer answer = co_await caller_.call(scope_, request);
    if (answer.result == S3Result::unwanted && !sink.lost()) {
      // The server answers something else than the part.
      answer.result = S3Result::answered;
      answer.status = 500;
    }
    const bool well = answer.result == S3Result::answered && answer.status < 300 && sink.whole();
    // The first failure is the reason.
    if (!well && all.result == S3Result::answered && all.status == 200) {
      all.result = answer.result;
      all.status = answer.result == S3Result::answered && answer.status < 300 ? 500 : answer.status;
      all.why = answer.why;
    }
  }
  left.one_done();
}

}  // namespace hicache
