// Pages in segments, without JavaScript: through every engine and through the pool alone; every failure on the way, the order of a synchronous write, changed records, and
// the end with work in flight.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "segments/change_ring.h"
#include "segments/slot_record.h"
#include "test/agent_bench.h"
#include "test/check.h"
#include "util/clock.h"
#include "util/crc64.h"
#include "util/fault.h"

using namespace hicache;

namespace {

constexpr size_t memory_slot_bytes = 3 << 20, memory_slots = 12;
constexpr size_t extent_bytes = 3 << 20, extents = 12;
constexpr const char* segment = "segments/writer/0000000a";
constexpr uint32_t segment_id = 10;

struct Ask {
  Op op = Op::segment_write;
  uint32_t extent = 0;
  size_t memory = 0;
  size_t length = 65536;
  uint32_t flags = 0;
  uint64_t checksum = 0;    // the identity
  uint64_t generation = 1;  // of the record
  std::string name = segment;
  size_t shift = 0;  // of the memory, from its page
  std::string more{};  // tombstones, behind that of the extent
};

std::string tombstone_of(const Ask& ask) {
  uint8_t tombstone[tombstone_bytes] = {};
  slot_record::put<uint32_t>(tombstone, 0, segment_id);
  slot_record::put<uint32_t>(tombstone, 4, ask.extent);
  slot_record::put<uint64_t>(tombstone, 8, ask.generation);
  slot_record::put<uint64_t>(tombstone, 16, 1);
  return std::string(reinterpret_cast<char*>(tombstone), sizeof(tombstone));
}

std::string record_of(const Ask& ask) {
  using namespace slot_record;
  uint8_t record[slot_record::bytes] = {};
  put<uint32_t>(record, at::magic, slot_record::magic);
  record[at::version] = slot_record::version;
  record[at::state] = ask.op == Op::tombstones ? slot_record::state::evicted : slot_record::state::page;
  put<uint64_t>(record, at::generation, ask.generation);
  if (ask.op != Op::tombstones) {
    put<uint64_t>(record, at::file_offset, ask.extent * extent_bytes);
    put<uint64_t>(record, at::length, ask.length);
  }
  put<uint32_t>(record, at::segment, segment_id);
  put<uint32_t>(record, at::slot, ask.extent);
  if (ask.op == Op::segment_read) {
    put<uint64_t>(record, at::payload_crc, ask.checksum);
    return std::string(reinterpret_cast<char*>(record) + expected_from, expected_bytes);
  }
  return std::string(reinterpret_cast<char*>(record), sizeof(record));
}

// A directory with one segment, and its ring of changes.
struct Place {
  const std::string directory, folder = directory + "/segments/writer";
  std::shared_ptr<ChangeRing> ring;

  explicit Place(const std::string& base) : directory(base) {
    std::filesystem::remove_all(directory);
    std::filesystem::create_directories(folder);
    lay_out(".data", extent_bytes * extents);
    lay_out(".index", slot_record::place_of(extents));
    CHECK_EQ(ChangeRing::open(folder, ring), 0);
  }
  ~Place() { ChangeRing::close(folder); }

  std::string path(const char* extension) const { return directory + "/" + segment + extension; }
  void lay_out(const char* extension, size_t bytes) const {
    UniqueFd fd(::open(path(extension).c_str(), O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600));
    const std::string zeros(1 << 20, '\0');
    for (size_t at = 0; at < bytes; at += zeros.size()) {
      const size_t part = std::min(zeros.size(), bytes - at);
      CHECK_EQ(::pwrite(fd.get(), zeros.data(), part, static_cast<off_t>(at)), static_cast<ssize_t>(part));
    }
  }
  std::string record(uint32_t slot) const {
    UniqueFd fd(::open(path(".index").c_str(), O_RDONLY | O_CLOEXEC));
    std::string block(slot_record::bytes, '\0');
    CHECK_EQ(::pread(fd.get(), block.data(), block.size(), static_cast<off_t>(slot_record::place_of(slot))), static_cast<ssize_t>(block.size()));
    return block;
  }
  // 0 when the slot has no valid record.
  uint64_t generation(uint32_t slot) const {
    const std::string block = record(slot);
    const auto* bytes = reinterpret_cast<const uint8_t*>(block.data());
    return slot_record::valid(bytes) ? slot_record::take<uint64_t>(bytes, slot_record::at::generation) : 0;
  }
  void write_record(const Ask& ask) const {
    std::string block = record_of(ask);
    auto* bytes = reinterpret_cast<uint8_t*>(block.data());
    if (ask.op == Op::segment_write) slot_record::put<uint64_t>(bytes, slot_record::at::payload_crc, ask.checksum);
    slot_record::seal(bytes);
    UniqueFd fd(::open(path(".index").c_str(), O_WRONLY | O_CLOEXEC));
    CHECK_EQ(::pwrite(fd.get(), block.data(), block.size(), static_cast<off_t>(slot_record::place_of(ask.extent))), static_cast<ssize_t>(block.size()));
  }
  // The slots of the ring's entries after the first `skip`.
  std::vector<uint32_t> changes(uint64_t skip = 0) const {
    UniqueFd fd(::open((folder + "/changes").c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<uint32_t> slots;
    for (uint64_t sequence = skip + 1; sequence <= ring->head(); sequence++) {
      uint8_t entry[ChangeRing::entry_bytes];
      CHECK_EQ(::pread(fd.get(), entry, sizeof(entry), static_cast<off_t>(ChangeRing::place_of(sequence))), static_cast<ssize_t>(sizeof(entry)));
      uint64_t found;
      Change change;
      CHECK(ChangeRing::decode(entry, found, change));
      CHECK_EQ(found, sequence);
      CHECK_EQ(change.segment, segment_id);
      slots.push_back(change.slot);
    }
    return slots;
  }
};

struct Bench : AgentBench {
  Bench(const Place& place, const std::string& engine, bool direct, unsigned threads = 4, int hold_fd = -1)
      : AgentBench(memory_slot_bytes, memory_slots, {place.directory, direct, direct, hold_fd}, engine, threads) {}
  ~Bench() {
    if (agent != nullptr && agent->idle()) agent.reset();
  }

  // Answers the checksum.
  uint64_t fill(size_t index, size_t length, uint8_t seed, size_t shift = 0) {
    AgentBench::fill(index, length, seed, shift);
    return crc64(slot(index) + shift, length);
  }

  std::shared_ptr<Answer> submit(const std::vector<Ask>& asks, size_t& first, std::string* problem = nullptr, const std::function<void(double*)>& alter = {}) {
    return AgentBench::submit(asks.size(), [&](size_t i, double* one, std::string& blob) {
      const Ask& ask = asks[i];
      one[field::op] = static_cast<double>(ask.op);
      one[field::flags] = ask.flags;
      one[field::name_offset] = static_cast<double>(blob.size());
      const bool buries = ask.op == Op::tombstones;
      const std::string name = buries ? ask.name.substr(0, ask.name.rfind('/')) : ask.name;
      one[field::name_length] = static_cast<double>(name.size());
      blob += name;
      one[field::record_offset] = static_cast<double>(blob.size());
      one[field::identity_length] = 8;
      uint8_t checksum[8];
      slot_record::put<uint64_t>(checksum, 0, ask.checksum);
      blob.append(reinterpret_cast<char*>(checksum), 8);
      const std::string meta = buries ? tombstone_of(ask) + ask.more : record_of(ask);
      one[field::meta_length] = static_cast<double>(meta.size());
      blob += meta;
      if (!buries) {
        one[field::region] = region->id;
        one[field::memory_offset] = static_cast<double>(ask.memory * slot_bytes + ask.shift);
        one[field::length] = static_cast<double>(ask.length);
        one[field::file_offset] = static_cast<double>(ask.extent * extent_bytes);
      }
      one[field::record_at] = static_cast<double>(slot_record::place_of(ask.extent));
      if (alter) alter(one);
    }, first, problem);
  }
  std::shared_ptr<Answer> run(const std::vector<Ask>& asks) {
    size_t first;
    const auto answer = submit(asks, first);
    wait_for(*answer, first, asks.size());
    return answer;
  }
  std::shared_ptr<Answer> run(const Ask& ask) { return run(std::vector<Ask>{ask}); }
};

// The checksum that a read or write told.
uint64_t checksum_of(const AgentBench::Answer& answer, size_t i = 0) {
  CHECK_EQ(answer.metas[i].size(), 8u);
  return slot_record::take<uint64_t>(reinterpret_cast<const uint8_t*>(answer.metas[i].data()), 0);
}

// The point at which the data of this engine fail; "" = without an engine.
struct Way {
  const char* engine;
  const char* complete;
  bool direct;
};

void plan(const char* point, const char* match, int error, int64_t short_bytes = -1, bool hang = false, int64_t times = 1, int64_t after = 0) {
  fault::Plan one;
  one.point = point;
  one.match = match;
  one.error = error;
  one.short_bytes = short_bytes;
  one.hang = hang;
  one.times = times;
  one.after = after;
  fault::set({one});
}

int64_t struck() {
  int64_t total = 0;
  for (const int64_t one : fault::clear()) total += one;
  return total;
}

Ask read_of(const Ask& write, size_t memory, uint64_t checksum, uint32_t flags = 0) {
  Ask ask = write;
  ask.op = Op::segment_read;
  ask.memory = memory;
  ask.checksum = checksum;
  ask.flags = flags;
  return ask;
}

// ---- what it is for ----

void every_size(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  const size_t lengths[] = {0, 1, 511, 4096, 65536, 70001, 1 << 20, (2 << 20) + 5};
  // The second time the files are open, and everything starts on the agent's thread.
  for (uint64_t round = 1; round <= 3; round++) {
    const uint64_t head = place.ring->head();
    std::vector<Ask> writes, reads;
    uint64_t sums[8];
    // In the third round the memory does not suit O_DIRECT.
    const size_t shift = round == 3 ? 24 : 0;
    for (uint32_t i = 0; i < 8; i++) {
      sums[i] = bench.fill(0, lengths[i], static_cast<uint8_t>(i + round), shift);
      writes.push_back({Op::segment_write, i, 0, lengths[i], round == 2 ? flag::sync : 0, 0, round, segment, shift});
      const auto written = bench.run(writes.back());
      CHECK(written->status() == Status::ok);
      CHECK_EQ(written->length(), lengths[i]);
      CHECK_EQ(checksum_of(*written), sums[i]);
      CHECK_EQ(place.generation(i), round);
    }
    CHECK(place.changes(head) == std::vector<uint32_t>({0, 1, 2, 3, 4, 5, 6, 7}));
    for (const uint32_t flags : {0u, flag::foreign, flag::skip_checksum}) {
      std::vector<Ask> asks;
      for (size_t i = 0; i < 8; i++) {
        std::memset(bench.slot(1 + i), 0xee, memory_slot_bytes);
        asks.push_back(read_of(writes[i], 1 + i, sums[i], flags));
      }
      const auto got = bench.run(asks);
      for (size_t i = 0; i < 8; i++) {
        CHECK(got->status(i) == Status::ok);
        CHECK_EQ(got->length(i), lengths[i]);
        CHECK_EQ(crc64(bench.slot(1 + i) + shift, lengths[i]), sums[i]);
        CHECK_EQ(bench.slot(1 + i)[shift + lengths[i]], 0xee);
      }
    }
  }
  CHECK(bench.agent->idle());
}

// Many at once: all records, all changes, whatever groups they came in.
void groups(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  const uint64_t head = place.ring->head();
  for (size_t i = 0; i < memory_slots; i++) bench.fill(i, 8192, static_cast<uint8_t>(i));
  std::vector<std::shared_ptr<Bench::Answer>> answers;
  for (uint64_t round = 0; round < 8; round++) {
    std::vector<Ask> asks;
    for (uint32_t i = 0; i < extents; i++) {
      const bool evict = (round + i) % 4 == 3;
      asks.push_back({evict ? Op::tombstones : Op::segment_write, static_cast<uint32_t>((i * 5 + round) % extents), i, 8192, 0, 0, 100 + round});
    }
    size_t first;
    answers.push_back(bench.submit(asks, first));
    if (round % 2 == 1) bench.process_until([&] { return answers.back()->there && answers[round - 1]->there; });
  }
  for (const auto& answer : answers) {
    for (size_t i = 0; i < extents; i++) CHECK(answer->status(i) == Status::ok);
  }
  for (uint32_t i = 0; i < extents; i++) CHECK(place.generation(i) >= 106);
  CHECK_EQ(place.changes(head).size(), 8 * extents);
}

// Many slots in one operation, beside writes of others: it ends once, when the last of its records is there, and with the error of any.
void buried_together(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  const uint64_t head = place.ring->head();
  const auto together = [](uint64_t generation, uint32_t other_segment) {
    Ask all{Op::tombstones, 7};
    all.generation = generation;
    for (const uint32_t extent : {3u, 4u, 0u, 5u}) {
      Ask one = all;
      one.extent = extent;
      all.more += tombstone_of(one);
    }
    if (other_segment == 0) return all;
    std::string other = tombstone_of(all);
    slot_record::put<uint32_t>(reinterpret_cast<uint8_t*>(other.data()), 0, other_segment);
    all.more = all.more.substr(0, tombstone_bytes) + other + all.more.substr(tombstone_bytes);
    return all;
  };
  Ask write{Op::segment_write, 1, 1, 8192};
  write.generation = 300;
  size_t first;
  const auto answer = bench.submit({together(300, 0), write, together(301, 0xffffffff), together(302, 0)}, first);
  bench.process_until([&] { return answer->there; });
  CHECK(answer->status(0) == Status::ok && answer->status(1) == Status::ok && answer->status(3) == Status::ok);
  CHECK(answer->status(2) == Status::error && answer->error(2) == ENOENT);
  for (const uint32_t extent : {0u, 3u, 4u, 5u, 7u}) {
    CHECK_EQ(place.generation(extent), 302u);
    CHECK_EQ(place.record(extent)[slot_record::at::state], slot_record::state::evicted);
  }
  CHECK_EQ(place.generation(1), 300u);
  CHECK_EQ(place.changes(head).size(), 16u);
}

void judged(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  for (const size_t length : {size_t{65536}, size_t{100}, size_t{2 << 20}}) {
    const uint64_t sum = bench.fill(0, length, 7);
    Ask write{Op::segment_write, 3, 0, length, 0, 0, 5};
    CHECK(bench.run(write)->status() == Status::ok);
    CHECK(bench.run(read_of(write, 1, sum + 1))->status() == Status::corrupt);
    CHECK(bench.run(read_of(write, 1, sum + 1, flag::skip_checksum))->status() == Status::ok);
    // Compared first.
    const uint64_t head = place.ring->head();
    write.flags = flag::compare_first;
    write.checksum = sum;
    write.generation = 6;
    const auto same = bench.run(write);
    CHECK(same->status() == Status::already_there);
    CHECK_EQ(checksum_of(*same), sum);
    CHECK_EQ(same->length(), length);
    CHECK_EQ(place.generation(3), 5u);
    CHECK_EQ(place.ring->head(), head);
    const uint64_t other = bench.fill(0, length, 8);
    const auto changed = bench.run(write);
    CHECK(changed->status() == Status::ok);
    CHECK_EQ(checksum_of(*changed), other);
    CHECK_EQ(place.generation(3), 6u);
    CHECK(bench.run(read_of(write, 1, other))->status() == Status::ok);

    // Foreign: another generation, another checksum, evicted, damaged.
    CHECK(bench.run(read_of(write, 1, other, flag::foreign))->status() == Status::ok);
    Ask older = read_of(write, 1, other, flag::foreign);
    older.generation = 5;
    CHECK(bench.run(older)->status() == Status::stale);
    CHECK(bench.run(read_of(write, 1, sum, flag::foreign))->status() == Status::stale);
    Ask damaged = write;
    damaged.checksum = other;
    place.write_record(damaged);
    CHECK(bench.run(read_of(write, 1, other, flag::foreign))->status() == Status::ok);
    {
      UniqueFd fd(::open(place.path(".index").c_str(), O_WRONLY | O_CLOEXEC));
      CHECK_EQ(::pwrite(fd.get(), "x", 1, static_cast<off_t>(slot_record::place_of(3) + 200)), 1);
    }
    CHECK(bench.run(read_of(write, 1, other, flag::foreign))->status() == Status::stale);
    Ask tombstone{Op::tombstones, 3};
    tombstone.generation = 6;
    CHECK(bench.run(tombstone)->status() == Status::ok);
    CHECK_EQ(place.record(3)[slot_record::at::state], slot_record::state::evicted);
    CHECK(bench.run(read_of(write, 1, other, flag::foreign))->status() == Status::stale);
    // Ours is not asked: it is pinned in memory.
    CHECK(bench.run(read_of(write, 1, other))->status() == Status::ok);
  }
}

// The kernel does not have the record in memory: the pool reads it.
void looked_at_by_the_pool(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  const uint64_t sum = bench.fill(0, 65536, 3);
  const Ask write{Op::segment_write, 0, 0, 65536, 0, 0, 50};
  CHECK(bench.run(write)->status() == Status::ok);
  CHECK(bench.run(read_of(write, 1, sum, flag::foreign))->status() == Status::ok);  // opens the files
  for (const int64_t after : {0, 1}) {
    plan("preadv.nowait", ".index", EAGAIN, -1, false, 0, after);
    CHECK(bench.run(read_of(write, 1, sum, flag::foreign))->status() == Status::ok);
    CHECK(bench.run(read_of(write, 1, sum + 1, flag::foreign))->status() == Status::stale);
    CHECK_EQ(struck() > 0, way.direct);
  }
  fault::Plan miss, failure;
  miss.point = "preadv.nowait";
  miss.error = EAGAIN;
  miss.times = 0;
  failure.point = "preadv";
  failure.match = ".index";
  failure.error = EIO;
  for (const int64_t after : {0, 1}) {
    failure.after = after;
    fault::set({miss, failure});
    const auto failed = bench.run(read_of(write, 1, sum, flag::foreign));
    CHECK(failed->status() == Status::error && failed->error() == EIO);
    fault::clear();
  }
}

// Overwritten while it is read: the bytes may even be right.
void overtaken(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  for (const size_t length : {size_t{65536}, size_t{1} << 20}) {
    const uint64_t sum = bench.fill(0, length, 9);
    Ask write{Op::segment_write, 2, 0, length, 0, 0, 20};
    CHECK(bench.run(write)->status() == Status::ok);
    CHECK(bench.run(read_of(write, 1, sum, flag::foreign))->status() == Status::ok);
    plan(way.complete, ".data", 0, -1, true);
    size_t first;
    const auto answer = bench.submit({read_of(write, 1, sum, flag::foreign)}, first);
    bench.process_until([&] { return bench.state(first) == word_state::started; });
    if (way.direct) for (int i = 0; i < 20; i++) bench.agent->process();
    write.op = Op::tombstones;
    write.generation = 21;
    place.write_record(write);
    CHECK(!answer->there);
    fault::clear();
    bench.process_until([&] { return answer->there; });
    CHECK(answer->status() == Status::stale);
  }
}

void not_there(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  Ask ask;
  ask.name = "segments/writer/0000000b";
  CHECK(bench.run(read_of(ask, 1, 0))->status() == Status::absent);
  CHECK(bench.run(read_of(ask, 1, 0, flag::foreign))->status() == Status::stale);
  auto write = bench.run(ask);
  CHECK(write->status() == Status::error && write->error() == ENOENT);
  ask.name = "segments/nobody/0000000b";
  CHECK(bench.run(read_of(ask, 1, 0, flag::foreign))->status() == Status::stale);
  // No ring, so not ours: nothing is written, neither a page nor a tombstone.
  std::filesystem::create_directories(place.directory + "/segments/other");
  for (const char* extension : {".data", ".index"}) {
    std::filesystem::copy_file(place.path(extension), place.directory + "/segments/other/0000000a" + extension, std::filesystem::copy_options::overwrite_existing);
  }
  const auto index_size = std::filesystem::file_size(place.path(".index"));
  ask.name = "segments/other/0000000a";
  ask.generation = 77;
  write = bench.run(ask);
  CHECK(write->status() == Status::error && write->error() == EBADF);
  ask.op = Op::tombstones;
  write = bench.run(ask);
  CHECK(write->status() == Status::error && write->error() == EBADF);
  std::string one(index_size, '\0'), other(index_size, '\1');
  CHECK_EQ(::pread(UniqueFd(::open(place.path(".index").c_str(), O_RDONLY)).get(), one.data(), one.size(), 0), static_cast<ssize_t>(index_size));
  CHECK_EQ(::pread(UniqueFd(::open((place.directory + "/segments/other/0000000a.index").c_str(), O_RDONLY)).get(), other.data(), other.size(), 0), static_cast<ssize_t>(index_size));
  CHECK(one == other);
}

// A segment that its owner has given back ends at 0, also where it is still open.
void given_back(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  const uint64_t sum = bench.fill(0, 65536, 1);
  const Ask write{Op::segment_write, 1, 0, 65536, 0, 0, 30};
  CHECK(bench.run(write)->status() == Status::ok);
  CHECK(bench.run({read_of(write, 1, sum), read_of(write, 2, sum, flag::foreign)})->status(1) == Status::ok);
  CHECK_EQ(::truncate(place.path(".data").c_str(), 0), 0);
  auto got = bench.run({read_of(write, 1, sum), read_of(write, 2, sum, flag::foreign)});
  CHECK(got->status(0) == Status::absent && got->status(1) == Status::stale);
  CHECK_EQ(::truncate(place.path(".index").c_str(), 0), 0);
  CHECK(bench.run(read_of(write, 2, sum, flag::foreign))->status() == Status::stale);
  for (const char* extension : {".data", ".index"}) CHECK_EQ(::unlink(place.path(extension).c_str()), 0);
  got = bench.run({read_of(write, 1, sum), read_of(write, 2, sum, flag::foreign)});
  CHECK(got->status(0) == Status::absent && got->status(1) == Status::stale);
  place.lay_out(".data", extent_bytes * extents);
  place.lay_out(".index", slot_record::place_of(extents));
}

// ---- failures ----

void failures(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  uint64_t generation = 1000;
  const auto write = [&](uint32_t flags = 0, size_t length = 65536) { return Ask{Op::segment_write, 4, 0, length, flags, 0, ++generation}; };
  uint64_t sum = bench.fill(0, 65536, 2);
  Ask good = write();
  CHECK(bench.run(good)->status() == Status::ok);
  // `skipped`: sequences of the ring that stay a hole, by which readers notice that changes are missing.
  const auto fails = [&](const Ask& ask, int error, bool record_there, uint64_t skipped = 0) {
    const uint64_t before = place.generation(4), head = place.ring->head();
    const auto answer = bench.run(ask);
    CHECK(struck() > 0);
    CHECK(answer->status() == Status::error);
    CHECK_EQ(answer->error(), error);
    CHECK_EQ(place.generation(4), record_there ? ask.generation : before);
    CHECK_EQ(place.ring->head(), head + skipped);
  };
  const char* const data = way.direct ? way.complete : "pwritev";
  for (const int error : {EIO, ENOSPC, EDQUOT}) {
    plan(data, ".data", error);
    fails(write(), error, false);
    plan("pwritev", ".index", error);
    fails(write(), error, false);
    plan("pwritev", "changes", error);
    fails(write(), error, true, 1);
  }
  plan("fsync", ".data", EIO);
  fails(write(flag::sync), EIO, false);
  plan("fsync", ".index", EIO);
  fails(write(flag::sync), EIO, true);
  // Large: the checksum is the pool's.
  bench.fill(5, 2 << 20, 4);
  Ask large = write(0, 2 << 20);
  large.memory = 5;
  plan(data, ".data", EIO);
  fails(large, EIO, false);

  // Short ones are continued.
  for (const auto& [point, match, bytes] : {std::tuple{data, ".data", 8192}, std::tuple{"pwritev", ".index", 100}, std::tuple{"pwritev", "changes", 7}}) {
    plan(point, match, 0, bytes);
    good = write();
    CHECK(bench.run(good)->status() == Status::ok);
    CHECK(struck() > 0);
    CHECK_EQ(place.generation(4), good.generation);
    CHECK(bench.run(read_of(good, 1, sum))->status() == Status::ok);
  }
  const char* const fetched = way.direct ? way.complete : "preadv";
  plan(fetched, ".data", 0, 8192);
  CHECK(bench.run(read_of(good, 1, sum))->status() == Status::ok);
  CHECK(struck() > 0);
  plan(fetched, ".data", EIO);
  const auto failed = bench.run(read_of(good, 1, sum));
  CHECK(failed->status() == Status::error && failed->error() == EIO);
  fault::clear();

  // Of a group only what it concerns: the adjacent records go by one call, so they share its fate; the other two do not.
  std::vector<Ask> group;
  for (const uint32_t extent : {5, 6, 8, 10}) group.push_back({Op::segment_write, extent, 0, 65536, 0, 0, 2000});
  for (Ask& one : group) one.extent = one.extent == 10 ? 0 : one.extent;
  plan("pwritev", ".index", EIO, -1, false, 1, 0);
  const auto answer = bench.run(group);
  CHECK_EQ(struck(), 1);
  size_t ok = 0;
  for (size_t i = 0; i < group.size(); i++) {
    ok += answer->status(i) == Status::ok;
    CHECK_EQ(place.generation(group[i].extent) == 2000, answer->status(i) == Status::ok);
  }
  CHECK(ok >= 2);

  // Files that cannot be opened.
  Bench fresh(place, way.engine, way.direct);
  plan("open", ".data", EMFILE);
  auto refused = fresh.run(write());
  CHECK(refused->status() == Status::error && refused->error() == EMFILE);
  plan("open", ".index", EMFILE);
  refused = fresh.run(write());
  CHECK(refused->status() == Status::error && refused->error() == EMFILE);
  fault::clear();
}

// Data, their fdatasync, the record, its fdatasync, the ring, the answer: in this order.
void order_of_a_synchronous_write(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  bench.fill(0, 65536, 2);
  uint64_t generation = 3000;
  const struct {
    const char* point;
    const char* match;
    bool record, change;
  } steps[] = {{"fsync", ".data", false, false}, {"pwritev", ".index", false, false}, {"fsync", ".index", true, false}, {"pwritev", "changes", true, false}};
  for (const auto& step : steps) {
    const uint64_t head = place.ring->head();
    plan(step.point, step.match, 0, -1, true);
    size_t first;
    Ask ask{Op::segment_write, 7, 0, 65536, flag::sync, 0, ++generation};
    const auto answer = bench.submit({ask}, first);
    // It has come to the step when one without `sync` behind it stands still too: there is one committer.
    const int64_t end = now_ns() + 60'000'000'000;
    while ([&] {
      bench.agent->process();
      std::this_thread::yield();
      return (place.generation(7) == generation) != step.record;
    }()) {
      CHECK(now_ns() < end);
    }
    for (int i = 0; i < 50; i++) bench.agent->process();
    CHECK(!answer->there);
    CHECK_EQ(place.ring->head(), head);
    fault::clear();
    bench.process_until([&] { return answer->there; });
    CHECK(answer->status() == Status::ok);
    CHECK_EQ(place.generation(7), generation);
    CHECK_EQ(place.ring->head(), head + 1);
  }
}

// ---- letting go ----

void cancelled_at_the_device(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  for (const size_t length : {size_t{65536}, size_t{2} << 20}) {
    bench.fill(0, length, 2);
    const Ask ask{Op::segment_write, 9, 0, length, 0, 0, 4000};
    Ask warm = ask;
    warm.generation = 3999;
    CHECK(bench.run(warm)->status() == Status::ok);
    plan(way.direct ? way.complete : "pwritev", ".data", 0, -1, true);
    size_t first;
    const auto answer = bench.submit({ask}, first);
    bench.process_until([&] { return bench.state(first) == word_state::started; });
    CHECK(bench.change(first, word_state::started, word_state::cancelling));
    request_cancel_everywhere();
    bench.process_until([&] { return answer->there; });
    CHECK(answer->status() == Status::error && answer->error() == ECANCELED);
    fault::clear();
    bench.process_until([&] { return bench.agent->idle(); });
    CHECK_EQ(bench.state(first), word_state::done);
    CHECK_EQ(place.generation(9), 3999u);
  }
}

// Behind a commit that hangs: what is called off there gets no record, what is not goes on.
void cancelled_before_the_record(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  bench.fill(0, 65536, 2);
  CHECK(bench.run(Ask{Op::segment_write, 0, 0, 65536, 0, 0, 1})->status() == Status::ok);
  plan("pwritev", ".index", 0, -1, true);
  size_t first, behind;
  const auto answer = bench.submit({{Op::segment_write, 0, 0, 65536, 0, 0, 5000}}, first);
  // Another device command of the same kind goes through: then the first one is in the committer, or on its way there.
  bench.process_until([&] { return bench.state(first) == word_state::started; });
  std::vector<Ask> asks;
  for (uint32_t i = 1; i < 4; i++) asks.push_back({i == 3 ? Op::tombstones : Op::segment_write, i, 0, 65536, 0, 0, 5000});
  const auto others = bench.submit(asks, behind);
  bench.process_until([&] { return bench.state(behind) == word_state::started && bench.state(behind + 1) == word_state::started; });
  const bool called_off = bench.change(behind, word_state::started, word_state::cancelling);
  CHECK(called_off);
  request_cancel_everywhere();
  for (int i = 0; i < 20; i++) bench.agent->process();
  fault::clear();
  bench.process_until([&] { return answer->there && others->there && bench.agent->idle(); });
  // Whoever met the hang was past the question; everything else is as it was asked.
  const bool stored = others->status(0) == Status::ok;
  if (!stored) CHECK_EQ(others->error(0), ECANCELED);
  CHECK_EQ(place.generation(1) == 5000, stored);
  CHECK(answer->status() == Status::ok && others->status(1) == Status::ok && others->status(2) == Status::ok);
  for (const uint32_t slot : {0, 2, 3}) CHECK_EQ(place.generation(slot), 5000u);
}

void cancelled_in_the_queue(const Place& place) {
  Bench bench(place, "aio", false, 1);
  bench.fill(0, 65536, 2);
  CHECK(bench.run(Ask{Op::segment_write, 0, 0, 65536, 0, 0, 1})->status() == Status::ok);
  plan("pwritev", ".data", 0, -1, true);
  size_t first;
  const auto answer = bench.submit({{Op::segment_write, 0, 0, 65536, 0, 0, 6000}, {Op::segment_write, 1, 0, 65536, 0, 0, 6000}, {Op::segment_read, 1}}, first);
  bench.process_until([&] { return bench.state(first) == word_state::started; });
  for (size_t i = 1; i < 3; i++) CHECK(bench.change(first + i, word_state::queued, word_state::cancelled));
  request_cancel_everywhere();
  bench.process_until([&] { return bench.agent->in_flight() == 1; });
  fault::clear();
  bench.process_until([&] { return answer->there; });
  CHECK(answer->status(0) == Status::ok && answer->status(1) == Status::cancelled && answer->status(2) == Status::cancelled);
  CHECK(place.generation(1) != 6000);
}

// The owner of the agent goes with writes in flight; the lock that says that the writer lives stays taken until the last of them has ended.
void abandonment(const Place& place, const Way& way, const char* point, const char* match) {
  const std::string lock = place.folder + "/owner";
  UniqueFd held(::open(lock.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600)), other(::open(lock.c_str(), O_RDWR | O_CLOEXEC));
  CHECK_EQ(::flock(held.get(), LOCK_EX | LOCK_NB), 0);
  Bench bench(place, way.engine, way.direct, 2, held.get());
  CHECK(bench.agent != nullptr);
  held.reset();
  CHECK(::flock(other.get(), LOCK_EX | LOCK_NB) != 0);
  bench.fill(0, 65536, 1);
  CHECK(bench.run(Ask{Op::segment_write, 0, 0, 65536, 0, 0, 7000})->status() == Status::ok);
  plan(point, match, 0, -1, true, 0);
  std::vector<Ask> asks;
  // The tombstone comes to the committer whatever becomes of the data.
  for (uint32_t i = 0; i < 6; i++) asks.push_back({i == 5 ? Op::tombstones : i % 3 == 2 ? Op::segment_read : Op::segment_write, i, i, 65536, flag::skip_checksum, 0, 7001});
  size_t first;
  const auto answer = bench.submit(asks, first);
  const auto started = [&] {
    size_t count = 0;
    for (size_t i = 0; i < asks.size(); i++) count += bench.state(first + i) == word_state::started;
    return count;
  };
  bench.process_until([&] { return bench.state(first) == word_state::started; });
  bench.agent->stop();
  CHECK(!bench.agent->drain(20));
  CHECK(started() > 0);
  bench.agent->report_all();
  CHECK(answer->there);
  Agent::abandon(std::move(bench.agent));
  CHECK(::flock(other.get(), LOCK_EX | LOCK_NB) != 0);
  fault::clear();
  const int64_t end = now_ns() + 60'000'000'000;
  // (The kernel takes a ring apart after its descriptor is closed, in its own time.)
  while (started() > 0 || ::flock(other.get(), LOCK_EX | LOCK_NB) != 0) {
    CHECK(now_ns() < end);
    std::this_thread::yield();
  }
}

void gone_memory(const Place& place, const Way& way) {
  Bench bench(place, way.engine, way.direct);
  bench.fill(0, 65536, 1);
  const Ask ask{Op::segment_write, 1, 0, 65536, 0, 0, 8000};
  CHECK(bench.run(ask)->status() == Status::ok);
  plan(way.direct ? way.complete : "preadv", ".data", 0, -1, true);
  size_t first;
  const auto answer = bench.submit({read_of(ask, 1, 0)}, first);
  bench.process_until([&] { return bench.state(first) == word_state::started; });
  bench.region->gate.close();
  fault::clear();
  bench.process_until([&] { return answer->there; });
  CHECK(answer->status() == Status::error && answer->error() == ECANCELED);
}

void malformed(const Place& place) {
  Bench bench(place, "aio", false);
  const auto refused = [&](const Ask& ask, const std::function<void(double*)>& alter) {
    size_t first;
    std::string problem;
    bench.submit({ask}, first, &problem, alter);
    CHECK(problem.find("Descriptor 0") == 0);
    CHECK(bench.agent->idle());
  };
  const Ask write, tombstone{Op::tombstones}, read{Op::segment_read}, compared{Op::segment_write, 0, 0, 1, flag::compare_first}, foreign{Op::segment_read, 0, 0, 1, flag::foreign};
  for (const Ask& ask : {write, tombstone}) {
    refused(ask, [](double* one) { one[field::meta_length]--; });
    refused(ask, [](double* one) { one[field::flags] = flag::foreign; });
  }
  refused(tombstone, [](double* one) { one[field::meta_length] = 0; });
  refused(tombstone, [](double* one) { one[field::meta_length] = (tombstones_max + 1) * tombstone_bytes; });
  refused(write, [](double* one) { one[field::record_at]++; });
  refused(write, [](double* one) { one[field::record_at] = 512; });
  refused(write, [](double* one) { one[field::record_at] += 512; });  // of another slot
  refused(write, [](double* one) { one[field::record_offset]--; });   // no record
  refused(read, [](double* one) { one[field::identity_length] = 7; });
  refused(compared, [](double* one) { one[field::identity_length] = 7; });
  refused(foreign, [](double* one) { one[field::meta_length]--; });
  refused(foreign, [](double* one) { one[field::record_at] = 8; });
  refused(read, [](double* one) { one[field::record_at] = -512; });
  refused(write, [](double* one) { one[field::op] = 11; });
}

// ---- the ring of changes ----

void ring_of_changes(const std::string& base) {
  const std::string folder = base + "/ring", file = folder + "/changes";
  std::filesystem::create_directories(folder);
  std::shared_ptr<ChangeRing> ring, again;
  CHECK_EQ(ChangeRing::open(folder + "//", ring), 0);
  CHECK_EQ(ChangeRing::open(folder, again), EBUSY);
  CHECK(ChangeRing::find(folder + "/") == ring);
  CHECK_EQ(std::filesystem::file_size(file), ChangeRing::file_bytes);
  CHECK_EQ(ring->head(), 0u);
  std::vector<Change> changes(1000);
  for (uint32_t i = 0; i < changes.size(); i++) changes[i] = {1, i};
  // Once around, from several threads.
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; round++) CHECK_EQ(ring->append(changes.data(), changes.size()), 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(ring->head(), 80000u);
  plan("pwritev", "changes", EIO);
  CHECK_EQ(ring->append(changes.data(), 3), EIO);
  CHECK_EQ(struck(), 1);
  // Their sequences are skipped: the hole tells readers that changes are missing.
  CHECK_EQ(ring->head(), 80003u);
  ChangeRing::close(folder);
  CHECK(ring->closed() && ChangeRing::find(folder) == nullptr);
  CHECK_EQ(ring->append(changes.data(), 1), EBADF);
  ChangeRing::close(folder);

  // It goes on; damaged entries do not count, nor does one in another's place.
  const auto damage = [&](uint64_t at, const std::string& bytes) {
    UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
    CHECK_EQ(::pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)), static_cast<ssize_t>(bytes.size()));
  };
  damage(ChangeRing::place_of(80000) + 9, "x");
  uint8_t entry[ChangeRing::entry_bytes];
  ChangeRing::encode(entry, 99999999, {1, 1});
  damage(ChangeRing::place_of(5), std::string(reinterpret_cast<char*>(entry), sizeof(entry)));
  CHECK_EQ(ChangeRing::open(folder, ring), 0);
  CHECK_EQ(ring->head(), 79999u);
  ChangeRing::close(folder);
  damage(3, "?");
  CHECK_EQ(ChangeRing::open(folder, ring, 123), 0);
  CHECK_EQ(ring->head(), 123u);
  CHECK_EQ(ring->append(changes.data(), 1), 0);
  ChangeRing::close(folder);
  CHECK_EQ(ChangeRing::open(folder, ring), 0);
  CHECK_EQ(ring->head(), 124u);
  ChangeRing::close(folder);
  CHECK_EQ(::truncate(file.c_str(), 5000), 0);
  CHECK_EQ(ChangeRing::open(folder, ring), 0);
  CHECK_EQ(ring->head(), 0u);
  CHECK_EQ(std::filesystem::file_size(file), ChangeRing::file_bytes);
  ChangeRing::close(folder);
  plan("open", "changes", EACCES);
  CHECK_EQ(ChangeRing::open(folder, ring), EACCES);
  plan("preadv", "changes", EIO);
  CHECK_EQ(ChangeRing::open(folder, ring), EIO);
  fault::clear();
}

void everything(const std::string& base, const Way& way) {
  {
    Place place(base);
    if (Bench(place, way.engine, way.direct).agent == nullptr) {
      std::printf("segment_ops: %s cannot be used here, NOT TESTED\n", way.engine);
      return;
    }
  }
  const Place place(base);
  const std::string how = way.direct ? way.engine : "the pool";
#define TEST(call)                        \
  do {                                    \
    test_context() = how + ": " + #call;  \
    call;                                 \
  } while (false)
  TEST(every_size(place, way));
  TEST(groups(place, way));
  TEST(buried_together(place, way));
  TEST(judged(place, way));
  TEST(looked_at_by_the_pool(place, way));
  TEST(overtaken(place, way));
  TEST(not_there(place, way));
  TEST(given_back(place, way));
  TEST(failures(place, way));
  TEST(order_of_a_synchronous_write(place, way));
  TEST(cancelled_at_the_device(place, way));
  TEST(cancelled_before_the_record(place, way));
  TEST(gone_memory(place, way));
  TEST(abandonment(place, way, way.direct ? way.complete : "pwritev", ".data"));
  TEST(abandonment(place, way, "pwritev", ".index"));
  TEST(abandonment(place, way, "pwritev", "changes"));
  if (way.direct) return;
  TEST(cancelled_in_the_queue(place));
  TEST(malformed(place));
#undef TEST
}

}  // namespace

int main(int argc, char** argv) {
  std::string base = std::string(argc > 1 ? argv[1] : "/tmp") + "/segment-ops-test-XXXXXX";
  CHECK(::mkdtemp(base.data()) != nullptr);
  const int probe = ::open(base.c_str(), O_TMPFILE | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600);
  const bool direct = probe >= 0;
  if (direct) ::close(probe);
  test_context() = "the ring of changes";
  ring_of_changes(base);
  everything(base + "/d", {"aio", "preadv", false});
  for (const Way& way : {Way{"aio", "aio.complete", true}, Way{"io_uring", "ring.complete", true}, Way{"posix_aio", "paio.complete", true}}) {
    if (!direct) break;
#if defined(__SANITIZE_THREAD__)
    // glibc makes the threads of POSIX AIO behind the sanitizer's back, which then crashes in them.
    if (std::string(way.engine) == "posix_aio") continue;
#endif
    everything(base + "/d", way);
  }
  std::filesystem::remove_all(base);
  std::printf("segment_ops: ok%s\n", direct ? "" : ", without O_DIRECT here");
  return 0;
}
