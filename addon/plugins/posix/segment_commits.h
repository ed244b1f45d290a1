// The second half of every write into a segment: its data lie in their extent, and now its slot record is rewritten and the folder's ring of changes told. One
// committer a directory: whatever has come together while it was at work goes at once, records of adjacent slots by one system call, all changes of a folder by
// one, one fdatasync a file. Waking a thread and three system calls a page cost as much as the page's way to the device: so while many more are on their way, the
// committer lets a moment's worth of them come together. A page that comes alone goes at once.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "agent/operation.h"
#include "plugins/posix/open_files.h"
#include "pool/directory_pool.h"
#include "segments/change_ring.h"
#include "segments/slot_record.h"

namespace hicache {

struct SegmentCommit;

// Records that say that the pages of slots are gone: one operation for as many as go in one turn. They end together; what failed fails all of them, and is asked for again.
struct Tombstones {
  // Its meta is the list. Throws std::bad_alloc.
  explicit Tombstones(Operation* operation);

  std::vector<SegmentCommit> commits;
  size_t left = 0;
  int error = 0;

 private:
  std::vector<std::string> names_;
  std::vector<uint8_t> records_;
};

// A member of whatever writes; lives until its operation is finished.
struct SegmentCommit {
  Operation* operation = nullptr;   // segment_write or tombstones, claimed
  const char* name = "";            // of the segment, without extension
  const uint8_t* record = nullptr;  // but for the checksums
  uint64_t record_at = 0;
  uint64_t checksum = 0;            // of the payload
  OpenFileRef data;                 // with flag::sync: what is to be on the disk before the record is
  Tombstones* tombstones = nullptr; // of which it is one

  // The record of a segment_write: its meta.
  void is_page(Operation* page) {
    operation = page;
    name = page->name;
    record = reinterpret_cast<const uint8_t*>(page->meta.data());
    record_at = page->record_at;
  }

  // ---- the committer's own ----
  size_t order = 0;
  int error = 0;
};

class SegmentCommits final : public DirectoryPool::Task {
 public:
  SegmentCommits(PageStore& store, OpenFiles& indexes, DirectoryPool& pool) : store_(store), indexes_(indexes), pool_(pool) {}

  // Agent's thread: finishes the operations on the pool.
  void add(const std::vector<SegmentCommit*>& commits);
  // Pool thread: likewise, perhaps at once and here.
  void add_here(SegmentCommit* commit);
  // How many writes are on their way to the device: they will come here if nothing happens to them. Agent's thread.
  void one_is_coming() { coming_.fetch_add(1, std::memory_order_relaxed); }
  void one_has_come() { coming_.fetch_sub(1, std::memory_order_relaxed); }
  // The outcome of a write whose page is stored.
  static Outcome stored(Status status, uint64_t length, uint64_t checksum);

  void run() override;

 private:
  // From so many on their way on it is worth a wait: the longer, the more there are, so that what waits here stays a part of what is at the device.
  static constexpr int coming_min = 8, gather_us_each = 20, gather_us_max = 1000;

  using Part = std::vector<SegmentCommit*>::iterator;
  void finish(SegmentCommit* commit);
  void commit_group();
  void commit_folder(Part from, Part to);
  void commit_segment(Part from, Part to);
  void write_records(int fd, const char* name, Part from, Part to);
  OpenFileRef index_of(const char* name, int& error);

  PageStore& store_;
  OpenFiles& indexes_;
  DirectoryPool& pool_;
  std::mutex mutex_;
  bool running_ = false;
  std::atomic<int> coming_{0};
  std::vector<SegmentCommit*> waiting_;

  // Of whoever runs.
  std::vector<SegmentCommit*> group_;
  std::vector<Change> changes_;
  std::string folder_;
  uint8_t records_[128 * slot_record::bytes];
};

}  // namespace hicache
