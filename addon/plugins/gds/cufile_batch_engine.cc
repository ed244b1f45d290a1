#include "plugins/gds/cufile_batch_engine.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <new>
#include <system_error>
#include <utility>

namespace hicache::cufile {
namespace {

constexpr unsigned helper_threads = 4;      // fill batches, move memory of our own, and what is left over from batches
constexpr size_t usual_limit = 128;         // what cuFile takes in a batch where its configuration says nothing
constexpr unsigned refusals_max = 3;
constexpr long pause_ns = 500 * 1000;       // the longest that news of one batch waits for another's

}  // namespace

CufileBatchEngine::CufileBatchEngine(const CufileBatchOptions& options)
    : CufileEngine(options.max_request_size, true), pool_size_(std::max(options.batch_pool_size, 1u)), limit_(std::max(options.batch_limit, 1u)) {}

CufileBatchEngine::~CufileBatchEngine() {
  stop_threads();
  if (poller_.joinable()) {
    // stop_ is set by now.
    to_poll_.notify_all();
    poller_.join();
  }
  for (const auto& batch : idle_) api_->batch_destroy(batch->handle);
}

bool CufileBatchEngine::open(std::string& reason, std::string& remedy) {
  idle_.reserve(pool_size_);
  active_.reserve(pool_size_);
  if (!CufileEngine::open(helper_threads, reason, remedy)) return false;
  // The first batch tells whether the limit is one that the library takes.
  auto batch = std::make_unique<Batch>();
  Error error{};
  bool made = set_up(*batch, error);
  if (!made && limit_ > usual_limit) {
    limit_ = usual_limit;
    made = set_up(*batch, error);
  }
  if (!made) {
    const Failure failure = failure_of(std::string("setting up a batch of ").append(std::to_string(limit_)), error.code, error.cuda);
    reason = failure.what;
    remedy = std::string("lower batch_limit, or use GDS_MT; ").append(failure.remedy);
    return false;
  }
  events_.resize(limit_);
  polled_.reserve(pool_size_);
  {
    std::lock_guard lock(mutex_);
    idle_.push_back(std::move(batch));
    made_ = 1;
  }
  sigset_t all, former;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &former);
  int failed = 0;
  try {
    poller_ = std::thread([this] { poll(); });
  } catch (const std::system_error& refused) {
    failed = refused.code().value();
  }
  pthread_sigmask(SIG_SETMASK, &former, nullptr);
  if (failed == 0) return true;
  reason = std::string("starting a thread: ").append(engines::describe_errno(failed));
  remedy = "Raise the limit of threads (ulimit -u, the cgroup's pids.max) or the memory of the cgroup.";
  return false;
}

bool CufileBatchEngine::set_up(Batch& batch, Error& error) {
  if (batch.handle != nullptr) return true;
  error = api_->batch_setup(&batch.handle, static_cast<unsigned>(limit_));
  if (error.code != 0) batch.handle = nullptr;
  return error.code == 0;
}

// ---- on the engine's threads ----

bool CufileBatchEngine::other_work(std::unique_lock<std::mutex>& lock) {
  if (device_queue_.empty() || (idle_.empty() && made_ >= pool_size_)) return false;
  std::unique_ptr<Batch> batch;
  try {
    if (idle_.empty()) {
      batch = std::make_unique<Batch>();
      made_++;
    } else {
      batch = std::move(idle_.back());
      idle_.pop_back();
    }
    batch->pieces.clear();
    batch->entries.clear();
    const size_t count = std::min(limit_, device_queue_.size());
    batch->pieces.reserve(count);
    batch->entries.reserve(count);
  } catch (const std::bad_alloc&) {
    // Without a batch: one piece by the plain call.
    if (batch != nullptr) {
      if (batch->handle != nullptr) idle_.push_back(std::move(batch));
      else made_--;
    }
    Piece& piece = *device_queue_.pop_front();
    give_to_threads(piece, lock);
    return false;
  }
  batch->device = device_queue_.front()->device;
  while (batch->pieces.size() < limit_ && !device_queue_.empty() && device_queue_.front()->device == batch->device) {
    Piece* const piece = device_queue_.pop_front();
    piece->stage = Piece::Stage::running;
    batch->pieces.push_back(piece);
  }
  submit_batch(std::move(batch), lock);
  return true;
}

// The mutex is held before and after.
void CufileBatchEngine::submit_batch(std::unique_ptr<Batch> batch, std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  size_t kept = 0;
  for (Piece* piece : batch->pieces) {
    CufileHandle* const file = make_current(*piece) ? file_of(*piece) : nullptr;
    if (file == nullptr) {
      lock.lock();
      end(*piece, lock);
      lock.unlock();
      continue;
    }
    BatchEntry entry{};
    entry.mode = batch_mode;
    // The base is moved and the offset 0: a batch reads with O_DIRECT into host memory as if there were no offset.
    entry.base = piece->address;
    entry.buffer_offset = 0;
    entry.file_offset = static_cast<off_t>(piece->offset);
    entry.size = piece->length;
    entry.handle = file->get();
    entry.operation = piece->job->reading() ? operation_read : operation_write;
    entry.cookie = reinterpret_cast<void*>(static_cast<uintptr_t>(kept + 1));
    batch->entries.push_back(entry);
    batch->pieces[kept++] = piece;
  }
  batch->pieces.resize(kept);
  batch->outstanding = kept;
  batch->failed = batch->cancel_asked = false;
  batch->refusals = 0;
  Error error{};
  if (kept > 0 && set_up(*batch, error)) error = api_->batch_submit(batch->handle, static_cast<unsigned>(kept), batch->entries.data(), 0);
  if (error.code != 0) note_failure(*batch->pieces.front(), "submitting a batch with", error.code, error.cuda);
  if (error.code != 0 || batch->handle == nullptr) {
    // Destroyed before its pieces go another way: should it have taken any of them, it lets go of them here.
    if (batch->handle != nullptr) {
      api_->batch_cancel(batch->handle);
      api_->batch_destroy(batch->handle);
    }
    lock.lock();
    made_--;
    for (Piece* piece : batch->pieces) give_to_threads(*piece, lock);
    to_do_.notify_all();
    return;
  }
  lock.lock();
  if (kept == 0) {
    idle_.push_back(std::move(batch));
    return;
  }
  active_.push_back(std::move(batch));
  to_poll_.notify_one();
}

// ---- on the thread that polls ----

void CufileBatchEngine::poll() {
  const auto rest = [] {
    const timespec length{0, pause_ns};
    ::nanosleep(&length, nullptr);
  };
  std::unique_lock lock(mutex_);
  for (;;) {
    if (active_.empty() && held_.empty()) {
      if (stop_) return;
      to_poll_.wait(lock);
      continue;
    }
    release_held(lock);
    polled_.clear();
    for (const auto& batch : active_) polled_.push_back(batch.get());
    bool news = false;
    for (Batch* batch : polled_) {
      cancel_unwanted(*batch, lock);
      // A single one is waited for at once.
      if (polled_.size() == 1) break;
      news = ask(*batch, 0, lock) || news;
    }
    // Never for more than is there, nor for ever: others are submitted meanwhile.
    if (!news && !polled_.empty() && !active_.empty()) news = ask(*active_.front(), 1, lock);
    if (news) continue;
    // Nobody waited for anything: the library refused, or had only told what is still under way; or a completion is withheld.
    if (polled_.empty() || active_.empty() || active_.front()->refusals > 0 || untimely_) {
      lock.unlock();
      rest();
      lock.lock();
    }
  }
}

// True when something ended. The batch may be gone then.
bool CufileBatchEngine::ask(Batch& batch, unsigned least, std::unique_lock<std::mutex>& lock) {
  unsigned count = static_cast<unsigned>(batch.outstanding);
  timespec limit{0, least == 0 ? 0 : pause_ns};
  Error error{};
  lock.unlock();
  Failure ignored;
  devices_->with_current(batch.device, ignored, [&] { error = api_->batch_status(batch.handle, least, &count, events_.data(), &limit); });
  if (!ignored.code.empty()) error = {code::cuda_error, 0};
  lock.lock();
  if (error.code != 0) {
    batch.failed = true;
    if (++batch.refusals < refusals_max) return false;
    CufileDriver::instance().note(failure_of("asking for the status of a batch", error.code, error.cuda));
    abandon(batch, lock);
    return true;
  }
  batch.refusals = 0;
  bool news = false;
  untimely_ = count > 0;
  for (unsigned i = 0; i < std::min<size_t>(count, events_.size()); i++) news = told(batch, events_[i], lock) || news;
  if (batch.outstanding == 0) retire(batch, lock);
  return news;
}

// True when the event ends an entry.
bool CufileBatchEngine::told(Batch& batch, const BatchEvent& event, std::unique_lock<std::mutex>& lock) {
  const size_t index = reinterpret_cast<uintptr_t>(event.cookie) - 1;
  if (index >= batch.pieces.size() || batch.pieces[index] == nullptr) {
    // Nobody asked, or it has been told already: whatever this batch says further on, it is not used again.
    batch.failed = true;
    return false;
  }
  constexpr int ends = status::invalid | status::canceled | status::complete | status::timed_out | status::failed;
  if ((event.status & ends) == 0) return false;
  Piece& piece = *std::exchange(batch.pieces[index], nullptr);
  batch.outstanding--;
  int64_t outcome = event.count;
  if (event.status != status::complete) outcome = event.count < 0 ? event.count : -EIO;
  const bool reading = piece.job->reading();
  if (outcome < 0 || static_cast<size_t>(outcome) > piece.length || (outcome == 0 && !reading)) {
    batch.failed = true;
    if (!piece.job->cancelled) {
      const int code = outcome < 0 ? static_cast<int>(std::min<int64_t>(-outcome, INT32_MAX)) : EIO;
      note_failure(piece, std::string("a batch's entry (status ").append(std::to_string(event.status)).append(") of"), code);
    }
  }
  if (const fault::Strike strike = fault::ask("cufile.complete", piece.job->request->name); strike.hit) {
    if (strike.error != 0) outcome = -strike.error;
    else if (strike.short_bytes >= 0) outcome = std::min(outcome, strike.short_bytes);
    if (strike.hang) {
      held_.push_back({&piece, outcome, strike});
      return true;
    }
  }
  settle(piece, outcome, lock);
  return true;
}

void CufileBatchEngine::settle(Piece& piece, int64_t outcome, std::unique_lock<std::mutex>& lock) {
  const bool bad = outcome < 0 || static_cast<size_t>(outcome) > piece.length || (outcome == 0 && !piece.job->reading());
  if (!bad) piece.moved = static_cast<size_t>(outcome);
  if (!bad && (outcome == 0 || piece.moved == piece.length)) return end(piece, lock);
  if (piece.job->cancelled) {
    piece.error = ECANCELED;
    return end(piece, lock);
  }
  give_to_threads(piece, lock);
}

void CufileBatchEngine::release_held(std::unique_lock<std::mutex>& lock) {
  for (size_t i = 0; i < held_.size();) {
    if (!fault::released(held_[i].strike)) {
      i++;
      continue;
    }
    const Held held = held_[i];
    held_.erase(held_.begin() + static_cast<ptrdiff_t>(i));
    settle(*held.piece, held.outcome, lock);
  }
}

// The library cancels whole batches only: when nobody wants anything of this one any more.
void CufileBatchEngine::cancel_unwanted(Batch& batch, std::unique_lock<std::mutex>& lock) {
  if (batch.cancel_asked) return;
  for (const Piece* piece : batch.pieces) {
    if (piece != nullptr && !piece->job->cancelled) return;
  }
  batch.cancel_asked = true;
  batch.failed = true;
  lock.unlock();
  // Should it refuse, the entries end by themselves.
  api_->batch_cancel(batch.handle);
  lock.lock();
}

// It does not say how its entries are. Destroying it is the one way to have the library let go of them.
void CufileBatchEngine::abandon(Batch& batch, std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  api_->batch_cancel(batch.handle);
  api_->batch_destroy(batch.handle);
  batch.handle = nullptr;
  lock.lock();
  for (Piece*& entry : batch.pieces) {
    Piece* const piece = std::exchange(entry, nullptr);
    if (piece == nullptr) continue;
    batch.outstanding--;
    settle(*piece, -EIO, lock);
  }
  retire(batch, lock);
}

void CufileBatchEngine::retire(Batch& batch, std::unique_lock<std::mutex>& lock) {
  const auto at = std::find_if(active_.begin(), active_.end(), [&](const auto& one) { return one.get() == &batch; });
  std::unique_ptr<Batch> owned = std::move(*at);
  active_.erase(at);
  if (owned->failed) {
    if (owned->handle != nullptr) {
      lock.unlock();
      api_->batch_destroy(owned->handle);
      lock.lock();
    }
    made_--;
  } else {
    idle_.push_back(std::move(owned));
  }
  if (!device_queue_.empty()) to_do_.notify_all();
}

std::unique_ptr<Engine> try_create_cufile_batch(const CufileBatchOptions& options, std::string& reason, std::string& remedy) {
  auto engine = std::make_unique<CufileBatchEngine>(options);
  if (!engine->open(reason, remedy)) return nullptr;
  return engine;
}

}  // namespace hicache::cufile
