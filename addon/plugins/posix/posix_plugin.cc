#include "plugins/posix/posix_plugin.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "plugins/posix/open_files.h"
#include "pool/file_io.h"

namespace hicache {
namespace {

// From here on a checksum takes longer than handing the page to a pool thread.
constexpr size_t checksum_on_pool_bytes = 1 << 20;

class PosixPlugin;

struct Directory {
  Directory(const PosixDirectoryOptions& options, unsigned threads) : store(options.path, options.direct), pool(threads) {}

  PageStore store;
  OpenFiles files;
  std::unique_ptr<Engine> engine;  // nullptr: the pool moves the data
  bool submitted = false;          // something waits for the engine's flush()
  DirectoryPool pool;              // last: its threads use the rest
};

// What one operation needs here, from the batch's start to its end.
class PosixTask final : public DirectoryPool::Task, public Event {
 public:
  // An engine hands back requests; this is how the task is found again.
  struct Request : IoRequest {
    PosixTask* task = nullptr;
  };
  enum class Stage : uint8_t { start, verify, drop };

  void run() override;      // on the pool
  void arrived() override;  // on the agent's thread: the file is open, the engine's turn
  void completed();         // on the agent's thread: the engine is through

  bool start_extent_here();
  void refuse();  // on the agent's thread: it waited, and will not run

  PosixPlugin* plugin = nullptr;
  Directory* directory = nullptr;
  Operation* operation = nullptr;
  // Only what waits in the pool's queue or runs there reads and writes the stage.
  Stage stage = Stage::start;
  bool in_engine = false;  // agent's thread only
  Request request;

 private:
  bool writing() const { return operation->op == Op::extent_write || operation->op == Op::page_write; }
  void run_page();
  void run_extent();
  bool prepare_extent(OpenFileRef file);
  Outcome finish_extent(int64_t moved);
  void to_engine(const iovec* iov, int count, int fd, uint64_t offset);
  OpenFileRef cached_extent_file();

  PageRead read_;
  OpenFileRef file_;
  Outcome outcome_;
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
    for (const auto& one : options.directories) directories_.push_back(std::make_unique<Directory>(one, options.threads));
  }

  const char* engine() const override { return engine_name_.c_str(); }
  std::vector<int> event_fds() const override {
    std::vector<int> fds;
    for (const auto& directory : directories_) {
      if (directory->engine != nullptr) fds.push_back(directory->engine->event_fd());
    }
    return fds;
  }
  size_t directories() const override { return directories_.size(); }
  size_t calls() const override { return calls_.size(); }

  void process() override {
    for (const auto& directory : directories_) {
      if (directory->engine == nullptr) continue;
      directory->engine->reap(*this);  // also without anything in flight: it empties the event descriptor
      flush(*directory);
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
      if (task.start_extent_here()) continue;
      queues[batch[i].directory].push_back(&task);
    }
    for (size_t i = 0; i < queues.size(); i++) {
      submit_or_fail(*directories_[i], queues[i]);
      flush(*directories_[i]);
    }
  }

  void withdraw_called_off() override {
    withdraw([](PosixTask* task) { return task != nullptr && task->operation->called_off(); });
  }

  void cancel(Operation& operation) override {
    auto* task = static_cast<PosixTask*>(operation.state);
    if (task->in_engine) task->directory->engine->cancel(&task->request, *this);
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
  void flush(Directory& directory) {
    if (!directory.submitted) return;
    directory.submitted = false;
    directory.engine->flush(*this);
  }

  std::vector<std::unique_ptr<Directory>>& all() { return directories_; }

 private:
  // What waits in the queues and fits; `fits` gets nullptr for a listing or sweep.
  template <typename Fits>
  void withdraw(Fits&& fits) {
    for (const auto& directory : directories_) {
      const auto withdrawn = directory->pool.withdraw([&](DirectoryPool::Task* task) {
        auto* mine = dynamic_cast<PosixTask*>(task);
        // Beyond the start the operation holds its memory already, and goes on to its end.
        return mine == nullptr ? fits(nullptr) : mine->stage == PosixTask::Stage::start && fits(mine);
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
        if (operation->op == Op::extent_read || operation->op == Op::extent_write) return run_extent();
        return run_page();
      case Stage::verify:
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
    case Op::page_write:
      return operation->finish(store.write(page, operation->meta, operation->memory, operation->flags, [this] {
        // Nobody is left to hear of a page whose environment has ended, or to vouch for its memory.
        return operation->cancelling() || (operation->memory.gate != nullptr && operation->memory.gate->closed());
      }));
    case Op::page_check: return operation->finish(store.check(page, operation->flags));
    case Op::page_delete: return operation->finish(store.remove(page, operation->flags));
    case Op::page_touch: return operation->finish(store.touch(page));
    default: break;
  }
  read_.page = page;
  read_.flags = operation->flags;
  read_.memory = operation->memory;
  if (directory->engine == nullptr) return operation->finish(store.read(read_));
  Outcome outcome;
  if (!store.open(read_, outcome)) return operation->finish(outcome);
  if (!read_.direct) {
    // Its memory is not aligned, or the file system changed its mind: a buffered file would block whoever submits it.
    outcome_ = store.verify(read_, store.fill(read_));
    if (read_.drop) store.drop(read_);
    return operation->finish(outcome_);
  }
  to_engine(read_.iov, read_.iov_count, read_.fd.get(), 0);
  plugin->queue().push(this);
}

void PosixTask::to_engine(const iovec* iov, int count, int fd, uint64_t offset) {
  request.kind = writing() ? IoRequest::Kind::write : IoRequest::Kind::read;
  request.iov_count = static_cast<uint8_t>(count);
  std::copy(iov, iov + count, request.iov);
  request.fd = fd;
  request.offset = offset;
  request.name = operation->name;
}

void PosixTask::arrived() {
  if (plugin->stopped() || operation->cancelling()) {
    read_.fd.reset();
    file_.reset();
    return operation->finish(Outcome::failed(ECANCELED));
  }
  in_engine = true;
  directory->engine->submit(&request);
  directory->submitted = true;
}

void PosixTask::completed() {
  in_engine = false;
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
  const bool direct = directory->store.direct() && operation->file_offset % block_bytes == 0 && is_aligned(operation->memory.data);
  return directory->files.find(operation->name, writing(), direct);
}

// An extent of a file that is open goes to the engine at once: nothing on the way can block.
bool PosixTask::start_extent_here() {
  if (directory->engine == nullptr || (operation->op != Op::extent_read && operation->op != Op::extent_write)) return false;
  OpenFileRef file = cached_extent_file();
  if (file == nullptr || !file->direct) return false;
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
  const size_t length = operation->memory.length, whole = file_->direct ? round_down(length) : length;
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
  to_engine(iov, count, file_->fd.get(), operation->file_offset);
  return true;
}

void PosixTask::run_extent() {
  const bool direct = directory->store.direct() && operation->file_offset % block_bytes == 0 && is_aligned(operation->memory.data);
  OpenFileRef file = cached_extent_file();
  if (file == nullptr) {
    const int opened = directory->store.open_extent_file(operation->name, writing(), direct);
    if (opened < 0) return operation->finish(opened == -ENOENT ? Outcome::of(Status::absent) : Outcome::failed(-opened));
    file = directory->files.add(operation->name, writing(), direct, UniqueFd(opened));
  }
  if (!prepare_extent(std::move(file))) return operation->finish(Outcome::failed(ECANCELED));
  if (directory->engine != nullptr && file_->direct) return plugin->queue().push(this);
  const auto move = writing() ? file_io::write_all : file_io::read_all;
  operation->finish(finish_extent(move(request.fd, request.iov, request.iov_count, request.offset, file_->direct, operation->name,
                                      {operation->memory.gate, !file_->direct && !directory->store.in_memory()})));
}

Outcome PosixTask::finish_extent(int64_t moved) {
  const bool direct = file_->direct;
  file_.reset();
  if (moved < 0) return Outcome::failed(static_cast<int>(-moved));
  const size_t length = operation->memory.length, whole = direct ? round_down(length) : length;
  if (static_cast<uint64_t>(moved) < length) return Outcome::of(Status::length, static_cast<uint64_t>(moved));
  if (!writing() && length > whole) {
    const bool touched = operation->memory.touch([&] { std::memcpy(operation->memory.data + whole, read_.scratch.data(), length - whole); });
    if (!touched) return Outcome::failed(ECANCELED);
  }
  return Outcome::of(Status::ok, length);
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

std::unique_ptr<Engine> try_create_engine(const std::string& name, const EngineOptions& options, EngineRefusal& refusal) {
  if (name == "io_uring") return try_create_io_uring(options, refusal.reason, refusal.remedy);
  if (name == "aio") return try_create_linux_aio(options, refusal.reason, refusal.remedy);
  if (name == "posix_aio") return try_create_posix_aio(options, refusal.reason, refusal.remedy);
  refusal = {"there is no engine '" + name + "'", "use aio, io_uring or posix_aio"};
  return nullptr;
}

std::unique_ptr<Plugin> try_create_posix_plugin(const PosixOptions& options, const std::shared_ptr<CompletionQueue>& queue, EngineRefusal& refusal) {
  auto plugin = std::make_unique<PosixPlugin>(options, queue);
  EngineOptions engine_options;
  engine_options.queue_depth = options.queue_depth;
  for (size_t i = 0; i < options.directories.size(); i++) {
    if (!options.directories[i].engine) continue;
    plugin->all()[i]->engine = try_create_engine(options.engine, engine_options, refusal);
    if (plugin->all()[i]->engine == nullptr) return nullptr;
  }
  return plugin;
}

}  // namespace hicache
