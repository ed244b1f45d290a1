// One page's operation against an object store, from its start to its outcome. On its loop's thread.
#pragma once

#include <memory>
#include <vector>

#include "agent/operation.h"
#include "plugins/obj/object_record.h"
#include "plugins/obj/s3_call.h"
#include "pool/record.h"

namespace hicache {

class PageTransfer {
 public:
  // The operation is claimed.
  PageTransfer(HttpLoop& loop, S3Caller& caller, Operation& operation);

  // Its outcome, at last.
  Task<Outcome> run();
  void cancel() { scope_.cancel(); }

 private:
  Task<Outcome> write();
  Task<Outcome> read();
  Task<Outcome> check();
  Task<Outcome> remove();
  Task<Outcome> unsupported();

  // Is the page there that would be written? `same`, else how its HEAD ended.
  enum class Look : uint8_t { same, other, absent, newer, failed };
  Task<Look> look(Outcome& failure);
  Task<S3Answer> head();
  Task<S3Answer> put(bool only_if_absent);
  Task<S3Answer> put_parts(bool only_if_absent);
  Detached put_part(const std::string& upload, size_t index, uint64_t at, uint64_t bytes, std::string& etag, S3Answer& failed, Countdown& left);
  Task<S3Answer> complete_parts(const std::string& upload, const std::vector<std::string>& etags, bool only_if_absent);
  Task<bool> abort_parts(const std::string& upload);
  Task<Outcome> read_once(bool& again);
  Task<Outcome> read_ranges(bool& again);
  Detached read_range(size_t index, uint64_t at, uint64_t bytes, const std::string& etag, S3Answer& answer, Countdown& left);

  bool ranged() const;
  uint64_t part_bytes() const;
  bool signs_payload() const;
  std::vector<sigv4::Header> page_headers() const;
  bool sum_payload(uint64_t& crc) const;
  // Of a HEAD's or GET's headers: true, with the record, when it is a page of ours; else the outcome.
  bool judge(const S3Answer& answer, uint64_t object_bytes, bool with_unverified, ObjectRecord& record, bool& unverified, Outcome& outcome) const;
  // An object without metadata may end in the record block of a page file: writers that have only a body put it there. The answer, with block_ filled where there is something.
  Task<S3Answer> read_block(uint64_t object_bytes, const std::string& etag);
  // Of that block: true, with the record, when it is one of a page of ours; else the outcome. `outcome` is `absent` where it is no record at all.
  bool judge_block(const uint8_t* block, uint64_t object_bytes, Record& record, Outcome& outcome) const;
  Outcome judge_page_file(const uint8_t* block, uint64_t object_bytes, bool& again) const;
  bool ends_in_record(uint64_t length, Outcome& outcome) const;
  Outcome unusable(const S3Answer& answer) const;
  bool given_up() const;

  HttpLoop& loop_;
  S3Caller& caller_;
  Operation& operation_;
  CallScope scope_;
  uint64_t crc_ = 0;            // of the payload that is written
  std::string record_;          // its metadata
  uint64_t object_bytes_ = 0;   // of what is read in ranges
  std::vector<uint8_t> block_;  // of a record, if one was read
};

}  // namespace hicache
