#include "agent/agent.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "segments/slot_record.h"
#include "util/clock.h"

namespace hicache {
namespace {

constexpr double whole_max = 9007199254740991.0;  // 2^53 - 1

bool whole(double value) { return value >= 0 && value <= whole_max && std::floor(value) == value; }

bool needs_memory(Op op) {
  return op == Op::page_write || op == Op::page_read || op == Op::extent_read || op == Op::extent_write || op == Op::segment_read ||
         op == Op::segment_write;
}

// What the operations on segments need beyond the others; nullptr when it is all right.
const char* wrong_for_segment(const Operation& operation) {
  if (operation.op == Op::tombstones) {
    if ((operation.flags & flag::foreign) != 0) return "Flag.foreign is for segmentRead only.";
    return operation.meta.empty() || operation.meta.size() % tombstone_bytes != 0 ? "its meta is not a list of tombstones, TOMBSTONE_BYTES each." : nullptr;
  }
  const bool writes = operation.op == Op::segment_write, reads = operation.op == Op::segment_read;
  if (!writes && !reads) return nullptr;
  const bool foreign = (operation.flags & flag::foreign) != 0;
  if (foreign && !reads) return "Flag.foreign is for segmentRead only.";
  if ((reads ? (operation.flags & flag::skip_checksum) == 0 : (operation.flags & flag::compare_first) != 0) && operation.identity.size() != sizeof(uint64_t)) {
    return "its identity is not a checksum of 8 bytes.";
  }
  if (!writes && !foreign) return nullptr;
  if (operation.record_at < slot_record::index_header_bytes || operation.record_at % slot_record::bytes != 0) return "its recordAt is not the place of a slot record.";
  if (reads) return operation.meta.size() == slot_record::expected_bytes ? nullptr : "its meta is not SLOT_EXPECTED_BYTES of a slot record.";
  if (operation.meta.size() != slot_record::bytes) return "its meta is not a slot record.";
  const auto* record = reinterpret_cast<const uint8_t*>(operation.meta.data());
  if (slot_record::take<uint32_t>(record, slot_record::at::magic) != slot_record::magic || record[slot_record::at::version] != slot_record::version) {
    return "its meta is not a slot record of this version.";
  }
  if (slot_record::place_of(slot_record::take<uint32_t>(record, slot_record::at::slot)) != operation.record_at) return "its slot record is not that of the slot at recordAt.";
  return nullptr;
}

}  // namespace

Agent::Agent(Words words, std::shared_ptr<CompletionQueue> queue, std::unique_ptr<Plugin> plugin)
    : words_(std::move(words)), queue_(std::move(queue)), plugin_(std::move(plugin)), epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) throw std::system_error(errno, std::generic_category(), "epoll_create1");
  std::vector<int> fds = plugin_->event_fds();
  fds.push_back(queue_->event_fd());
  for (const int fd : fds) {
    epoll_event event{};
    event.events = EPOLLIN;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) throw std::system_error(errno, std::generic_category(), "epoll_ctl");
  }
  register_queue(queue_);
}

Agent::~Agent() {
  assert(idle());
  // Its threads may still be inside the queue's push(): they end here, before the queue does.
  plugin_.reset();
}

bool Agent::parse(const double* descriptor, size_t index, const uint8_t* blob, size_t blob_bytes, Operation& out, std::string& problem) const {
  const auto fails = [&](const char* what) {
    problem = "Descriptor " + std::to_string(index) + ": " + what;
    return false;
  };
  for (size_t i = 0; i < field::stride; i++) {
    // The word's value is an Int32, so it may be negative.
    if (i != field::word_queued && !whole(descriptor[i])) return fails("every field must be a whole number from 0 to 2^53 - 1.");
  }
  const auto at = [&](size_t which) { return static_cast<uint64_t>(descriptor[which]); };
  const auto in_blob = [&](uint64_t offset, uint64_t length) { return offset <= blob_bytes && length <= blob_bytes - offset; };
  const auto view = [&](uint64_t offset, uint64_t length) {
    return std::string_view(reinterpret_cast<const char*>(blob) + offset, static_cast<size_t>(length));
  };

  if (at(field::op) < static_cast<uint64_t>(Op::page_write) || at(field::op) > static_cast<uint64_t>(Op::tombstones)) return fails("its op is not known.");
  out.op = static_cast<Op>(at(field::op));
  if (at(field::flags) > flag::all) return fails("it has a flag that is not known.");
  out.flags = static_cast<uint32_t>(at(field::flags));
  if (at(field::directory) >= plugin_->directories()) return fails("its directory is not one of the agent's.");
  out.directory = static_cast<uint32_t>(at(field::directory));

  if (!in_blob(at(field::name_offset), at(field::name_length))) return fails("its name lies outside of the blob.");
  const std::string_view name = view(at(field::name_offset), at(field::name_length));
  if (!valid_name(name)) return fails("its name is not a relative path of proper components of at most 255 bytes.");
  const uint64_t record = at(field::record_offset), identity = at(field::identity_length), meta = at(field::meta_length);
  if (identity > identity_bytes_max) return fails("its identity is longer than IDENTITY_BYTES_MAX.");
  if (meta > (out.op == Op::tombstones ? tombstone_bytes * tombstones_max : record_meta_max)) return fails("its meta is too long.");
  if (identity + meta > 0 && !in_blob(record, identity + meta)) return fails("its identity or meta lies outside of the blob.");
  if (identity > 0) out.identity = view(record, identity);
  if (meta > 0) out.meta = view(record + identity, meta);

  const uint64_t length = at(field::length);
  if (needs_memory(out.op)) {
    const RegionRef region = at(field::region) <= UINT32_MAX ? MemoryRegistry::instance().find(static_cast<uint32_t>(at(field::region))) : nullptr;
    if (region == nullptr) {
      // A page without bytes needs no memory.
      if (length > 0) return fails("its region is not registered.");
    } else {
      const uint64_t offset = at(field::memory_offset);
      if (offset > region->length || length > region->length - offset) return fails("its memory lies outside of its region.");
      out.memory = {region->address + offset, static_cast<size_t>(length), &region->gate};
      out.region = region;
    }
    if (length > INT64_MAX / 2) return fails("its length is absurd.");
  }
  out.file_offset = at(field::file_offset);

  out.record_at = at(field::record_at);
  if (const char* wrong = wrong_for_segment(out)) return fails(wrong);

  if (at(field::word) >= words_.count) return fails("its word is not one of the agent's.");
  const double queued = descriptor[field::word_queued];
  if (!(queued >= INT32_MIN && queued <= INT32_MAX) || std::floor(queued) != queued ||
      (static_cast<int32_t>(queued) & word_state::mask) != word_state::queued) {
    return fails("its wordQueued is not a value of the state 'queued'.");
  }
  out.word = words_.data + at(field::word);
  out.word_queued = static_cast<int32_t>(queued);
  return true;
}

std::string Agent::submit(const double* descriptors, size_t count, const uint8_t* blob, size_t blob_bytes, bool want_metas,
                          std::function<void(Batch&)> report_batch) {
  assert(!stopped_ && count > 0);
  auto batch = std::make_unique<Batch>(count, words_, queue_);
  std::string problem;
  size_t text_bytes = 0;
  for (size_t i = 0; i < count; i++) {
    const double* descriptor = descriptors + i * field::stride;
    if (!parse(descriptor, i, blob, blob_bytes, (*batch)[i], problem)) return problem;
    text_bytes += static_cast<size_t>(descriptor[field::name_length]) + 1 + (*batch)[i].identity.size() + (*batch)[i].meta.size();
  }
  // The blob is the caller's again when this returns.
  batch->text.resize(text_bytes);
  char* to = batch->text.data();
  const auto keep = [&](std::string_view from) {
    char* const start = to;
    if (!from.empty()) std::memcpy(to, from.data(), from.size());
    to += from.size();
    return std::string_view(start, from.size());
  };
  for (size_t i = 0; i < count; i++) {
    const double* descriptor = descriptors + i * field::stride;
    Operation& operation = (*batch)[i];
    const auto* name = reinterpret_cast<const char*>(blob) + static_cast<size_t>(descriptor[field::name_offset]);
    operation.name = keep({name, static_cast<size_t>(descriptor[field::name_length])}).data();
    *to++ = '\0';
    operation.identity = keep(operation.identity);
    operation.meta = keep(operation.meta);
  }
  batch->want_metas = want_metas;
  batch->report = std::move(report_batch);
  batches_.push_front(std::move(batch));
  const auto place = batches_.begin();
  unreported_++;
  (*place)->on_all_finished = [this, place] {
    // Out of the list first: the report may call back into the agent.
    const std::unique_ptr<Batch> finished = std::move(*place);
    batches_.erase(place);
    report(*finished);
  };
  plugin_->start(**place);
  return {};
}

void Agent::write_result(const Operation& operation, double* out) {
  // Told to let go and not finished: the caller gets its answer now, and the word says when the memory is free.
  const bool finished = operation.finished.load(std::memory_order_acquire);
  out[result_field::status] = static_cast<double>(finished ? operation.outcome.status : Status::error);
  out[result_field::error] = finished ? operation.outcome.error : ECANCELED;
  out[result_field::length] = finished ? static_cast<double>(operation.outcome.length) : 0;
  out[result_field::microseconds] = finished ? operation.microseconds : 0;
}

void Agent::report(Batch& batch) {
  if (!batch.report) return;
  const auto call = std::exchange(batch.report, nullptr);
  unreported_--;
  call(batch);
}

void Agent::process() {
  take_events();
  plugin_->process();
  // What the engines have finished just now. Files that pool threads have opened meanwhile come with it, and wait for the engine's flush: nothing else
  // would wake the agent for them.
  if (take_events()) plugin_->process();
}

// Draining takes the wake of a request to cancel along: it is looked for each time, or it would wait for the next event, which need not come.
bool Agent::take_events() {
  const bool any = queue_->drain();
  if (queue_->take_cancel_request()) handle_cancel();
  return any;
}

void Agent::handle_cancel() {
  plugin_->withdraw_called_off();
  std::vector<Batch*> answerable;
  for (const auto& batch : batches_) {
    bool all = true;
    for (size_t i = 0; i < batch->size(); i++) {
      Operation& operation = (*batch)[i];
      if (operation.finished.load(std::memory_order_acquire)) continue;
      if (operation.cancelling()) {
        plugin_->cancel(operation);
      } else {
        all = false;
      }
    }
    // One whose operations are all finished is on its way through the queue.
    if (all && batch->remaining() > 0 && batch->report) answerable.push_back(batch.get());
  }
  for (Batch* batch : answerable) report(*batch);
}

size_t Agent::in_flight() const {
  size_t total = plugin_->calls();
  for (const auto& batch : batches_) total += batch->remaining();
  return total;
}

void Agent::stop() {
  if (stopped_) return;
  stopped_ = true;
  plugin_->stop();
  for (const auto& batch : batches_) {
    for (size_t i = 0; i < batch->size(); i++) {
      if (!(*batch)[i].finished.load(std::memory_order_acquire)) plugin_->cancel((*batch)[i]);
    }
  }
}

bool Agent::drain(int timeout_ms) {
  const int64_t deadline = now_ns() + static_cast<int64_t>(timeout_ms) * 1'000'000;
  while (true) {
    process();
    if (idle()) return true;
    int wait_ms = -1;
    if (timeout_ms >= 0) {
      const int64_t left_ns = deadline - now_ns();
      if (left_ns <= 0) return false;
      wait_ms = static_cast<int>((left_ns + 999'999) / 1'000'000);
    }
    pollfd poll_fd{epoll_.get(), POLLIN, 0};
    ::poll(&poll_fd, 1, wait_ms);
  }
}

void Agent::report_all() {
  std::vector<Batch*> all;
  for (const auto& batch : batches_) all.push_back(batch.get());
  for (Batch* batch : all) report(*batch);
}

void Agent::forget_reports() {
  for (const auto& batch : batches_) batch->report = nullptr;
  unreported_ = 0;
}

void Agent::abandon(std::unique_ptr<Agent> agent) {
  agent->forget_reports();
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  Agent* const left = agent.release();
  try {
    std::thread([left] {
      left->drain(-1);
      delete left;
    }).detach();
  } catch (const std::system_error&) {
    // No thread to be had: what is left of the agent stays where it is, for nothing may be freed that the kernel still uses.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace hicache
