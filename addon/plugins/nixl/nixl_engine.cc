#include "plugins/nixl/nixl_engine.h"

#include <fcntl.h>
#include <poll.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <mutex>
#include <new>
#include <utility>

#include "engine/engine_base.h"
#include "plugins/nixl/nixl_object_session.h"
#include "plugins/nixl/nixl_session.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/unique_fd.h"

namespace hicache::nixl {

// What a session has of one request: the whole of it, or as much as one round can take.
struct Job {
  struct Piece {
    Descriptor descriptor;
    int memory_type = memory::dram;
    Block block;                // data == nullptr: the library moves the memory itself
    uint8_t* memory = nullptr;  // what the block stands for
    size_t marked = 0;          // a read: where in the descriptor's memory the mark lies; 0: nowhere
    uint64_t mark = 0;          // what only the read of the file replaces
  };

  IoRequest* request = nullptr;  // nullptr: handed back at its deadline
  Session* session = nullptr;
  FileEntry* file = nullptr;
  MemoryEntry* region = nullptr;
  std::array<Piece, 2> pieces;
  size_t piece_count = 0;
  size_t asked = 0;
  bool staged = true;        // all of it lies in blocks of the session
  bool gated = false;        // the first buffer belongs to a region of the host
  bool crosses_end = false;  // asks for more than the file has
  bool cancelled = false;
  bool failed = false;
  size_t pending = 0;  // transfers that it is part of
};

namespace {

using engines::Fifo;
using engines::WaitingQueue;

constexpr unsigned depth_max = 256;
constexpr size_t piece_bytes_max = size_t{1} << 30;
constexpr size_t direct_unit = 4096;
constexpr size_t requests_a_call = 64;  // that the POSIX plugin submits or collects inside of one call
// Several requests failed one after the other, each by itself: it is not one of them that is to blame.
constexpr unsigned failures_in_a_row_max = 8;
constexpr size_t given_up_max = 4;
constexpr size_t left_behind_max = 16;
constexpr size_t careful_least = 256;  // descriptors that go one at a time after an agent had to be kept; each time twice as many
constexpr unsigned careful_doublings_max = 16;
// The least that holds what we have in flight: its own 65536 cost every agent milliseconds and megabytes.
constexpr char ios_pool_size[] = "512";
constexpr const char* yes_words[] = {"y", "yes", "on", "1", "true", "enable"};
constexpr int64_t us = 1'000, ms = 1'000'000;
constexpr int64_t poll_least_ns = 50 * us, poll_most_ns = 5 * ms, first_poll_unknown_ns = 100 * us, first_poll_most_ns = 20 * ms;
constexpr int64_t given_up_poll_ns = 100 * ms;
constexpr int64_t attempt_pause_ns = 1000 * ms;

// Sessions whose requests never ended. Reachable for ever: the library may write to what they hold at any time.
struct LeftBehind {
  std::mutex mutex;
  std::vector<std::unique_ptr<Session>> sessions, kept;
  std::atomic<size_t> kept_count{0};
};
LeftBehind& left_behind() {
  static LeftBehind* const all = new LeftBehind;
  return *all;
}

bool is_yes(const SessionSettings& settings, const char* name) {
  const auto found = settings.parameters.find(name);
  if (found == settings.parameters.end()) return false;
  return std::any_of(std::begin(yes_words), std::end(yes_words), [&](const char* word) { return ::strcasecmp(found->second.c_str(), word) == 0; });
}

// In the order in which the POSIX plugin looks at its parameters. Where none is given, which one it is depends on how it was built.
void contain(SessionSettings& settings) {
  if (settings.plugin != "POSIX") return;
  const bool aio = is_yes(settings, "use_aio"), uring = !aio && is_yes(settings, "use_uring"), posix_aio = !aio && !uring && is_yes(settings, "use_posix_aio");
  settings.containment = aio ? Containment::destroyed : Containment::kept;
  settings.short_reads_fail = posix_aio;
}

// Calls that a transfer may need from when its last descriptor is started until the library says that it has ended, which is never the call that collects the last one.
unsigned calls_of(const Transfer& transfer) { return static_cast<unsigned>((transfer.descriptors - 1) / requests_a_call) + 1; }

// Was it for want of space that `bytes` could not be written? NIXL does not say.
bool is_full(int fd, size_t bytes, const char* name) {
  if (const fault::Strike strike = fault::ask("nixl.space", name); strike.error != 0) return strike.error == ENOSPC;
  struct statvfs info;
  if (::fstatvfs(fd, &info) != 0) return false;
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize < bytes;
}

void keep(std::unique_ptr<Session> session) {
  LeftBehind& all = left_behind();
  std::lock_guard lock(all.mutex);
  all.kept.push_back(std::move(session));
}

class NixlEngineOf final : public NixlEngine {
 public:
  NixlEngineOf(const Options& options, SessionSettings settings)
      : settings_(std::move(settings)), depth_(std::clamp(options.queue_depth, 1u, depth_max)), timeout_ns_(std::max<int64_t>(options.timeout_ms, 1) * ms),
        kept_max_(options.kept_max), settle_ns_(std::max<int64_t>(options.settle_ms, 0) * ms) {
    // HF3FS maps over the memory that it is given, unless it is told to copy.
    const auto mem_config = settings_.parameters.find("mem_config");
    stage_all_ = kept() || (settings_.plugin == "HF3FS" && mem_config != settings_.parameters.end() && mem_config->second != "dram");
  }
  ~NixlEngineOf() override;

  bool open(Refusal& refusal);

  const char* name() const override { return "nixl"; }
  int event_fd() const override { return timer_.get(); }
  void submit(IoRequest* request) override;
  void flush(Sink& sink) override;
  void reap(Sink& sink) override;
  bool wait(Sink& sink, int timeout_ms) override;
  void cancel(IoRequest* request, Sink& sink) override;
  size_t in_flight() const override { return in_flight_; }

  void forget_file(int fd) override;
  void forget_region(uint32_t id) override;
  bool takes_device_memory() const override { return device_memory_; }
  const std::string& last_problem() const override { return problem_; }
  const Statistics& statistics() const override { return statistics_; }
  size_t agents_given_up() const override {
    return static_cast<size_t>(std::count_if(retired_.begin(), retired_.end(), [](const auto& session) { return session->given_up; }));
  }

 private:
  enum class Prepared : uint8_t { ready, finished, no_room };

  int have_session();
  void dispatch();
  void dispatch_batch();
  void fail_all(int error);
  Prepared prepare(IoRequest* request, size_t room, Job*& ready);
  int look_at_file(IoRequest* request, FileEntry*& entry);
  Prepared cut_into_pieces(Job& job, size_t room, size_t limit, bool inside);
  void mark(Job::Piece& piece, uint8_t* memory, size_t length, const Job& job, uint64_t offset);
  bool replaced(const Job& job, size_t moved) const;
  void register_batch_files();
  void start_transfer(int operation, int memory_type);
  bool advance(Session& session, Transfer& transfer, int answer, unsigned calls);
  void conclude(Session& session, Transfer& transfer, bool failed);
  void settle(Job& job);
  int64_t judge(Job& job);
  void settle_failed(Job& job);
  void fail_session(Session& session, int64_t now);
  bool kept() const { return settings_.containment == Containment::kept; }
  // One descriptor at a time: its error is its own, and says that it has ended.
  bool careful() const { return kept() && (careful_left_ > 0 || left_behind().kept_count.load(std::memory_order_relaxed) >= kept_max_); }
  void poll_all();
  void poll_session(Session& session, int64_t now);
  void give_up(Session& session, const Transfer& transfer);
  void hand_back_overdue(Session& session, int64_t now);
  void retire_current();
  void bury();
  void arm_timer();
  Job* new_job();
  void drop(Job* job);
  void finish(IoRequest* request, int64_t result, const fault::Strike& strike = {});
  void let_go_withheld();
  void deliver(Sink& sink);
  int64_t& expected_ns(const Transfer& transfer) { return expected_ns_[transfer.operation == operation::write ? 1 : 0][std::bit_width(transfer.bytes)]; }
  void take_problem(const Session& session) {
    if (!session.problem().empty()) problem_ = session.problem();
  }

  const SessionSettings settings_;
  const size_t depth_;
  const int64_t timeout_ns_;
  const size_t kept_max_;
  const int64_t settle_ns_;
  bool stage_all_ = false, device_memory_ = false;
  UniqueFd timer_;
  int64_t armed_for_ns_ = 0;  // 0: it does not run
  WaitingQueue queue_;
  Fifo suspects_;  // part of a failed transfer; each is tried once more, by itself
  Fifo done_;
  Fifo withheld_;  // until a planned hang is released: the latest one
  fault::Strike withheld_by_{};
  std::unique_ptr<Session> current_;
  std::vector<std::unique_ptr<Session>> retired_;  // broken or given up, with requests in progress
  int64_t next_attempt_ns_ = 0;                    // to make a session, after one could not be made
  std::vector<std::unique_ptr<Job>> jobs_;
  std::vector<Job*> free_jobs_, batch_;
  std::vector<FileEntry*> fresh_files_;
  std::vector<Descriptor> descriptors_;
  std::array<std::array<int64_t, 65>, 2> expected_ns_{};  // how long transfers of so many bytes took
  uint64_t round_ = 0;                                    // of looking at files
  uint64_t marks_ = static_cast<uint64_t>(now_ns());
  unsigned failures_in_a_row_ = 0;
  size_t careful_left_ = 0;  // descriptors
  size_t in_flight_ = 0;
  uint64_t delivered_ = 0;
  bool delivering_ = false;
  std::string problem_;
  Statistics statistics_;
};

bool NixlEngineOf::open(Refusal& refusal) {
  timer_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer_) {
    refusal = {"timerfd_create: " + engines::describe_errno(errno), "Raise the limit of open files (ulimit -n)."};
    return false;
  }
  retired_.reserve(64);
  batch_.reserve(depth_);
  fresh_files_.reserve(depth_);
  descriptors_.reserve(depth_);
  current_ = Session::open(settings_, refusal);
  if (current_ == nullptr) return false;
  statistics_.agents++;
  device_memory_ = current_->moves(memory::vram);
  return true;
}

NixlEngineOf::~NixlEngineOf() {
  assert(in_flight_ == 0);
  // What is left was handed back at its deadline. It may have come to its end meanwhile.
  for (auto& session : retired_) {
    if (session->destroying()) {
      if (session->destroyed()) continue;
    } else if (session->abandoned()) {
      keep(std::move(session));
      continue;
    } else {
      std::erase_if(session->transfers, [&](const auto& transfer) {
        if (!transfer->failed && session->poll(*transfer) == status::in_progress) return false;
        session->release(*transfer);
        return true;
      });
      if (session->transfers.empty()) continue;
    }
    LeftBehind& all = left_behind();
    std::lock_guard lock(all.mutex);
    all.sessions.push_back(std::move(session));
  }
}

void NixlEngineOf::submit(IoRequest* request) {
  request->result = 0;
  request->tries = 0;
  request->engine_slot = nullptr;
  in_flight_++;
  queue_.push_back(request);
}

void NixlEngineOf::flush(Sink& sink) {
  dispatch();
  arm_timer();
  deliver(sink);
}

void NixlEngineOf::reap(Sink& sink) {
  uint64_t expirations;
  if (::read(timer_.get(), &expirations, sizeof(expirations)) == static_cast<ssize_t>(sizeof(expirations))) armed_for_ns_ = 0;
  poll_all();
  dispatch();
  arm_timer();
  deliver(sink);
}

bool NixlEngineOf::wait(Sink& sink, int timeout_ms) {
  const int64_t deadline = now_ns() + std::max(timeout_ms, 0) * ms;
  const uint64_t delivered_before = delivered_;
  for (;;) {
    reap(sink);
    if (delivered_ != delivered_before) return true;
    if (in_flight_ == 0) return false;
    int left_ms = -1;
    if (timeout_ms >= 0) {
      left_ms = static_cast<int>((deadline - now_ns() + ms - 1) / ms);
      if (left_ms <= 0) return false;
    }
    pollfd event{timer_.get(), POLLIN, 0};
    ::poll(&event, 1, left_ms);
  }
}

void NixlEngineOf::cancel(IoRequest* request, Sink& sink) {
  if (auto* const job = static_cast<Job*>(request->engine_slot)) {
    // NIXL has no way to call a transfer off: it goes on, but is neither continued nor tried again.
    job->cancelled = true;
  } else if (queue_.remove(request) || suspects_.remove(request)) {
    finish(request, -ECANCELED);
    deliver(sink);
  }
}

void NixlEngineOf::forget_file(int fd) {
  if (current_ != nullptr) current_->forget_file(fd);
  for (auto& session : retired_) session->forget_file(fd);
}

void NixlEngineOf::forget_region(uint32_t id) {
  if (current_ != nullptr) current_->forget_region(id);
  for (auto& session : retired_) session->forget_region(id);
}

// ---- from the queue to the library ----

// 0, or why there is none.
int NixlEngineOf::have_session() {
  if (current_ != nullptr) return 0;
  if (agents_given_up() >= given_up_max) {
    problem_ = std::to_string(given_up_max) + " agents of NIXL do not come to an end; no more are made before one does";
    return ETIMEDOUT;
  }
  const int64_t now = now_ns();
  if (now < next_attempt_ns_) return EIO;
  Refusal refusal;
  try {
    current_ = Session::open(settings_, refusal);
  } catch (const std::bad_alloc&) {
    return ENOMEM;
  }
  if (current_ != nullptr) {
    statistics_.agents++;
    return 0;
  }
  problem_ = refusal.reason;
  next_attempt_ns_ = now + attempt_pause_ns;
  return EIO;
}

void NixlEngineOf::fail_all(int error) {
  while (IoRequest* request = suspects_.pop_front()) finish(request, -error);
  while (IoRequest* request = queue_.pop_front()) finish(request, -error);
}

void NixlEngineOf::dispatch() {
  while (!queue_.empty() || !suspects_.empty()) {
    if (const int error = have_session()) return fail_all(error);
    // A suspect has the agent to itself, so that its failure is its own.
    const bool alone = !suspects_.empty();
    const size_t depth = careful() ? 1 : depth_;
    if (alone ? !current_->transfers.empty() : current_->in_flight >= depth) return;
    bool blocked = false;
    size_t room = alone && kept() ? 1 : depth - current_->in_flight;
    batch_.clear();
    round_++;
    while (room > 0 && !blocked && !(alone && !batch_.empty())) {
      IoRequest* const request = alone ? suspects_.pop_front() : queue_.pop_front();
      if (request == nullptr) break;
      Job* job = nullptr;
      switch (prepare(request, room, job)) {
        case Prepared::ready:
          room -= job->piece_count;
          batch_.push_back(job);
          break;
        case Prepared::finished: break;
        case Prepared::no_room:
          if (alone) suspects_.push_front(request);
          else queue_.push_front(request);
          blocked = true;
          break;
      }
    }
    if (!batch_.empty()) dispatch_batch();
    // What is in flight gives its blocks back. If everything has come to its end already, they are free.
    if (blocked && current_ != nullptr && !current_->transfers.empty()) return;
  }
}

void NixlEngineOf::dispatch_batch() {
  register_batch_files();
  for (Job* job : batch_) {
    bool types[2] = {};
    for (size_t i = 0; i < job->piece_count; i++) types[job->pieces[i].memory_type] = true;
    job->pending = static_cast<size_t>(types[0]) + static_cast<size_t>(types[1]);
  }
  for (const int which : {operation::read, operation::write}) {
    for (const int type : {memory::vram, memory::dram}) start_transfer(which, type);
  }
  if (current_->broken) retire_current();
}

NixlEngineOf::Prepared NixlEngineOf::prepare(IoRequest* request, size_t room, Job*& ready) {
  const size_t wanted = request->bytes();
  if (wanted == 0) {
    finish(request, request->result);
    return Prepared::finished;
  }
  // The tail of a page lies in a block of its own even where the page has a region, and may come first.
  Region* const region = const_cast<Region*>(request->region);
  const auto* const first = static_cast<const uint8_t*>(request->iov[0].iov_base);
  const bool inside = region != nullptr && request->iov[0].iov_len > 0 && first >= region->address && first + request->iov[0].iov_len <= region->address + region->length;
  if (inside && region->gate.closed()) {
    finish(request, -ECANCELED);
    return Prepared::finished;
  }
  if (inside && region->kind == MemoryKind::device && !device_memory_) {
    problem_ = "NIXL's plugin " + settings_.plugin + " does not move memory of a GPU";
    finish(request, -EOPNOTSUPP);
    return Prepared::finished;
  }
  Job* job = nullptr;
  try {
    job = new_job();
    job->request = request;
    job->session = current_.get();
    if (const int error = look_at_file(request, job->file)) {
      drop(job);
      finish(request, -error);
      return Prepared::finished;
    }
    const FileEntry& file = *job->file;
    size_t limit = wanted;
    if (request->kind == IoRequest::Kind::read && file.regular) {
      const uint64_t there = file.size > request->offset ? file.size - request->offset : 0;
      if (there < wanted) {
        // Some interfaces fail a read past the end, and others call it a success. With O_DIRECT the last block is asked for as a whole; only when that has failed, without it.
        const bool direct = (file.flags & O_DIRECT) != 0;
        const bool whole = request->tries < 2 && !settings_.short_reads_fail;
        limit = std::min<size_t>(wanted, !direct ? there : whole ? round_up(there, direct_unit) : round_down(there, direct_unit));
        job->crosses_end = limit > there;
      }
      if (limit == 0) {
        drop(job);
        finish(request, request->result);
        return Prepared::finished;
      }
    }
    // An agent is dear here: what is bound to fail is not tried.
    if (kept() && request->kind == IoRequest::Kind::write && file.regular && request->offset + wanted > file.size && is_full(request->fd, wanted, request->name)) {
      drop(job);
      finish(request, -ENOSPC);
      return Prepared::finished;
    }
    if (inside && !stage_all_) {
      job->region = current_->memory_of(*region);
      if (job->region == nullptr) {
        take_problem(*current_);
        drop(job);
        finish(request, -EIO);
        return Prepared::finished;
      }
    }
    const Prepared prepared = cut_into_pieces(*job, room, limit, inside);
    if (prepared != Prepared::ready) {
      drop(job);
      return prepared;
    }
  } catch (const std::bad_alloc&) {
    if (job != nullptr) drop(job);
    finish(request, -ENOMEM);
    return Prepared::finished;
  }
  request->engine_slot = job;
  ready = job;
  return Prepared::ready;
}

// What the descriptor stands for, as it is now. One fstat() a file and round.
int NixlEngineOf::look_at_file(IoRequest* request, FileEntry*& entry) {
  FileEntry* const known = current_->known_file(request->fd);
  if (known != nullptr && known->round == round_) {
    known->users++;
    entry = known;
    return 0;
  }
  struct stat info;
  const int flags = ::fcntl(request->fd, F_GETFL);
  if (flags < 0 || ::fstat(request->fd, &info) != 0) return errno;
  entry = current_->file(request->fd, info, flags);
  entry->size = static_cast<uint64_t>(info.st_size);
  entry->regular = S_ISREG(info.st_mode);
  entry->round = round_;
  return 0;
}

NixlEngineOf::Prepared NixlEngineOf::cut_into_pieces(Job& job, size_t room, size_t limit, bool inside) {
  IoRequest& request = *job.request;
  for (int i = 0; i < request.iov_count && limit > 0 && job.piece_count < std::min(room, job.pieces.size()); i++) {
    const iovec& buffer = request.iov[i];
    if (buffer.iov_len == 0) continue;
    const bool of_region = inside && i == 0;
    auto* const memory = static_cast<uint8_t*>(buffer.iov_base);
    size_t length = std::min({buffer.iov_len, limit, piece_bytes_max});
    Job::Piece piece;
    if (job.region != nullptr && of_region) {
      piece.memory_type = job.region->type;
      piece.descriptor.address = reinterpret_cast<uintptr_t>(memory);
      piece.descriptor.device = job.region->device;
      job.staged = false;
      if (piece.memory_type == memory::dram && request.kind == IoRequest::Kind::read &&
          !const_cast<Region*>(request.region)->gate.touch([&] { mark(piece, memory, length, job, request.offset + job.asked); })) {
        finish(&request, -ECANCELED);
        return Prepared::finished;
      }
    } else {
      bool broken = false;
      if (!job.session->take_block(length, piece.block, broken)) {
        if (job.piece_count > 0) break;
        if (!broken) return Prepared::no_room;
        take_problem(*job.session);
        finish(&request, -EIO);
        return Prepared::finished;
      }
      length = std::min(length, piece.block.length);
      piece.memory = memory;
      piece.descriptor.address = reinterpret_cast<uintptr_t>(piece.block.data);
      if (of_region) job.gated = true;
      if (request.kind == IoRequest::Kind::read) {
        mark(piece, piece.block.data, length, job, request.offset + job.asked);
      } else {
        const auto copy = [&] { std::memcpy(piece.block.data, memory, length); };
        if (!of_region) {
          copy();
        } else if (!const_cast<Region*>(request.region)->gate.touch(copy)) {
          job.session->give_back(piece.block);
          finish(&request, -ECANCELED);
          return Prepared::finished;
        }
      }
    }
    piece.descriptor.length = length;
    piece.descriptor.offset = request.offset + job.asked;
    piece.descriptor.fd = request.fd;
    job.pieces[job.piece_count++] = piece;
    job.asked += length;
    limit -= length;
    // The rest of this buffer comes in another round, and before the next one.
    if (length < buffer.iov_len) break;
  }
  return Prepared::ready;
}

// Several of NIXL's plugins call a read a success that moved less than it should have, and the page would end in what the memory held before: where it has no checksum, as a file of
// Python's, nobody would notice. So the last bytes that are to come are given a value of our own, which a read that reaches them replaces.
void NixlEngineOf::mark(Job::Piece& piece, uint8_t* memory, size_t length, const Job& job, uint64_t offset) {
  const FileEntry& file = *job.file;
  if (file.regular) length = static_cast<size_t>(std::min<uint64_t>(length, file.size > offset ? file.size - offset : 0));
  if (length <= sizeof(piece.mark)) return;
  // Never the same twice: what a failed read has left behind may be stored as somebody's page.
  uint64_t mixed = marks_ += 0x9e3779b97f4a7c15;
  mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
  piece.mark = mixed ^ mixed >> 31;
  piece.marked = length - sizeof(piece.mark);
  std::memcpy(memory + piece.marked, &piece.mark, sizeof(piece.mark));
}

// False when what was to be moved up to there was not. The memory may have ended: then nobody is told anything of it.
bool NixlEngineOf::replaced(const Job& job, size_t moved) const {
  bool whole = true;
  size_t before = 0;
  for (size_t i = 0; i < job.piece_count; i++) {
    const Job::Piece& piece = job.pieces[i];
    const auto compare = [&] {
      uint64_t found;
      std::memcpy(&found, reinterpret_cast<const uint8_t*>(piece.descriptor.address) + piece.marked, sizeof(found));
      whole &= found != piece.mark;
    };
    // Of a file that has become shorter meanwhile it is no more to come.
    if (piece.marked != 0 && before + piece.marked + sizeof(piece.mark) <= moved) {
      if (piece.block.data != nullptr) compare();
      else const_cast<Region*>(job.request->region)->gate.touch(compare);
    }
    before += piece.descriptor.length;
  }
  return whole;
}

void NixlEngineOf::register_batch_files() {
  fresh_files_.clear();
  for (const Job* job : batch_) {
    if (job->file->registered || job->file->queued) continue;
    job->file->queued = true;
    fresh_files_.push_back(job->file);
  }
  if (fresh_files_.empty()) return;
  try {
    current_->register_files(fresh_files_);
  } catch (const std::bad_alloc&) {
    // They are left unregistered, and so refused.
  }
  for (FileEntry* file : fresh_files_) file->queued = false;
  std::erase_if(batch_, [&](Job* job) {
    if (job->file->registered) return false;
    take_problem(*current_);
    IoRequest* const request = job->request;
    // Not known to the agent: forgotten, so that the descriptor gets another try some day.
    current_->forget_file(request->fd);
    drop(job);
    finish(request, -EIO);
    return true;
  });
}

void NixlEngineOf::start_transfer(int which, int memory_type) {
  const auto kind = which == operation::read ? IoRequest::Kind::read : IoRequest::Kind::write;
  Session& session = *current_;
  // A job that has been settled by an earlier transfer of this batch is empty.
  const auto concerns = [&](const Job& job) {
    if (job.request == nullptr || job.request->kind != kind) return false;
    return std::any_of(job.pieces.begin(), job.pieces.begin() + job.piece_count, [&](const Job::Piece& piece) { return piece.memory_type == memory_type; });
  };
  if (std::none_of(batch_.begin(), batch_.end(), [&](const Job* job) { return concerns(*job); })) return;
  const auto fail = [&] {
    for (Job* job : batch_) {
      if (!concerns(*job)) continue;
      job->failed = true;
      if (--job->pending == 0) settle(*job);
    }
  };
  // By the one before it.
  if (session.broken) return fail();
  std::unique_ptr<Transfer> made;
  try {
    made = std::make_unique<Transfer>();
    made->jobs.reserve(batch_.size());
    session.transfers.reserve(session.transfers.size() + 1);
  } catch (const std::bad_alloc&) {
    return fail();
  }
  Transfer& transfer = *made;
  transfer.operation = which;
  descriptors_.clear();
  for (Job* job : batch_) {
    if (!concerns(*job)) continue;
    transfer.jobs.push_back(job);
    for (size_t i = 0; i < job->piece_count; i++) {
      if (job->pieces[i].memory_type != memory_type) continue;
      descriptors_.push_back(job->pieces[i].descriptor);
      transfer.bytes += job->pieces[i].descriptor.length;
    }
  }
  transfer.descriptors = descriptors_.size();
  transfer.live = transfer.jobs.size();
  session.in_flight += transfer.descriptors;
  statistics_.transfers++;
  transfer.posted_ns = now_ns();
  transfer.deadline_ns = transfer.posted_ns + timeout_ns_;
  const int answer = session.post(which, memory_type, descriptors_, transfer);
  // A library that moves things only when it is called gets the calls that it needs to start all of them, and to see them ended where that takes no time.
  if (!advance(session, transfer, answer, calls_of(transfer) + 1)) session.transfers.push_back(std::move(made));
}

// True when the transfer has come to its end, and is concluded.
bool NixlEngineOf::advance(Session& session, Transfer& transfer, int answer, unsigned calls) {
  while (answer == status::in_progress && calls-- > 0) {
    statistics_.polls++;
    answer = session.poll(transfer);
  }
  const int64_t now = now_ns();
  if (answer == status::success && session.failed) {
    conclude(session, transfer, true);
    return true;
  }
  if (answer == status::success) {
    if (careful_left_ > 0) careful_left_ -= std::min(careful_left_, transfer.descriptors);
    int64_t& expected = expected_ns(transfer);
    const int64_t took = now - transfer.posted_ns;
    expected = expected == 0 ? took : expected + (took - expected) / 4;
    conclude(session, transfer, false);
    return true;
  }
  if (answer < 0) {
    statistics_.failed++;
    take_problem(session);
    session.broken = true;
    transfer.failed = true;
    // Never begun; or the only descriptor of the agent, which has come to its end by failing. Of several, some may be under way.
    if (transfer.request == nullptr || session.in_flight == 1) {
      session.failed |= transfer.request != nullptr;
      conclude(session, transfer, true);
      return true;
    }
    fail_session(session, now);
    transfer.next_poll_ns = session.destroying() ? now : now + settle_ns_;
    return false;
  }
  if (session.given_up) {
    transfer.next_poll_ns = now + given_up_poll_ns;
  } else if (const int64_t elapsed = now - transfer.posted_ns; transfer.next_poll_ns == 0) {
    const int64_t expected = expected_ns(transfer);
    transfer.next_poll_ns = now + (expected == 0 ? first_poll_unknown_ns : std::clamp(expected - expected / 8 - elapsed, poll_least_ns, first_poll_most_ns));
  } else {
    transfer.next_poll_ns = now + std::clamp(elapsed / 8, poll_least_ns, poll_most_ns);
  }
  return false;
}

// All that it has in flight has failed: an error may be another's, and a success a mistake.
void NixlEngineOf::fail_session(Session& session, int64_t now) {
  session.failed = true;
  if (settings_.containment == Containment::settled) return;
  for (auto& transfer : session.transfers) {
    transfer->failed = true;
    transfer->next_poll_ns = settings_.containment == Containment::destroyed ? now : now + settle_ns_;
  }
  if (settings_.containment == Containment::destroyed) return session.destroy_apart();
  session.abandon();
  careful_left_ = careful_least << std::min<uint64_t>(statistics_.kept, careful_doublings_max);
  statistics_.kept++;
  left_behind().kept_count++;
}

// ---- from the library ----

void NixlEngineOf::poll_all() {
  let_go_withheld();
  const int64_t now = now_ns();
  if (current_ != nullptr) {
    poll_session(*current_, now);
    if (current_->broken || current_->given_up) retire_current();
  }
  for (auto& session : retired_) {
    poll_session(*session, now);
    if (session->given_up) hand_back_overdue(*session, now);
  }
  bury();
}

void NixlEngineOf::poll_session(Session& session, int64_t now) {
  for (size_t i = 0; i < session.transfers.size();) {
    Transfer& transfer = *session.transfers[i];
    bool ended = false;
    if (transfer.failed && session.destroying() && !session.destroyed()) {
      if (transfer.next_poll_ns <= now) transfer.next_poll_ns = now + std::clamp((now - transfer.posted_ns) / 8, poll_least_ns, session.given_up ? given_up_poll_ns : poll_most_ns);
      if (now >= transfer.deadline_ns) give_up(session, transfer);
    } else if (transfer.failed && (transfer.next_poll_ns <= now || session.destroying())) {
      conclude(session, transfer, true);
      ended = true;
    } else if (transfer.next_poll_ns <= now) {
      statistics_.polls++;
      const int answer = session.poll(transfer);
      ended = advance(session, transfer, answer, calls_of(transfer));
      if (!ended && !transfer.failed && now >= transfer.deadline_ns) give_up(session, transfer);
    }
    if (!ended) {
      i++;
      continue;
    }
    std::swap(session.transfers[i], session.transfers.back());
    session.transfers.pop_back();
  }
}

void NixlEngineOf::give_up(Session& session, const Transfer& transfer) {
  if (session.given_up) return;
  session.given_up = true;
  statistics_.given_up++;
  problem_ = "a transfer of " + std::to_string(transfer.bytes) + " bytes did not end within " + std::to_string(timeout_ns_ / ms) + " ms; its agent is given up";
}

// Memory that the library may still write to is not given back, nor are files that it may still change. A block of the session's own is another matter: it stays with the session.
void NixlEngineOf::hand_back_overdue(Session& session, int64_t now) {
  for (auto& transfer : session.transfers) {
    if ((transfer->failed && !session.destroying()) || now < transfer->deadline_ns) continue;
    for (Job* job : transfer->jobs) {
      if (job->request == nullptr || !job->staged || job->request->kind != IoRequest::Kind::read) continue;
      IoRequest* const request = std::exchange(job->request, nullptr);
      request->engine_slot = nullptr;
      transfer->live--;
      finish(request, -ETIMEDOUT);
    }
  }
}

void NixlEngineOf::retire_current() {
  retired_.push_back(std::move(current_));
}

void NixlEngineOf::bury() {
  std::erase_if(retired_, [](auto& session) {
    if (!session->transfers.empty()) return false;
    if (session->abandoned()) keep(std::move(session));
    return true;
  });
}

void NixlEngineOf::conclude(Session& session, Transfer& transfer, bool failed) {
  session.release(transfer);
  session.in_flight -= transfer.descriptors;
  round_++;
  for (Job* job : transfer.jobs) {
    job->failed |= failed;
    if (--job->pending == 0) settle(*job);
  }
  transfer.jobs.clear();
}

void NixlEngineOf::settle(Job& job) {
  IoRequest* const request = job.request;
  if (request == nullptr) return drop(&job);
  if (job.failed) return settle_failed(job);
  const bool cancelled = job.cancelled;
  const size_t asked = job.asked;
  failures_in_a_row_ = 0;
  const fault::Strike strike = fault::ask("nixl.complete", request->name);
  const int64_t moved = strike.error != 0 ? -strike.error : judge(job);
  request->engine_slot = nullptr;
  drop(&job);
  if (moved < 0) return finish(request, moved, strike);
  request->tries = 0;
  request->result += moved;
  request->offset += static_cast<uint64_t>(moved);
  size_t passed = static_cast<size_t>(moved);
  for (int i = 0; i < request->iov_count; i++) {
    const size_t part = std::min(passed, request->iov[i].iov_len);
    request->iov[i].iov_base = static_cast<uint8_t*>(request->iov[i].iov_base) + part;
    request->iov[i].iov_len -= part;
    passed -= part;
  }
  // Fewer than were asked for: the end of the file.
  if (static_cast<size_t>(moved) < asked || request->bytes() == 0) return finish(request, request->result, strike);
  if (cancelled) return finish(request, -ECANCELED);
  queue_.push_front(request);
}

// The library said success: how much was it? What lies in blocks goes where it belongs.
int64_t NixlEngineOf::judge(Job& job) {
  IoRequest& request = *job.request;
  FileEntry& file = *job.file;
  if (file.round != round_) {
    struct stat info;
    if (::fstat(request.fd, &info) != 0) return -errno;
    if (info.st_dev != file.device || info.st_ino != file.inode) {
      problem_ = "descriptor " + std::to_string(request.fd) + " was closed during a transfer";
      return -EBADF;
    }
    file.size = static_cast<uint64_t>(info.st_size);
    file.round = round_;
  }
  size_t moved = job.asked;
  const uint64_t there = file.size > request.offset ? file.size - request.offset : 0;
  if (file.regular && there < moved) {
    if (request.kind == IoRequest::Kind::write) {
      statistics_.short_writes++;
      problem_ = "NIXL said that " + std::to_string(job.asked) + " bytes were written at " + std::to_string(request.offset) + ", and the file ends at " + std::to_string(file.size);
      return is_full(request.fd, job.asked, request.name) ? -ENOSPC : -EIO;
    }
    moved = static_cast<size_t>(there);
  }
  if (request.kind == IoRequest::Kind::write) return static_cast<int64_t>(moved);
  if (!replaced(job, moved)) {
    statistics_.short_reads++;
    problem_ = "NIXL said that " + std::to_string(job.asked) + " bytes were read at " + std::to_string(request.offset) + ", and fewer were";
    return -EIO;
  }
  size_t left = moved;
  bool touched = true;
  const auto copy = [&] {
    for (size_t i = 0; i < job.piece_count; i++) {
      const Job::Piece& piece = job.pieces[i];
      const size_t part = std::min(left, piece.descriptor.length);
      if (piece.block.data != nullptr && part > 0) std::memcpy(piece.memory, piece.block.data, part);
      left -= part;
    }
  };
  if (job.gated) touched = const_cast<Region*>(request.region)->gate.touch(copy);
  else copy();
  return touched ? static_cast<int64_t>(moved) : -ECANCELED;
}

void NixlEngineOf::settle_failed(Job& job) {
  IoRequest* const request = job.request;
  const bool cancelled = job.cancelled, at_end = job.crosses_end && (job.file->flags & O_DIRECT) != 0;
  const bool full = request->kind == IoRequest::Kind::write && is_full(request->fd, job.asked, request->name);
  request->engine_slot = nullptr;
  drop(&job);
  if (request->tries > 0) failures_in_a_row_++;
  if (full) return finish(request, -ENOSPC);
  if (cancelled) return finish(request, -ECANCELED);
  const bool again = request->tries == 0 ? failures_in_a_row_ < failures_in_a_row_max : request->tries == 1 && at_end;
  if (!again) return finish(request, -EIO);
  request->tries++;
  statistics_.retried++;
  suspects_.push_back(request);
}

// ---- the rest ----

// The earliest time at which somebody who waits can be helped.
void NixlEngineOf::arm_timer() {
  int64_t earliest = 0;
  const auto look = [&](const Session& session) {
    for (const auto& transfer : session.transfers) {
      if (transfer->live > 0 && (earliest == 0 || transfer->next_poll_ns < earliest)) earliest = transfer->next_poll_ns;
    }
  };
  if (current_ != nullptr) look(*current_);
  for (const auto& session : retired_) look(*session);
  // Nothing can be written to a timer: it looks.
  if (const int64_t soon = now_ns() + poll_most_ns; !withheld_.empty() && (earliest == 0 || soon < earliest)) earliest = soon;
  if (earliest == armed_for_ns_) return;
  armed_for_ns_ = earliest;
  itimerspec when{};
  when.it_value = {earliest / 1'000'000'000, earliest % 1'000'000'000};
  ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

Job* NixlEngineOf::new_job() {
  if (free_jobs_.empty()) {
    // Room for all of them, so that dropping one never fails.
    free_jobs_.reserve(jobs_.size() + 1);
    jobs_.push_back(std::make_unique<Job>());
    free_jobs_.push_back(jobs_.back().get());
  }
  Job* const job = free_jobs_.back();
  free_jobs_.pop_back();
  return job;
}

void NixlEngineOf::drop(Job* job) {
  for (size_t i = 0; i < job->piece_count; i++) {
    if (job->pieces[i].block.data != nullptr) job->session->give_back(job->pieces[i].block);
  }
  if (job->region != nullptr) job->session->let_go(job->region);
  if (job->file != nullptr) job->session->let_go(job->file);
  *job = Job{};
  free_jobs_.push_back(job);
}

void NixlEngineOf::finish(IoRequest* request, int64_t result, const fault::Strike& strike) {
  request->result = result;
  if (!strike.hang) return done_.push_back(request);
  let_go_withheld();
  withheld_.push_back(request);
  withheld_by_ = strike;
}

void NixlEngineOf::let_go_withheld() {
  if (withheld_.empty() || !fault::released(withheld_by_)) return;
  while (IoRequest* request = withheld_.pop_front()) done_.push_back(request);
}

void NixlEngineOf::deliver(Sink& sink) {
  // The sink may submit, flush and cancel, which lead back here: the outermost loop delivers for all.
  if (delivering_) return;
  delivering_ = true;
  while (IoRequest* request = done_.pop_front()) {
    in_flight_--;
    delivered_++;
    sink.completed(request);
  }
  delivering_ = false;
}

}  // namespace

size_t agents_kept() { return left_behind().kept_count.load(); }

size_t agents_left_behind() {
  LeftBehind& all = left_behind();
  std::lock_guard lock(all.mutex);
  return all.sessions.size();
}

std::unique_ptr<NixlEngine> try_create_nixl(const Options& options, Refusal& refusal) {
  if (agents_left_behind() >= left_behind_max) {
    refusal = {std::to_string(left_behind_max) + " agents of NIXL in this process have requests that never came to an end", "look after the storage, then start the process anew"};
    return nullptr;
  }
  const Api* const api = load(refusal);
  if (api == nullptr) return nullptr;
  SessionSettings settings{api, options.plugin, options.parameters};
  // The plugin's other modes map over the memory that they are given.
  if (settings.plugin == "HF3FS") settings.parameters.try_emplace("mem_config", "dram");
  // Linux AIO is what most builds of the POSIX plugin take where nothing is said. To be sure of it, it has to be said.
  const bool unsaid = settings.plugin == "POSIX" && settings.parameters.count("use_aio") + settings.parameters.count("use_uring") + settings.parameters.count("use_posix_aio") == 0;
  if (settings.plugin == "POSIX") settings.parameters.try_emplace("ios_pool_size", ios_pool_size);
  if (unsaid) {
    SessionSettings with_aio = settings;
    with_aio.parameters["use_aio"] = "true";
    contain(with_aio);
    auto engine = std::make_unique<NixlEngineOf>(options, std::move(with_aio));
    if (engine->open(refusal)) return engine;
  }
  contain(settings);
  auto engine = std::make_unique<NixlEngineOf>(options, std::move(settings));
  if (!engine->open(refusal)) return nullptr;
  return engine;
}

Probe probe(const Options& options) {
  Probe found;
  Refusal refusal;
  const Api* const api = load(refusal);
  if (api != nullptr) {
    found.path = api->path;
    found.version = api->version;
    found.plugin_folder = api->plugin_folder;
    std::string reason;
    if (!list_plugins(*api, found.plugins, reason)) {
      refusal = {reason, "set NIXL_LOG_LEVEL=debug to see what NIXL says on stderr"};
    } else {
      const auto moves = [&](int type) {
        return std::any_of(found.plugins.begin(), found.plugins.end(), [&](const PluginInfo& plugin) {
          return plugin.name == options.plugin && std::find(plugin.memory.begin(), plugin.memory.end(), type) != plugin.memory.end();
        });
      };
      found.objects = moves(memory::object) && !moves(memory::file);
      std::atomic<int64_t> inside{0};
      found.usable = found.objects ? ObjectSession::open(*api, options.plugin, options.parameters, inside, refusal) != nullptr : try_create_nixl(options, refusal) != nullptr;
    }
  }
  if (!found.usable) {
    found.reason = refusal.reason;
    found.remedy = refusal.remedy;
  }
  return found;
}

}  // namespace hicache::nixl
