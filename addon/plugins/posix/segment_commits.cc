#include "plugins/posix/segment_commits.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>

#include "pool/file_io.h"

namespace hicache {
namespace {

size_t folder_length(const char* name) {
  const char* const slash = std::strrchr(name, '/');
  return slash == nullptr ? 0 : static_cast<size_t>(slash - name);
}

bool same_folder(const char* one, const char* other) {
  const size_t length = folder_length(one);
  return length == folder_length(other) && std::memcmp(one, other, length) == 0;
}

bool synced(const SegmentCommit* commit) { return (commit->operation->flags & flag::sync) != 0; }

}  // namespace

Tombstones::Tombstones(Operation* operation) {
  using namespace slot_record;
  const size_t count = operation->meta.size() / tombstone_bytes;
  commits.resize(count);
  records_.resize(count * slot_record::bytes);
  // Commits point to their names: those must not move.
  names_.reserve(count);
  left = count;
  for (size_t i = 0; i < count; i++) {
    const auto* from = reinterpret_cast<const uint8_t*>(operation->meta.data()) + i * tombstone_bytes;
    const auto segment = take<uint32_t>(from, 0), slot = take<uint32_t>(from, 4);
    uint8_t* const record = records_.data() + i * slot_record::bytes;
    put<uint32_t>(record, at::magic, magic);
    record[at::version] = version;
    record[at::state] = state::evicted;
    put<uint64_t>(record, at::generation, take<uint64_t>(from, 8));
    put<uint64_t>(record, at::written_at, take<uint64_t>(from, 16));
    put<uint32_t>(record, at::segment, segment);
    put<uint32_t>(record, at::slot, slot);
    // Neighbours mostly are in one segment.
    if (i == 0 || segment != take<uint32_t>(from - tombstone_bytes, 0)) {
      char name[10];
      std::snprintf(name, sizeof(name), "/%08x", segment);
      names_.push_back(std::string(operation->name) + name);
    }
    SegmentCommit& commit = commits[i];
    commit.operation = operation;
    commit.name = names_.back().c_str();
    commit.record = record;
    commit.record_at = place_of(slot);
    commit.tombstones = this;
  }
}

Outcome SegmentCommits::stored(Status status, uint64_t length, uint64_t checksum) {
  Outcome outcome = Outcome::of(status, length);
  slot_record::put<uint64_t>(outcome.meta, 0, checksum);
  outcome.meta_length = sizeof(checksum);
  return outcome;
}

void SegmentCommits::add(const std::vector<SegmentCommit*>& commits) {
  {
    std::lock_guard lock(mutex_);
    waiting_.insert(waiting_.end(), commits.begin(), commits.end());
    if (running_) return;
    running_ = true;
  }
  DirectoryPool::Task* const task = this;
  try {
    pool_.submit(&task, 1);
  } catch (const std::system_error& error) {
    // Not even one thread could be had. Nobody else adds now: the pool has nobody, and this is the agent's thread.
    std::vector<SegmentCommit*> refused;
    {
      std::lock_guard lock(mutex_);
      refused.swap(waiting_);
      running_ = false;
    }
    for (SegmentCommit* commit : refused) {
      commit->error = error.code().value();
      finish(commit);
    }
  }
}

void SegmentCommits::add_here(SegmentCommit* commit) {
  {
    std::lock_guard lock(mutex_);
    waiting_.push_back(commit);
    if (running_) return;
    running_ = true;
  }
  run();
}

void SegmentCommits::run() {
  for (bool first = true;; first = false) {
    {
      std::lock_guard lock(mutex_);
      if (waiting_.empty()) {
        running_ = false;
        return;
      }
      if (first || !pool_.has_waiting()) group_.swap(waiting_);
    }
    if (group_.empty()) {
      // Others wait for a thread: they come first, and then the rest of these. (The pool has this thread, so it takes the task.)
      DirectoryPool::Task* const task = this;
      pool_.submit(&task, 1);
      return;
    }
    commit_group();
    for (SegmentCommit* commit : group_) finish(commit);
    group_.clear();
    const int coming = coming_.load(std::memory_order_relaxed);
    if (coming >= coming_min && !pool_.has_waiting()) {
      std::this_thread::sleep_for(std::chrono::microseconds(std::min(coming * gather_us_each, gather_us_max)));
    }
  }
}

// The operation's end is the end of the commit, and of all tombstones of one operation with the last of them.
void SegmentCommits::finish(SegmentCommit* commit) {
  Operation& operation = *commit->operation;
  commit->data.reset();
  int error = commit->error;
  if (Tombstones* const all = commit->tombstones) {
    if (all->error == 0) all->error = error;
    if (--all->left > 0) return;
    error = all->error;
  }
  if (error != 0) operation.finish(Outcome::failed(error));
  else if (commit->tombstones != nullptr) operation.finish(Outcome::of(Status::ok));
  else operation.finish(stored(Status::ok, operation.memory.length, commit->checksum));
}

void SegmentCommits::commit_group() {
  for (size_t i = 0; i < group_.size(); i++) {
    group_[i]->order = i;
    // Whoever asked to let go has been told that it failed: the page must not appear long after.
    group_[i]->error = group_[i]->operation->cancelling() ? ECANCELED : 0;
  }
  std::sort(group_.begin(), group_.end(), [](const SegmentCommit* left, const SegmentCommit* right) {
    const int names = left->name == right->name ? 0 : std::strcmp(left->name, right->name);
    if (names != 0) return names < 0;
    if (left->record_at != right->record_at) return left->record_at < right->record_at;
    return left->order < right->order;
  });
  for (auto from = group_.begin(); from != group_.end();) {
    const auto to = std::find_if(from, group_.end(), [&](const SegmentCommit* one) { return !same_folder(one->name, (*from)->name); });
    try {
      commit_folder(from, to);
    } catch (const std::bad_alloc&) {
      for (auto one = from; one != to; ++one) (*one)->error = ENOMEM;
    }
    from = to;
  }
}

void SegmentCommits::commit_folder(Part from, Part to) {
  const auto fail_all = [&](int error) {
    for (auto one = from; one != to; ++one) {
      if ((*one)->error == 0) (*one)->error = error;
    }
  };
  const char* const name = (*from)->name;
  folder_.assign(store_.path()).append("/").append(name, folder_length(name));
  const std::shared_ptr<ChangeRing> ring = ChangeRing::find(folder_);
  // Its writer has closed it, or it never was this process's: then it is not this process's to write to.
  if (ring == nullptr || ring->closed()) return fail_all(EBADF);

  for (auto segment = from; segment != to;) {
    const auto next = std::find_if(segment, to, [&](const SegmentCommit* one) { return std::strcmp(one->name, (*segment)->name) != 0; });
    commit_segment(segment, next);
    segment = next;
  }

  changes_.clear();
  for (auto one = from; one != to; ++one) {
    if ((*one)->error != 0) continue;
    const uint8_t* const record = (*one)->record;
    changes_.push_back({slot_record::take<uint32_t>(record, slot_record::at::segment), slot_record::take<uint32_t>(record, slot_record::at::slot)});
  }
  if (changes_.empty()) return;
  if (const int error = ring->append(changes_.data(), changes_.size())) fail_all(error);
}

void SegmentCommits::commit_segment(Part from, Part to) {
  const auto fails = [&](int error, bool (*whom)(const SegmentCommit*)) {
    for (auto one = from; one != to; ++one) {
      if ((*one)->error == 0 && whom(*one)) (*one)->error = error;
    }
  };
  const auto any = [&](bool (*what)(const SegmentCommit*)) { return std::any_of(from, to, [&](const SegmentCommit* one) { return one->error == 0 && what(one); }); };
  const auto everyone = [](const SegmentCommit*) { return true; };
  const auto with_data = [](const SegmentCommit* commit) { return synced(commit) && commit->data != nullptr; };
  if (!any(everyone)) return;

  int error = 0;
  const OpenFileRef index = index_of((*from)->name, error);
  if (index == nullptr) return fails(error, everyone);
  if (any(with_data)) {
    const auto first = std::find_if(from, to, with_data);
    const int synced_data = file_io::sync_data((*first)->data->fd.get(), (*first)->data->name.c_str());
    if (synced_data < 0) fails(-synced_data, with_data);
  }
  for (auto run = from; run != to;) {
    if ((*run)->error != 0) {
      ++run;
      continue;
    }
    auto end = run + 1;
    while (end != to && (*end)->error == 0 && (*end)->record_at == (*(end - 1))->record_at + slot_record::bytes &&
           static_cast<size_t>(end - run) < sizeof(records_) / slot_record::bytes) {
      ++end;
    }
    write_records(index->fd.get(), index->name.c_str(), run, end);
    run = end;
  }
  if (any(synced)) {
    const int synced_index = file_io::sync_data(index->fd.get(), index->name.c_str());
    if (synced_index < 0) fails(-synced_index, synced);
  }
}

// Of adjacent slots.
void SegmentCommits::write_records(int fd, const char* name, Part from, Part to) {
  size_t length = 0;
  for (auto one = from; one != to; ++one, length += slot_record::bytes) {
    uint8_t* const record = records_ + length;
    std::memcpy(record, (*one)->record, slot_record::bytes);
    if ((*one)->tombstones == nullptr) slot_record::put<uint64_t>(record, slot_record::at::payload_crc, (*one)->checksum);
    slot_record::seal(record);
  }
  const iovec iov{records_, length};
  const int64_t moved = file_io::write_all(fd, &iov, 1, (*from)->record_at, false, name);
  if (moved >= 0) return;
  // Some of them may be there now; which, nobody knows. Each is whole or not there.
  for (auto one = from; one != to; ++one) (*one)->error = static_cast<int>(-moved);
}

OpenFileRef SegmentCommits::index_of(const char* name, int& error) {
  OpenFileRef index = indexes_.find(name, ".index", true, false);
  if (index != nullptr) return index;
  const std::string file = std::string(name) += ".index";
  const int opened = store_.open_extent_file(file.c_str(), true, false);
  if (opened < 0) {
    error = -opened;
    return nullptr;
  }
  return indexes_.add(name, ".index", true, false, UniqueFd(opened));
}

}  // namespace hicache
