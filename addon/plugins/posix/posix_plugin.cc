#include "plugins/posix/posix_plugin.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <semaphore>
#include <system_error>

#include "plugins/posix/open_files.h"
#include "plugins/posix/segment_commits.h"
#include "pool/file_io.h"
#include "segments/slot_record.h"
#include "util/crc64.h"
#include "util/fault.h"

namespace hicache {
namespace {

// From here on a checksum takes longer than handing the page to a pool thread.
constexpr size_t checksum_on_pool_bytes = 1 << 20;

// Checksums that are computed before the engine is asked what it has finished meanwhile.
constexpr size_t sums_in_a_row = 16;
constexpr size_t extent_files_max = 64;

class PosixPlugin;
class PosixTask;

// Descriptors for segments, of each kind: data files and index files. They are an eighth of what the process may have at most, each.
size_t segment_files_max(size_t directories) {
  rlimit limit{};
  const bool known = ::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  const size_t all = known ? std::min<size_t>(512, limit.rlim_cur / 8) : 512;
  return std::max<size_t>(8, all / std::max<size_t>(1, directories));
}

UniqueFd duplicate(int fd) {
  if (fd < 0) return {};
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) throw std::system_error(errno, std::generic_category(), "duplicating holdFd");
  return copy;
}

struct Directory {
  Directory(const PosixDirectoryOptions& options, const PosixOptions& common, size_t segment_files)
      : store(options.path, options.direct), files(extent_files_max, true, common.register_file), segment_data(segment_files, false, common.register_file), segment_indexes(segment_files, true), hold(duplicate(options.hold_fd)), commits(store, segment_indexes, pool),
        pool(common.threads) {}

  PageStore store;
  OpenFiles files;
  // A segment's name is never used again, and its owner empties the file before it removes it: whoever still has it open finds no page there.
  OpenFiles segment_data, segment_indexes;
  UniqueFd hold;                         // outlives all that is in flight here
  std::unique_ptr<Engine> engine;        // nullptr: the pool moves the data
  bool data_path = false;                // the engine is another system's: it takes any file, not only those with O_DIRECT
  std::unique_ptr<Engine> device_engine; // for the memory of GPUs; may be missing
  bool submitted = false;                // something waits for an engine's flush()
  std::vector<PosixTask*> to_sum;        // their data are at the engine, their checksums are due; nullptr: not any more
  std::vector<SegmentCommit*> written;   // ready for their records
  SegmentCommits commits;
  DirectoryPool pool;                    // last: its threads use the rest
};

// What one operation needs here, from the batch's start to its end.
class PosixTask final : public DirectoryPool::Task, public Event {
 public:
  // An engine hands back requests; this is how the task is found again.
  struct Request : IoRequest {
    PosixTask* task = nullptr;
  };
  enum class Stage : uint8_t { start, write, verify, drop, sum };

  void run() override;      // on the pool
  void arrived() override;  // on the agent's thread: the file is open, the engine's turn; or the checksum is there
  void completed();         // on the agent's thread: the engine is through
  void cancel();            // on the agent's thread: whoever has it is asked to let go

  bool start_here();  // on the agent's thread: what can be started without the pool; false = nothing was done
  void refuse();      // on the agent's thread: it waited, and will not run
  void sum_in_turn();  // on the agent's thread: its checksum is due

  PosixPlugin* plugin = nullptr;
  Directory* directory = nullptr;
  Operation* operation = nullptr;
  // Only what waits in the pool's queue or runs there reads and writes the stage.
  Stage stage = Stage::start;
  bool in_engine = false;  // agent's thread only
  Request request;

 private:
  bool writing() const { return operation->op == Op::extent_write || operation->op == Op::page_write || operation->op == Op::segment_write; }
  bool of_segment() const { return operation->op == Op::segment_write || operation->op == Op::segment_read; }
  bool has(uint32_t which) const { return (operation->flags & which) != 0; }
  bool large() const { return operation->memory.length >= checksum_on_pool_bytes; }
  bool device() const { return operation->region != nullptr && operation->region->kind == MemoryKind::device; }
  bool direct_fits() const { return directory->store.direct() && operation->file_offset % block_bytes == 0 && (device() || is_aligned(operation->memory.data)); }
  Engine* engine() const { return device() ? directory->device_engine.get() : directory->engine.get(); }
  // Does an engine move what is in this file? A buffered one would block whoever hands it to the kernel, so the pool does.
  bool by_engine(bool direct) const { return engine() != nullptr && (direct || directory->data_path || device()); }
  bool impossible() const;
  int64_t move_by_engine(int fd, const iovec* iov, int count);
  void run_page();
  void run_extent();
  bool start_extent_here();
  bool prepare_extent(OpenFileRef file);
  Outcome finish_extent(int64_t moved);
  bool take_tail();
  void to_engine(const iovec* iov, int count, int fd, uint64_t offset, const char* name);
  OpenFileRef cached_extent_file();

  enum class Look : uint8_t { same, differs, would_block, failed };
  void run_segment();
  bool start_segment_here();
  OpenFileRef segment_file(bool data, bool direct, bool may_open, int& error);
  Look look_at_record(bool may_block, int& error);
  void sum_now();
  bool already_there();
  Outcome gone() const { return has(flag::foreign) ? Outcome::of(Status::stale) : Outcome::of(Status::absent); }
  void sum_meanwhile();
  void segment_moved(int64_t moved);
  void segment_written();
  bool judge_segment(bool may_block, Outcome& outcome);
  void start_tombstones();

  PageRead read_;
  OpenFileRef file_;
  Outcome outcome_;

  // A pool thread that writes a new file waits here for the engine.
  std::binary_semaphore moved_by_engine_{0};

  // ---- segments ----
  SegmentCommit commit_;
  std::unique_ptr<Tombstones> tombstones_;
  OpenFileRef index_;  // of a foreign page
  int64_t moved_ = 0;
  int sum_error_ = 0;
  bool summed_ = false;
  // Of the agent's thread alone.
  bool sum_at_pool_ = false, data_moved_ = false;
  size_t sum_place_ = SIZE_MAX;  // in Directory::to_sum
};

class PosixCall : public DirectoryPool::Task, public Event {
 public:
  virtual ~PosixCall() = default;
  virtual void refuse() = 0;  // on the agent's thread: it will not run

  PosixPlugin* plugin = nullptr;
  Directory* directory = nullptr;
};

class PosixPlugin final : public Plugin, public Sink {
 public:
  PosixPlugin(const PosixOptions& options, std::shared_ptr<CompletionQueue> queue) : engine_name_(options.engine), queue_(std::move(queue)) {
    const size_t segment_files = segment_files_max(options.directories.size());
    for (const auto& one : options.directories) directories_.push_back(std::make_unique<Directory>(one, options, segment_files));
  }

  const char* engine() const override { return engine_name_.c_str(); }
  std::vector<int> event_fds() const override {
    std::vector<int> fds;
    for (const auto& directory : directories_) {
      for (Engine* engine : {directory->engine.get(), directory->device_engine.get()}) {
        if (engine != nullptr) fds.push_back(engine->event_fd());
      }
    }
    return fds;
  }
  size_t directories() const override { return directories_.size(); }
  size_t calls() const override { return calls_.size(); }

  void process() override {
    for (const auto& directory : directories_) {
      if (directory->engine != nullptr || directory->device_engine != nullptr) {
        reap(*directory);  // also without anything in flight: it empties the event descriptor
        flush(*directory);
      }
      commit_written(*directory);
    }
  }

  void start(Batch& batch) override {
    auto tasks = std::make_shared<std::vector<PosixTask>>(batch.size());
    batch.plugin_state = tasks;
    // Per directory, in order; almost always there is one.
    std::vector<std::vector<DirectoryPool::Task*>> queues(directories_.size());
    for (size_t i = 0; i < batch.size(); i++) {
      PosixTask& task = (*tasks)[i];
      task.plugin = this;
      task.operation = &batch[i];
      task.directory = directories_[batch[i].directory].get();
      task.request.task = &task;
      batch[i].state = &task;
    }
    for (size_t i = 0; i < batch.size(); i++) {
      PosixTask& task = (*tasks)[i];
      if (task.start_here()) continue;
      queues[batch[i].directory].push_back(&task);
    }
    for (size_t i = 0; i < queues.size(); i++) {
      submit_or_fail(*directories_[i], queues[i]);
      flush(*directories_[i]);
      commit_written(*directories_[i]);
    }
  }

  void withdraw_called_off() override {
    withdraw([](PosixTask* task) { return task != nullptr && task->operation->called_off(); });
  }

  void cancel(Operation& operation) override {
    auto* task = static_cast<PosixTask*>(operation.state);
    if (!task->in_engine) return;
    Directory& directory = *task->directory;
    task->cancel();
    commit_written(directory);
  }

  void stop() override {
    stopped_ = true;
    withdraw([](PosixTask*) { return true; });
  }

  void list(size_t directory, std::string folder, bool records, ListDone done) override;
  void sweep(size_t directory, std::string folder, SweepDone done) override;

  // ---- for tasks ----
  void completed(IoRequest* request) override { static_cast<PosixTask::Request*>(request)->task->completed(); }
  bool stopped() const { return stopped_; }
  CompletionQueue& queue() { return *queue_; }
  void forget(PosixCall* call) {
    std::erase_if(calls_, [&](const auto& one) { return one.get() == call; });
  }
  void reap(Directory& directory) {
    if (directory.engine != nullptr) directory.engine->reap(*this);
    if (directory.device_engine != nullptr) directory.device_engine->reap(*this);
  }
  void flush(Directory& directory) {
    if (!directory.submitted) return;
    directory.submitted = false;
    if (directory.engine != nullptr) directory.engine->flush(*this);
    if (directory.device_engine != nullptr) directory.device_engine->flush(*this);
    // The device is at work: now there is time for checksums. What it finishes meanwhile makes room in its queue, so it is asked now and then.
    for (size_t i = 0; i < directory.to_sum.size(); i++) {
      if (i > 0 && i % sums_in_a_row == 0) {
        reap(directory);
        commit_written(directory);
      }
      if (PosixTask* const task = directory.to_sum[i]) task->sum_in_turn();
    }
    directory.to_sum.clear();
  }
  void commit_written(Directory& directory) {
    if (directory.written.empty()) return;
    directory.commits.add(directory.written);
    directory.written.clear();
  }

  std::vector<std::unique_ptr<Directory>>& all() { return directories_; }

 private:
  // What waits in the queues and fits; `fits` gets nullptr for a listing or sweep.
  template <typename Fits>
  void withdraw(Fits&& fits) {
    for (const auto& directory : directories_) {
      const auto withdrawn = directory->pool.withdraw([&](DirectoryPool::Task* task) {
        // Beyond the start the operation holds its memory already, and goes on to its end. So does the committer.
        if (auto* mine = dynamic_cast<PosixTask*>(task)) return mine->stage == PosixTask::Stage::start && fits(mine);
        return dynamic_cast<PosixCall*>(task) != nullptr && fits(nullptr);
      });
      for (DirectoryPool::Task* task : withdrawn) {
        if (auto* mine = dynamic_cast<PosixTask*>(task)) mine->refuse();
        else static_cast<PosixCall*>(task)->refuse();
      }
    }
  }

  void submit_or_fail(Directory& directory, const std::vector<DirectoryPool::Task*>& tasks) {
    try {
      directory.pool.submit(tasks.data(), tasks.size());
    } catch (const std::system_error& error) {
      // Not even one thread could be had.
      for (DirectoryPool::Task* task : tasks) {
        Operation& operation = *static_cast<PosixTask*>(task)->operation;
        operation.finish(operation.claim() ? Outcome::failed(error.code().value()) : Outcome::of(Status::cancelled));
      }
    }
  }

  template <typename Call>
  void start_call(std::unique_ptr<Call> call, size_t directory) {
    call->plugin = this;
    call->directory = directories_[directory].get();
    Call* const started = call.get();
    calls_.push_back(std::move(call));
    if (stopped_) return started->refuse();
    DirectoryPool::Task* const task = started;
    try {
      directories_[directory]->pool.submit(&task, 1);
    } catch (const std::system_error&) {
      started->refuse();
    }
  }

  const std::string engine_name_;
  const std::shared_ptr<CompletionQueue> queue_;
  std::vector<std::unique_ptr<PosixCall>> calls_;
  std::vector<std::unique_ptr<Directory>> directories_;
  bool stopped_ = false;
};

// ---- tasks ----

void PosixTask::run() {
  try {
    switch (stage) {
      case Stage::start:
        if (!operation->claim()) return operation->finish(Outcome::of(Status::cancelled));
        if (impossible()) return operation->finish(Outcome::failed(EOPNOTSUPP));
        if (operation->op == Op::extent_read || operation->op == Op::extent_write) return run_extent();
        if (of_segment()) return run_segment();
        return run_page();
      case Stage::write: return;  // the pool's thread is in the midst of it
      case Stage::sum:
        sum_now();
        return plugin->queue().push(this);
      case Stage::verify:
        if (operation->op == Op::segment_read) {
          judge_segment(true, outcome_);
          return operation->finish(outcome_);
        }
        outcome_ = directory->store.verify(read_, request.result);
        [[fallthrough]];
      case Stage::drop:
        if (read_.drop) directory->store.drop(read_);
        return operation->finish(outcome_);
    }
  } catch (const std::bad_alloc&) {
    operation->finish(Outcome::failed(ENOMEM));
  } catch (const std::system_error& error) {
    operation->finish(Outcome::failed(error.code().value()));
  }
}

void PosixTask::run_page() {
  PageStore& store = directory->store;
  const PageName page{operation->name, operation->identity};
  switch (operation->op) {
    case Op::page_write: {
      Mover mover;
      if (directory->data_path) mover = [this](int fd, const iovec* iov, int count) { return move_by_engine(fd, iov, count); };
      return operation->finish(store.write(page, operation->meta, operation->memory, operation->flags, [this] {
        // Nobody is left to hear of a page whose environment has ended, or to vouch for its memory.
        return operation->cancelling() || (operation->memory.gate != nullptr && operation->memory.gate->closed());
      }, mover));
    }
    case Op::page_check: return operation->finish(store.check(page, operation->flags));
    case Op::page_delete: return operation->finish(store.remove(page, operation->flags));
    case Op::page_touch: return operation->finish(store.touch(page));
    default: break;
  }
  read_.page = page;
  read_.flags = operation->flags;
  read_.memory = operation->memory;
  read_.to_device = device();
  if (engine() == nullptr) return operation->finish(store.read(read_));
  Outcome outcome;
  if (!store.open(read_, outcome)) return operation->finish(outcome);
  if (!by_engine(read_.direct)) {
    // Its memory is not aligned, or the file system changed its mind: a buffered file would block whoever submits it.
    outcome_ = store.verify(read_, store.fill(read_));
    if (read_.drop) store.drop(read_);
    return operation->finish(outcome_);
  }
  to_engine(read_.iov, read_.iov_count, read_.fd.get(), 0, operation->name);
  plugin->queue().push(this);
}

// What the memory of a GPU cannot be for here: nobody could sum its bytes, and every page that is stored has a checksum. It is copied to this processor's memory first.
bool PosixTask::impossible() const {
  if (!device()) return false;
  if (directory->device_engine == nullptr || writing()) return true;
  return (operation->flags & flag::skip_checksum) == 0;
}

// On the pool, in the midst of a write: the agent's thread hands the request to the engine, and this thread waits.
int64_t PosixTask::move_by_engine(int fd, const iovec* iov, int count) {
  to_engine(iov, count, fd, 0, operation->name);
  // A page smaller than a block is all in a buffer of our own.
  if (iov[0].iov_base != operation->memory.data) request.region = nullptr;
  const size_t wanted = request.bytes();
  stage = Stage::write;
  plugin->queue().push(this);
  moved_by_engine_.acquire();
  if (request.result >= 0 && static_cast<size_t>(request.result) < wanted) return -EIO;
  return request.result;
}

void PosixTask::cancel() { engine()->cancel(&request, *plugin); }

void PosixTask::to_engine(const iovec* iov, int count, int fd, uint64_t offset, const char* name) {
  request.kind = writing() ? IoRequest::Kind::write : IoRequest::Kind::read;
  request.iov_count = static_cast<uint8_t>(count);
  std::copy(iov, iov + count, request.iov);
  request.fd = fd;
  request.offset = offset;
  request.name = name;
  request.region = operation->region.get();
}

bool PosixTask::start_here() {
  switch (operation->op) {
    case Op::extent_read:
    case Op::extent_write: return start_extent_here();
    case Op::segment_read:
    case Op::segment_write: return start_segment_here();
    case Op::tombstones:
      start_tombstones();
      return true;
    default: return false;
  }
}

// They end pages, so they are never called off once they were asked for; whoever did so before they came here gets what it wants.
void PosixTask::start_tombstones() {
  if (!operation->claim()) return operation->finish(Outcome::of(Status::cancelled));
  try {
    tombstones_ = std::make_unique<Tombstones>(operation);
    directory->written.reserve(directory->written.size() + tombstones_->commits.size());
  } catch (const std::bad_alloc&) {
    return operation->finish(Outcome::failed(ENOMEM));
  }
  for (SegmentCommit& commit : tombstones_->commits) directory->written.push_back(&commit);
}

void PosixTask::arrived() {
  if (sum_at_pool_) {
    sum_at_pool_ = false;
    if (data_moved_) segment_written();
    return;
  }
  if (stage == Stage::write && (plugin->stopped() || operation->cancelling())) {
    request.result = -ECANCELED;
    return moved_by_engine_.release();
  }
  if (plugin->stopped() || operation->cancelling()) {
    read_.fd.reset();
    file_.reset();
    index_.reset();
    return operation->finish(Outcome::failed(ECANCELED));
  }
  in_engine = true;
  engine()->submit(&request);
  directory->submitted = true;
  if (operation->op != Op::segment_write) return;
  directory->commits.one_is_coming();
  if (!summed_) sum_meanwhile();
}

void PosixTask::completed() {
  in_engine = false;
  if (stage == Stage::write) return moved_by_engine_.release();
  if (of_segment()) return segment_moved(request.result);
  if (operation->op != Op::page_read) return operation->finish(finish_extent(request.result));
  const bool large = operation->memory.length >= checksum_on_pool_bytes && request.result > 0 && (operation->flags & flag::skip_checksum) == 0;
  if (!large) {
    outcome_ = directory->store.verify(read_, request.result);
    if (!read_.drop) return operation->finish(outcome_);
  }
  stage = large ? Stage::verify : Stage::drop;
  DirectoryPool::Task* const task = this;
  try {
    directory->pool.submit(&task, 1);
  } catch (const std::system_error&) {
    if (large) outcome_ = directory->store.verify(read_, request.result);
    operation->finish(outcome_);
  }
}

void PosixTask::refuse() {
  // What nobody called off is ours to end: its word must not stay `queued` for ever.
  operation->claim();
  operation->finish(Outcome::of(Status::cancelled));
}

// ---- extents ----
// An extent owns whole blocks: with O_DIRECT its last, partial block is written with zeros behind it, and read into a block of our own.

OpenFileRef PosixTask::cached_extent_file() {
  return directory->files.find(operation->name, "", writing(), direct_fits());
}

// An extent of a file that is open goes to the engine at once: nothing on the way can block.
bool PosixTask::start_extent_here() {
  if (engine() == nullptr || impossible()) return false;
  OpenFileRef file = cached_extent_file();
  if (file == nullptr || !by_engine(file->direct)) return false;
  if (!operation->claim()) {
    operation->finish(Outcome::of(Status::cancelled));
  } else if (!prepare_extent(std::move(file))) {
    operation->finish(Outcome::failed(ECANCELED));
  } else {
    arrived();
  }
  return true;
}

bool PosixTask::prepare_extent(OpenFileRef file) {
  file_ = std::move(file);
  const size_t length = operation->memory.length, whole = file_->direct && !device() ? round_down(length) : length;
  iovec iov[2];
  int count = 0;
  if (whole > 0) iov[count++] = {operation->memory.data, whole};
  if (length > whole) {
    read_.scratch = AlignedBuffer(block_bytes);
    if (writing()) {
      const bool touched = operation->memory.touch([&] { std::memcpy(read_.scratch.data(), operation->memory.data + whole, length - whole); });
      if (!touched) return false;
      std::memset(read_.scratch.data() + (length - whole), 0, block_bytes - (length - whole));
    }
    iov[count++] = {read_.scratch.data(), block_bytes};
  }
  to_engine(iov, count, file_->fd.get(), operation->file_offset, file_->name.c_str());
  return true;
}

void PosixTask::run_extent() {
  const bool direct = direct_fits();
  OpenFileRef file = cached_extent_file();
  if (file == nullptr) {
    const int opened = directory->store.open_extent_file(operation->name, writing(), direct);
    if (opened < 0) return operation->finish(opened == -ENOENT ? Outcome::of(Status::absent) : Outcome::failed(-opened));
    file = directory->files.add(operation->name, "", writing(), direct, UniqueFd(opened));
  }
  if (!prepare_extent(std::move(file))) return operation->finish(Outcome::failed(ECANCELED));
  if (by_engine(file_->direct)) return plugin->queue().push(this);
  const auto move = writing() ? file_io::write_all : file_io::read_all;
  operation->finish(finish_extent(move(request.fd, request.iov, request.iov_count, request.offset, file_->direct, operation->name,
                                      {operation->memory.gate, !file_->direct && !directory->store.in_memory()})));
}

// What was read of the last, partial block goes where it belongs. False when the memory has ended.
bool PosixTask::take_tail() {
  const size_t length = operation->memory.length, whole = round_down(length);
  if (!read_.scratch || length == whole) return true;
  return operation->memory.touch([&] { std::memcpy(operation->memory.data + whole, read_.scratch.data(), length - whole); });
}

Outcome PosixTask::finish_extent(int64_t moved) {
  file_.reset();
  if (moved < 0) return Outcome::failed(static_cast<int>(-moved));
  const size_t length = operation->memory.length;
  if (static_cast<uint64_t>(moved) < length) return Outcome::of(Status::length, static_cast<uint64_t>(moved));
  if (!writing() && !take_tail()) return Outcome::failed(ECANCELED);
  return Outcome::of(Status::ok, length);
}

// ---- pages in segments ----
// The data take the way of extents. Around them: a write has its checksum computed while the device works, and then goes to the committer; a read is compared with the
// checksum that its index knows. A page of another writer may be evicted and overwritten at any time: its slot record is looked at before and after.

// The data or the index file, from those that are open; with `may_open` (on the pool) also from the directory. nullptr with an error, 0 = it is not open.
OpenFileRef PosixTask::segment_file(bool data, bool direct, bool may_open, int& error) {
  OpenFiles& files = data ? directory->segment_data : directory->segment_indexes;
  const char* const extension = data ? ".data" : ".index";
  const bool writable = !has(flag::foreign);
  error = 0;
  OpenFileRef file = files.find(operation->name, extension, writable, direct);
  if (file != nullptr || !may_open) return file;
  const std::string name = std::string(operation->name) += extension;
  const int opened = directory->store.open_extent_file(name.c_str(), writable, direct);
  if (opened >= 0) return files.add(operation->name, extension, writable, direct, UniqueFd(opened));
  error = -opened;
  return nullptr;
}

// Is the slot record of another writer's page still what its index says? Without `may_block` only if the kernel has it in memory, as it nearly always has: the record was
// read when the page became known.
PosixTask::Look PosixTask::look_at_record(bool may_block, int& error) {
  alignas(64) uint8_t record[slot_record::bytes];
  iovec iov{record, sizeof(record)};
  const char* const name = index_->name.c_str();
  int64_t moved;
  if (may_block) {
    moved = file_io::read_all(index_->fd.get(), &iov, 1, operation->record_at, false, name);
  } else {
    if (fault::ask("preadv.nowait", name).error != 0) return Look::would_block;
    moved = ::preadv2(index_->fd.get(), &iov, 1, static_cast<off_t>(operation->record_at), RWF_NOWAIT);
    // Not in memory, not known to this file system, interrupted, cut short at a page that is there by half: the pool asks once more.
    if (moved < static_cast<int64_t>(sizeof(record))) return Look::would_block;
  }
  if (moved < 0) {
    error = static_cast<int>(-moved);
    return Look::failed;
  }
  const bool same = moved == static_cast<int64_t>(sizeof(record)) && slot_record::valid(record) && record[slot_record::at::state] == slot_record::state::page &&
                    std::memcmp(record + slot_record::expected_from, operation->meta.data(), slot_record::expected_bytes) == 0;
  return same ? Look::same : Look::differs;
}

void PosixTask::sum_in_turn() {
  sum_place_ = SIZE_MAX;
  sum_now();
}

void PosixTask::sum_now() {
  const bool touched = operation->memory.touch([&] { commit_.checksum = crc64(operation->memory.data, operation->memory.length); });
  sum_error_ = touched ? 0 : ECANCELED;
  summed_ = true;
}

// The page in the slot is this one already: nothing is written.
bool PosixTask::already_there() {
  sum_now();
  return sum_error_ == 0 && commit_.checksum == slot_record::take<uint64_t>(reinterpret_cast<const uint8_t*>(operation->identity.data()), 0);
}

// On the agent's thread: the data are with the engine.
void PosixTask::sum_meanwhile() {
  if (!large()) {
    sum_place_ = directory->to_sum.size();
    directory->to_sum.push_back(this);
    return;
  }
  stage = Stage::sum;
  sum_at_pool_ = true;
  DirectoryPool::Task* const task = this;
  try {
    directory->pool.submit(&task, 1);
  } catch (const std::system_error&) {
    sum_at_pool_ = false;
    sum_now();
  }
}

// A page in a segment that is open goes to the engine at once: nothing on the way can block.
bool PosixTask::start_segment_here() {
  if (engine() == nullptr || impossible()) return false;
  if (has(flag::compare_first) && writing() && large()) return false;
  int error;
  OpenFileRef file = segment_file(true, direct_fits(), false, error);
  if (file == nullptr || !by_engine(file->direct)) return false;
  Look look = Look::same;
  if (has(flag::foreign)) {
    index_ = segment_file(false, false, false, error);
    if (index_ == nullptr || (look = look_at_record(false, error)) == Look::would_block) {
      index_.reset();
      return false;
    }
  }
  if (writing()) commit_.is_page(operation);
  if (!operation->claim()) {
    index_.reset();
    operation->finish(Outcome::of(Status::cancelled));
  } else if (look == Look::differs) {
    index_.reset();
    operation->finish(gone());
  } else if (writing() && has(flag::compare_first) && already_there()) {
    operation->finish(SegmentCommits::stored(Status::already_there, operation->memory.length, commit_.checksum));
  } else if (sum_error_ != 0 || !prepare_extent(std::move(file))) {
    index_.reset();
    file_.reset();
    operation->finish(Outcome::failed(ECANCELED));
  } else {
    arrived();
  }
  return true;
}

// On the pool, claimed: the files are to be opened, or the data are not the engine's business.
void PosixTask::run_segment() {
  const auto ends = [this](const Outcome& outcome) {
    index_.reset();
    file_.reset();
    operation->finish(outcome);
  };
  if (writing()) commit_.is_page(operation);
  int error;
  OpenFileRef file = segment_file(true, direct_fits(), true, error);
  if (file != nullptr && has(flag::foreign)) index_ = segment_file(false, false, true, error);
  // A writer that has given a segment back has removed it; to write there is another matter.
  if (error != 0) return ends(error == ENOENT && !writing() ? gone() : Outcome::failed(error));
  if (index_ != nullptr) {
    const Look look = look_at_record(true, error);
    if (look != Look::same) return ends(look == Look::failed ? Outcome::failed(error) : gone());
  }
  if (writing() && has(flag::compare_first) && already_there()) {
    return ends(SegmentCommits::stored(Status::already_there, operation->memory.length, commit_.checksum));
  }
  if (sum_error_ != 0 || !prepare_extent(std::move(file))) return ends(Outcome::failed(ECANCELED));
  if (by_engine(file_->direct)) return plugin->queue().push(this);
  if (writing() && !summed_) sum_now();
  const file_io::Guard guard{operation->memory.gate, !file_->direct && !directory->store.in_memory()};
  const auto move = writing() ? file_io::write_all : file_io::read_all;
  moved_ = move(request.fd, request.iov, request.iov_count, request.offset, file_->direct, request.name, guard);
  if (writing() && moved_ >= 0 && sum_error_ == 0) {
    if (has(flag::sync)) commit_.data = std::move(file_);
    file_.reset();
    return directory->commits.add_here(&commit_);
  }
  if (writing()) return ends(Outcome::failed(moved_ < 0 ? static_cast<int>(-moved_) : sum_error_));
  judge_segment(true, outcome_);
  operation->finish(outcome_);
}

// On the agent's thread: the engine is through with the data.
void PosixTask::segment_moved(int64_t moved) {
  moved_ = moved;
  if (writing()) {
    directory->commits.one_has_come();
    data_moved_ = true;
    if (sum_place_ != SIZE_MAX) {
      directory->to_sum[sum_place_] = nullptr;
      sum_place_ = SIZE_MAX;
    }
    if (!sum_at_pool_) segment_written();
    return;
  }
  const bool sum = moved > 0 && !has(flag::skip_checksum) && large();
  if (!sum && judge_segment(false, outcome_)) return operation->finish(outcome_);
  stage = Stage::verify;
  DirectoryPool::Task* const task = this;
  try {
    directory->pool.submit(&task, 1);
  } catch (const std::system_error&) {
    judge_segment(true, outcome_);
    operation->finish(outcome_);
  }
}

// On the agent's thread: the data are in their extent, or failed to get there, and nobody computes the checksum any more.
void PosixTask::segment_written() {
  if (moved_ >= 0 && !summed_) sum_now();
  const int error = moved_ < 0 ? static_cast<int>(-moved_) : sum_error_;
  if (error == 0 && has(flag::sync)) commit_.data = std::move(file_);
  file_.reset();
  if (error != 0) return operation->finish(Outcome::failed(error));
  directory->written.push_back(&commit_);
}

// A page has been read. False when that would block to say; else the files are let go.
bool PosixTask::judge_segment(bool may_block, Outcome& outcome) {
  const Memory& memory = operation->memory;
  int error = 0;
  Look look = Look::same;
  if (moved_ < 0) {
    outcome = Outcome::failed(static_cast<int>(-moved_));
  } else if (static_cast<uint64_t>(moved_) < memory.length) {
    outcome = gone();
  } else if (index_ != nullptr && (look = look_at_record(may_block, error)) == Look::would_block) {
    return false;
  } else if (look != Look::same) {
    outcome = look == Look::failed ? Outcome::failed(error) : gone();
  } else if (!take_tail()) {
    outcome = Outcome::failed(ECANCELED);
  } else if (has(flag::skip_checksum)) {
    outcome = Outcome::of(Status::ok, memory.length);
  } else {
    const uint64_t expected = slot_record::take<uint64_t>(reinterpret_cast<const uint8_t*>(operation->identity.data()), 0);
    uint64_t found = 0;
    if (!memory.touch([&] { found = crc64(memory.data, memory.length); })) outcome = Outcome::failed(ECANCELED);
    else outcome = found == expected ? Outcome::of(Status::ok, memory.length) : Outcome::of(Status::corrupt);
  }
  index_.reset();
  file_.reset();
  return true;
}

// ---- listings and sweeps ----

class ListCall final : public PosixCall {
 public:
  ListCall(std::string folder, bool records, Plugin::ListDone done) : folder_(std::move(folder)), records_(records), done_(std::move(done)) {}

  void run() override {
    try {
      error_ = directory->store.list(folder_, records_, files_);
    } catch (const std::bad_alloc&) {
      files_.clear();
      error_ = ENOMEM;
    }
    plugin->queue().push(this);
  }
  void arrived() override {
    done_(error_, files_);
    plugin->forget(this);
  }
  void refuse() override {
    error_ = ECANCELED;
    plugin->queue().push(this);
  }

 private:
  const std::string folder_;
  const bool records_;
  const Plugin::ListDone done_;
  std::vector<ListedFile> files_;
  int error_ = 0;
};

class SweepCall final : public PosixCall {
 public:
  SweepCall(std::string folder, Plugin::SweepDone done) : folder_(std::move(folder)), done_(std::move(done)) {}

  void run() override {
    error_ = directory->store.sweep(folder_, removed_);
    plugin->queue().push(this);
  }
  void arrived() override {
    done_(error_, removed_);
    plugin->forget(this);
  }
  void refuse() override {
    error_ = ECANCELED;
    plugin->queue().push(this);
  }

 private:
  const std::string folder_;
  const Plugin::SweepDone done_;
  size_t removed_ = 0;
  int error_ = 0;
};

void PosixPlugin::list(size_t directory, std::string folder, bool records, ListDone done) {
  start_call(std::make_unique<ListCall>(std::move(folder), records, std::move(done)), directory);
}

void PosixPlugin::sweep(size_t directory, std::string folder, SweepDone done) {
  start_call(std::make_unique<SweepCall>(std::move(folder), std::move(done)), directory);
}

}  // namespace

std::unique_ptr<Engine> try_create_engine(const std::string& name, const EngineOptions& options, Refusal& refusal) {
  if (name == "io_uring") return try_create_io_uring(options, refusal.reason, refusal.remedy);
  if (name == "aio") return try_create_linux_aio(options, refusal.reason, refusal.remedy);
  if (name == "posix_aio") return try_create_posix_aio(options, refusal.reason, refusal.remedy);
  refusal = {"there is no engine '" + name + "'", "use aio, io_uring or posix_aio"};
  return nullptr;
}

std::unique_ptr<Plugin> try_create_posix_plugin(const PosixOptions& options, const std::shared_ptr<CompletionQueue>& queue, Refusal& refusal) {
  auto plugin = std::make_unique<PosixPlugin>(options, queue);
  EngineOptions engine_options;
  engine_options.queue_depth = options.queue_depth;
  for (size_t i = 0; i < options.directories.size(); i++) {
    Directory& directory = *plugin->all()[i];
    directory.data_path = options.data_path != nullptr;
    if (directory.data_path || options.directories[i].engine) {
      engine_options.hold_fd = directory.hold.get();
      directory.engine = directory.data_path ? options.data_path(refusal) : try_create_engine(options.engine, engine_options, refusal);
      if (directory.engine == nullptr) return nullptr;
    }
    if (options.device_path == nullptr) continue;
    directory.device_engine = options.device_path(refusal);
    if (directory.device_engine == nullptr) return nullptr;
  }
  return plugin;
}

}  // namespace hicache
