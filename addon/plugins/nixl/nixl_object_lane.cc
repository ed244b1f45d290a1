#include "plugins/nixl/nixl_object_lane.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <utility>

#include "pool/record.h"
#include "util/clock.h"

namespace hicache::nixl {
namespace {

constexpr int64_t us = 1'000, ms = 1'000'000;
// Whoever calls off at the deadline comes first.
constexpr int64_t deadline_default_ms = 30'000, deadline_grace_ms = 1000;
constexpr int64_t poll_least_ns = 50 * us, poll_most_ns = 5 * ms, given_up_poll_ns = 100 * ms, attempt_pause_ns = 1000 * ms;
constexpr int64_t farewell_ns = 200 * ms;
constexpr size_t given_up_max = 4;
constexpr size_t keys_a_question = 64;
// A plugin that moves less than it should may have been disturbed: it is asked so often.
constexpr int reads_max = 2;
constexpr uint64_t window_least = 64 << 10, window_most = 4 << 20, measured_max = uint64_t{4} << 30;

struct LeftBehind {
  std::mutex mutex;
  std::vector<std::unique_ptr<ObjectSession>> sessions;
};
// Reachable for ever: the library may write to what they hold at any time.
LeftBehind& left_behind() {
  static LeftBehind* const all = new LeftBehind;
  return *all;
}

uint64_t mixed(uint64_t value) {
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}

// Bytes that nobody has stored: what is still so after a read was not read. Eight by eight, as they lie from the beginning of the slot.
uint64_t filling(uint64_t word, uint64_t seed) { return mixed(seed + word * 0x9e3779b97f4a7c15); }
uint8_t filling_byte(uint64_t at, uint64_t seed) { return static_cast<uint8_t>(filling(at / 8, seed) >> (at % 8 * 8)); }
void fill(uint8_t* memory, uint64_t from, uint64_t to, uint64_t seed) {
  for (; from < to && from % 8 != 0; from++) memory[from] = filling_byte(from, seed);
  for (; to - from >= 8; from += 8) {
    const uint64_t word = filling(from / 8, seed);
    std::memcpy(memory + from, &word, sizeof(word));
  }
  for (; from < to; from++) memory[from] = filling_byte(from, seed);
}
// Behind the last byte that is not as it was filled; `from` where all are.
uint64_t end_of_change(const uint8_t* memory, uint64_t from, uint64_t to, uint64_t seed) {
  while (to > from && memory[to - 1] == filling_byte(to - 1, seed)) to--;
  return to;
}
// The last bytes that are to come of a page.
constexpr uint64_t mark_bytes = 8;
uint64_t mark_of(uint64_t length) { return length - std::min(length, mark_bytes); }

Outcome refused_text(Status status, const std::string& why) {
  Outcome outcome = Outcome::of(status);
  outcome.set_meta(std::string_view(why).substr(0, meta_bytes_max));
  return outcome;
}

}  // namespace

size_t object_sessions_left_behind() {
  LeftBehind& all = left_behind();
  std::lock_guard lock(all.mutex);
  return all.sessions.size();
}

// ---- whoever holds the lane ----

void ObjectLane::start() {
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::thread([self = shared_from_this()] { self->run(); });
  } catch (...) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void ObjectLane::hand_over(const std::vector<Given>& given) {
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, operation] : given) {
      auto job = std::make_shared<ObjectJob>();
      job->operation = operation;
      job->id = id;
      job->op = operation->op;
      job->flags = operation->flags;
      job->key = operation->name;
      job->identity = operation->identity;
      job->meta = operation->meta;
      job->memory = operation->memory;
      job->region = operation->region;
      const int64_t left_ms = operation->file_offset == 0 ? deadline_default_ms : static_cast<int64_t>(std::min<uint64_t>(operation->file_offset, 1ull << 40));
      job->deadline_ns = now_ns() + (left_ms + deadline_grace_ms) * ms;
      inbox_.push_back(job);
      jobs_.emplace(id, std::move(job));
    }
  }
  changed_.notify_one();
}

template <typename Fits>
void ObjectLane::take_back(const Outcome& outcome, Fits&& fits) {
  std::vector<Operation*> back;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(jobs_, [&](const auto& entry) {
      ObjectJob& job = *entry.second;
      if (!fits(job)) return false;
      if (job.touching) {
        job.called_off = true;
        return false;
      }
      back.push_back(std::exchange(job.operation, nullptr));
      return true;
    });
  }
  for (Operation* operation : back) operation->finish(outcome);
}

void ObjectLane::cancel(uint64_t id) {
  // What was not started is taken away by withdraw_called_off() or stop().
  take_back(Outcome::failed(ECANCELED), [&](const ObjectJob& job) { return job.id == id && job.started; });
}

void ObjectLane::withdraw_called_off() {
  take_back(Outcome::of(Status::cancelled), [](const ObjectJob& job) { return !job.started && job.operation->called_off(); });
}

void ObjectLane::stop() {
  take_back(Outcome::of(Status::cancelled), [](const ObjectJob& job) { return !job.started; });
}

bool ObjectLane::stuck() const {
  const int64_t since = inside_.load(std::memory_order_relaxed);
  return since != 0 && now_ns() - since > options_.timeout_ms * ms;
}

std::vector<ObjectLane::Given> ObjectLane::give_up() {
  std::vector<Given> waiting;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(jobs_, [&](const auto& entry) {
      if (entry.second->started) return false;
      waiting.push_back({entry.first, std::exchange(entry.second->operation, nullptr)});
      return true;
    });
  }
  take_back(refused_text(Status::unavailable, "NIXL's plugin " + options_.plugin + " does not come back from a call"), [](const ObjectJob&) { return true; });
  return waiting;
}

void ObjectLane::close() {
  std::unique_lock lock(mutex_);
  closing_ = true;
  changed_.notify_one();
  while (!has_ended_) {
    ended_.wait_for(lock, std::chrono::milliseconds(20));
    const int64_t since = inside_.load(std::memory_order_relaxed);
    if (!has_ended_ && since != 0 && now_ns() - since > farewell_ns) return thread_.detach();
  }
  lock.unlock();
  thread_.join();
}

// ---- the thread ----

void ObjectLane::run() {
  fills_ = mixed(static_cast<uint64_t>(now_ns()) ^ reinterpret_cast<uintptr_t>(this));
  std::unique_lock lock(mutex_);
  while (!closing_) {
    waiting_.insert(waiting_.end(), inbox_.begin(), inbox_.end());
    inbox_.clear();
    lock.unlock();
    const int64_t next = work();
    lock.lock();
    const auto more = [&] { return closing_ || !inbox_.empty(); };
    if (next == 0) changed_.wait(lock, more);
    else if (const int64_t left = next - now_ns(); left > 0) changed_.wait_for(lock, std::chrono::nanoseconds(left), more);
  }
  lock.unlock();
  farewell();
  lock.lock();
  has_ended_ = true;
  ended_.notify_all();
}

// What is still in flight belongs to nobody any more, but for the memory that it goes to.
void ObjectLane::farewell() {
  waiting_.clear();
  asking_.clear();
  if (current_ != nullptr) retired_.push_back(std::move(current_));
  const int64_t until = now_ns() + farewell_ns;
  for (auto& session : retired_) {
    while (!session->transfers.empty()) {
      poll_session(*session, INT64_MAX);
      if (now_ns() >= until) break;
      if (!session->transfers.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (session->transfers.empty()) continue;
    LeftBehind& all = left_behind();
    std::lock_guard lock(all.mutex);
    all.sessions.push_back(std::move(session));
  }
  retired_.clear();
}

// When there is something to do again; 0: when something comes.
int64_t ObjectLane::work() {
  const int64_t now = now_ns();
  if (current_ != nullptr) poll_session(*current_, now);
  for (auto& session : retired_) poll_session(*session, now);
  bool again = true;
  while (again) {
    again = false;
    std::erase_if(retired_, [](const auto& session) { return session->transfers.empty(); });
    if (!asking_.empty()) {
      ask();
      again = true;
    }
    while (!waiting_.empty()) {
      const JobRef job = waiting_.front();
      if (gone(job)) {
        waiting_.pop_front();
        continue;
      }
      if (job->step == Step::begin) {
        waiting_.pop_front();
        begin(job);
        again = true;
        continue;
      }
      if (!have_session()) {
        waiting_.pop_front();
        unavailable(job);
        continue;
      }
      if (current_->transfers.size() >= options_.depth) break;
      waiting_.pop_front();
      if (!start_transfer(job)) {
        waiting_.push_front(job);
        break;
      }
    }
  }
  if (current_ != nullptr && (current_->broken || current_->given_up)) retired_.push_back(std::move(current_));
  std::erase_if(retired_, [](const auto& session) { return session->transfers.empty(); });
  int64_t earliest = 0;
  const auto look = [&](const ObjectSession& session) {
    for (const auto& transfer : session.transfers) {
      if (earliest == 0 || transfer->next_poll_ns < earliest) earliest = transfer->next_poll_ns;
    }
  };
  if (current_ != nullptr) look(*current_);
  for (const auto& session : retired_) look(*session);
  // What waits for a slot and nothing in flight that would give one back: only its deadline can help.
  if (earliest == 0 && !waiting_.empty()) earliest = now_ns() + given_up_poll_ns;
  return earliest;
}

bool ObjectLane::have_session() {
  if (current_ != nullptr && (current_->broken || current_->given_up)) retired_.push_back(std::move(current_));
  if (current_ != nullptr) return true;
  const auto hopeless = static_cast<size_t>(std::count_if(retired_.begin(), retired_.end(), [](const auto& session) { return session->given_up; }));
  if (hopeless >= given_up_max) {
    problem_ = std::to_string(given_up_max) + " agents of NIXL do not come to an end; no more are made before one does";
    return false;
  }
  const int64_t now = now_ns();
  if (now < next_attempt_ns_) return false;
  Refusal refusal;
  current_ = ObjectSession::open(*options_.api, options_.plugin, options_.parameters, inside_, refusal);
  if (current_ != nullptr) return true;
  problem_ = refusal.reason;
  next_attempt_ns_ = now_ns() + attempt_pause_ns;
  return false;
}

void ObjectLane::begin(const JobRef& job) {
  Operation* refused = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (job->operation == nullptr) return;
    if (job->operation->claim()) {
      job->started = true;
    } else {
      refused = std::exchange(job->operation, nullptr);
      jobs_.erase(job->id);
    }
  }
  if (refused != nullptr) return refused->finish(Outcome::of(Status::cancelled));
  switch (job->op) {
    case Op::page_check:
      job->step = (job->flags & flag::force) != 0 ? Step::ask_before_measuring : Step::ask_for_check;
      return asking_.push_back(job);
    case Op::page_write:
      if ((job->flags & flag::compare_first) == 0 || (job->flags & flag::replace) != 0) return go_on(job, Step::write);
      job->step = Step::ask_before_write;
      return asking_.push_back(job);
    case Op::page_read: return go_on(job, Step::read);
    default: return finish(job, Outcome::failed(ENOTSUP));
  }
}

// ---- questions ----

void ObjectLane::ask() {
  std::vector<JobRef> jobs;
  std::vector<std::string> keys;
  while (!asking_.empty() && jobs.size() < keys_a_question) {
    JobRef job = asking_.front();
    asking_.pop_front();
    if (gone(job)) continue;
    keys.push_back(job->key);
    jobs.push_back(std::move(job));
  }
  if (jobs.empty()) return;
  if (!have_session()) {
    for (const JobRef& job : jobs) unavailable(job);
    return;
  }
  std::vector<bool> there;
  const bool well = current_->query(keys, there) == status::success;
  if (!well) problem_ = current_->problem();
  for (size_t i = 0; i < jobs.size(); i++) {
    if (well) answered(jobs[i], there[i]);
    else if (jobs[i]->step == Step::ask_after_read) failed(current_.get(), jobs[i], Step::read);
    else failed(current_.get(), jobs[i], jobs[i]->step);
  }
}

void ObjectLane::answered(const JobRef& job, bool there) {
  switch (job->step) {
    // Whose it is and what it holds nobody has asked: that is what a read does.
    case Step::ask_for_check: return finish(job, Outcome::of(there ? Status::unverified : Status::absent));
    case Step::ask_before_write: return go_on(job, there ? Step::peek : Step::write);
    case Step::ask_before_measuring:
      if (!there) return finish(job, Outcome::of(Status::absent));
      job->from = 0;
      job->window = window_least;
      return go_on(job, Step::measure);
    default:
      if (!there) return finish(job, Outcome::of(Status::absent));
      return failed(current_.get(), job, Step::read);
  }
}

// ---- transfers ----

void ObjectLane::go_on(const JobRef& job, Step step) {
  job->step = step;
  waiting_.push_back(job);
}

// False: there is no slot for it now.
bool ObjectLane::start_transfer(const JobRef& job) {
  const uint64_t length = job->memory.length, whole = page_file_bytes(length);
  std::unique_ptr<ObjectTransfer> made(new (std::nothrow) ObjectTransfer);
  if (made == nullptr) return finish(job, Outcome::failed(ENOMEM)), true;
  ObjectTransfer& transfer = *made;
  transfer.job = job;
  transfer.operation = job->step == Step::write ? operation::write : operation::read;
  transfer.length = static_cast<size_t>(whole);
  if (job->step == Step::peek) {
    transfer.offset = whole - record_bytes;
    transfer.length = record_bytes;
  } else if (job->step == Step::measure) {
    transfer.offset = job->from;
    transfer.length = static_cast<size_t>(job->window);
  }
  bool refused = false;
  transfer.slot = current_->take_slot(transfer.length, refused);
  if (transfer.slot == nullptr) {
    if (!refused) return false;
    problem_ = current_->problem();
    failed(current_.get(), job, job->step);
    return true;
  }
  uint8_t* const data = transfer.slot->data();
  if (job->step == Step::write) {
    if (!fill_for_write(job, *transfer.slot)) {
      current_->give_back(transfer.slot);
      return true;
    }
  } else {
    job->fill = fills_ += 0x9e3779b97f4a7c15;
    // Of a page only what tells its end; of what is to be measured, all.
    const bool page = job->step == Step::read;
    if (page) fill(data, mark_of(length), length, job->fill);
    fill(data, page ? length : 0, transfer.length, job->fill);
  }
  const int64_t now = now_ns();
  transfer.posted_ns = now;
  transfer.deadline_ns = now + options_.timeout_ms * ms;
  const int answer = current_->post(job->key, transfer);
  if (!advance(*current_, transfer, answer, now_ns())) current_->transfers.push_back(std::move(made));
  return true;
}

// What a page file holds: the payload, zeros, the record.
bool ObjectLane::fill_for_write(const JobRef& job, ObjectSlot& slot) {
  const uint64_t length = job->memory.length, whole = page_file_bytes(length);
  Record record;
  record.payload_length = length;
  record.identity = job->identity;
  record.meta = job->meta;
  if (!touch(job, [&](const Memory& memory) {
        if (length > 0) std::memcpy(slot.data(), memory.data, static_cast<size_t>(length));
      })) {
    return false;
  }
  record.payload_crc = payload_crc(job->identity, slot.data(), static_cast<size_t>(length));
  std::memset(slot.data() + length, 0, static_cast<size_t>(whole - record_bytes - length));
  encode_record(slot.data() + whole - record_bytes, record);
  return true;
}

void ObjectLane::poll_session(ObjectSession& session, int64_t now) {
  for (size_t i = 0; i < session.transfers.size();) {
    ObjectTransfer& transfer = *session.transfers[i];
    if (transfer.next_poll_ns > now || !advance(session, transfer, session.poll(transfer), std::min(now, now_ns()))) {
      i++;
      continue;
    }
    std::swap(session.transfers[i], session.transfers.back());
    session.transfers.pop_back();
  }
}

bool ObjectLane::advance(ObjectSession& session, ObjectTransfer& transfer, int answer, int64_t now) {
  if (answer != status::in_progress) {
    const bool well = answer == status::success;
    if (!well) problem_ = session.problem();
    session.release(transfer.job->key, transfer);
    moved(session, transfer, well);
    session.give_back(transfer.slot);
    return true;
  }
  // The slot stays with the transfer, whoever still waits for it.
  if (now >= transfer.job->deadline_ns) finish(transfer.job, Outcome::failed(ETIMEDOUT));
  if (now >= transfer.deadline_ns && !session.given_up) {
    session.given_up = true;
    problem_ = "a transfer of " + std::to_string(transfer.length) + " bytes did not end within " + std::to_string(options_.timeout_ms) + " ms; its agent is given up";
  }
  if (now >= transfer.deadline_ns) unavailable(transfer.job);
  const int64_t elapsed = now - transfer.posted_ns;
  transfer.next_poll_ns = now + (session.given_up ? given_up_poll_ns : std::clamp(elapsed / 8, poll_least_ns, poll_most_ns));
  return false;
}

void ObjectLane::moved(ObjectSession& session, ObjectTransfer& transfer, bool well) {
  const JobRef& job = transfer.job;
  if (gone(job)) return;
  const uint8_t* const data = transfer.slot->data();
  switch (job->step) {
    case Step::write:
      // Beside an error that nothing explains a success may be a mistake.
      if (!well || session.broken) return failed(&session, job, Step::write);
      return finish(job, Outcome::of(Status::ok, job->memory.length));
    // An object that is shorter than the page is no failure, and is overwritten.
    case Step::peek:
      if (!well) return go_on(job, Step::write);
      return judge_peek(job, data);
    case Step::read:
      if (well) return judge_read(job, data);
      // Of an error NIXL does not say whether it means that there is nothing.
      job->step = Step::ask_after_read;
      return asking_.push_back(job);
    default:
      if (!well) return failed(&session, job, Step::measure);
      return judge_window(job, data);
  }
}

// Is the page there that would be written?
void ObjectLane::judge_peek(const JobRef& job, const uint8_t* block) {
  const uint64_t length = job->memory.length;
  Record record;
  const RecordState state = decode_record(block, record);
  if (state == RecordState::newer) return finish(job, Outcome::failed(EPROTONOSUPPORT));
  uint64_t crc = 0;
  if (!touch(job, [&](const Memory& memory) { crc = payload_crc(job->identity, memory.data, static_cast<size_t>(length)); })) return;
  const bool same = state == RecordState::whole && record.payload_length == length && record.payload_crc == crc && record.identity == job->identity && record.meta == job->meta;
  if (same) return finish(job, Outcome::of(Status::already_there, length));
  go_on(job, Step::write);
}

void ObjectLane::judge_read(const JobRef& job, const uint8_t* bytes) {
  const uint64_t length = job->memory.length, whole = page_file_bytes(length);
  const auto once_more = [&](const Outcome& otherwise) {
    if (++job->reads < reads_max) return go_on(job, Step::read);
    finish(job, otherwise);
  };
  const auto copy_out = [&](Outcome outcome) {
    const bool there = touch(job, [&](const Memory& memory) {
      if (length > 0) std::memcpy(memory.data, bytes, static_cast<size_t>(length));
    });
    if (there) finish(job, outcome);
  };
  Record record;
  switch (decode_record(bytes + whole - record_bytes, record)) {
    case RecordState::newer: return finish(job, Outcome::failed(EPROTONOSUPPORT));
    case RecordState::damaged: return once_more(Outcome::of(Status::corrupt));
    case RecordState::whole: {
      if (record.identity != job->identity) return finish(job, Outcome::of(Status::identity));
      if (page_file_bytes(record.payload_length) != whole) return finish(job, Outcome::of(Status::corrupt));
      if (record.payload_length != length) return finish(job, Outcome::of(Status::length, record.payload_length));
      const bool skip = (job->flags & flag::skip_checksum) != 0;
      if (!skip && payload_crc(job->identity, bytes, static_cast<size_t>(length)) != record.payload_crc) return once_more(Outcome::of(Status::corrupt));
      Outcome outcome = Outcome::of(Status::ok, length);
      outcome.set_meta(record.meta);
      return copy_out(outcome);
    }
    case RecordState::none: break;
  }
  const uint64_t mark = mark_of(length);
  // A last byte that is by chance what it was before looks like one that did not come: once more then, over another filling.
  const bool reached = end_of_change(bytes, mark, length, job->fill) == length;
  const bool beyond = end_of_change(bytes, length, whole, job->fill) > length;
  if (!reached) return once_more(Outcome::of(Status::length));
  if (beyond) return finish(job, Outcome::of(Status::length));
  // Exactly as long as was asked for, and without a record: somebody else's.
  if ((job->flags & flag::accept_unverified) == 0) return finish(job, Outcome::of(Status::absent));
  copy_out(Outcome::of(Status::unverified, length));
}

// How long is it, and what does its record say? Windows overlap by a record, so that each begins inside of the object: there are plugins that fail a read that does not.
void ObjectLane::judge_window(const JobRef& job, const uint8_t* bytes) {
  const uint64_t end = end_of_change(bytes, 0, job->window, job->fill);
  const uint64_t up = round_up(static_cast<size_t>(end));
  Record record;
  if (up >= record_bytes) {
    const RecordState state = decode_record(bytes + up - record_bytes, record);
    if (state == RecordState::newer) return finish(job, Outcome::failed(EPROTONOSUPPORT));
    if (state == RecordState::whole && page_file_bytes(record.payload_length) == job->from + up) {
      if (record.identity != job->identity) return finish(job, Outcome::of(Status::identity));
      Outcome outcome = Outcome::of(Status::ok, record.payload_length);
      outcome.set_meta(record.meta);
      return finish(job, outcome);
    }
  }
  // Full, or nearly: the last byte may be by chance what it was. A plugin that finds something everywhere is not believed for ever.
  if (up == job->window && job->from < measured_max) {
    job->from += job->window - record_bytes;
    job->window = std::min(job->window * 2, window_most);
    return go_on(job, Step::measure);
  }
  finish(job, Outcome::of((job->flags & flag::accept_unverified) != 0 ? Status::unverified : Status::absent, job->from + end));
}

// ---- ends ----

// An error, of which NIXL says no more: it is tried once more, by another agent.
void ObjectLane::failed(ObjectSession* session, const JobRef& job, Step again) {
  if (session != nullptr) session->broken = true;
  job->step = again;
  if (job->failures++ > 0) return unavailable(job);
  const bool asks = again == Step::ask_for_check || again == Step::ask_before_write || again == Step::ask_before_measuring;
  (asks ? asking_ : waiting_).push_back(job);
}

void ObjectLane::unavailable(const JobRef& job) { finish(job, refused_text(Status::unavailable, "NIXL's plugin " + options_.plugin + ": " + problem_)); }

bool ObjectLane::gone(const JobRef& job) {
  bool late = false;
  {
    std::lock_guard lock(mutex_);
    if (job->operation == nullptr) return true;
    late = job->started && now_ns() >= job->deadline_ns;
  }
  if (late) finish(job, Outcome::failed(ETIMEDOUT));
  return late;
}

void ObjectLane::finish(const JobRef& job, const Outcome& outcome) {
  Operation* operation = nullptr;
  {
    std::lock_guard lock(mutex_);
    operation = std::exchange(job->operation, nullptr);
    if (operation != nullptr) jobs_.erase(job->id);
  }
  if (operation != nullptr) operation->finish(outcome);
}

template <typename Call>
bool ObjectLane::touch(const JobRef& job, Call&& call) {
  {
    std::lock_guard lock(mutex_);
    if (job->operation == nullptr) return false;
    job->touching = true;
  }
  const bool there = job->memory.touch([&] { call(job->memory); });
  bool called_off = false;
  {
    std::lock_guard lock(mutex_);
    job->touching = false;
    called_off = job->called_off;
  }
  if (called_off || !there) finish(job, Outcome::failed(called_off ? ECANCELED : EFAULT));
  return there && !called_off;
}

}  // namespace hicache::nixl
