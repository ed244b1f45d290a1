// Writers' folders: who owns them, what is read of them, and what is left after an end, a failure or damage at any point.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "segments/change_ring.h"
#include "segments/followed_folders.h"
#include "segments/page_digest.h"
#include "segments/segment_io.h"
#include "segments/segment_names.h"
#include "segments/segment_space.h"
#include "segments/slot_record.h"
#include "segments/writers.h"
#include "test/check.h"
#include "util/errno_name.h"
#include "util/fault.h"

namespace fs = std::filesystem;
using namespace hicache;
using namespace hicache::segments;

namespace {

constexpr uint32_t extent = 16384;
constexpr uint64_t segment_bytes = 512 << 10;
constexpr DigestSeed seed{{0x01234567, 0x89abcdef, 0xdeadbeef, 0xcafef00d}};
namespace at = slot_record::at;

// ---- helpers ----

int error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Failure& failure) {
    return failure.error;
  }
  return 0;
}

// A writer that closes itself.
struct Owned {
  std::string directory;
  Opened opened;
  explicit Owned(const std::string& where) : directory(where), opened(open_writer(where)) {}
  ~Owned() { close(); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  void close() {
    if (opened.owner_fd >= 0) close_writer(directory, opened.folder, opened.owner_fd);
    opened.owner_fd = -1;
  }
  const std::string& folder() const { return opened.folder; }
  std::string path() const { return directory + "/segments/" + opened.folder; }
  Granted grant(uint64_t capacity = 0, uint64_t bytes = segment_bytes, uint64_t keep_free = 0) const {
    return segments::grant(directory, folder(), {bytes, extent, capacity, keep_free, false});
  }
};

struct Directory {
  std::string path;
  explicit Directory(const std::string& base) {
    static int number = 0;
    path = base + "/d" + std::to_string(number++);
    fs::create_directory(path);
  }
  ~Directory() { fs::remove_all(path); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
};

using Record = std::array<uint8_t, slot_record::bytes>;

Record page_record(uint32_t id, uint32_t slot, const std::string& key, uint64_t generation, uint64_t length = 1000, uint64_t checksum = 7, const std::string& meta = "meta",
                   uint32_t extent_bytes = extent) {
  using slot_record::put;
  Record record{};
  put<uint32_t>(record.data(), at::magic, slot_record::magic);
  record[at::version] = slot_record::version;
  record[at::state] = slot_record::state::page;
  put<uint16_t>(record.data(), at::key_length, static_cast<uint16_t>(key.size()));
  put<uint64_t>(record.data(), at::generation, generation);
  put<uint64_t>(record.data(), at::written_at, 1'700'000'000'000'000 + generation);
  put<uint64_t>(record.data(), at::file_offset, uint64_t{slot} * extent_bytes);
  put<uint64_t>(record.data(), at::length, length);
  put<uint64_t>(record.data(), at::payload_crc, checksum);
  put<uint32_t>(record.data(), at::segment, id);
  put<uint32_t>(record.data(), at::slot, slot);
  put<uint16_t>(record.data(), at::meta_length, static_cast<uint16_t>(meta.size()));
  for (uint8_t i = 0; i < 16; i++) record[at::name_space + i] = i;
  for (uint8_t i = 0; i < 16; i++) record[at::scope + i] = static_cast<uint8_t>(key.size() + i);
  std::memcpy(record.data() + at::key, key.data(), key.size());
  std::memcpy(record.data() + at::key + key.size(), meta.data(), meta.size());
  slot_record::seal(record.data());
  return record;
}

Record tombstone(uint32_t id, uint32_t slot, uint64_t generation) {
  Record record = page_record(id, slot, "", generation, 0, 0, "");
  record[at::state] = slot_record::state::evicted;
  slot_record::put<uint64_t>(record.data(), at::file_offset, 0);
  slot_record::seal(record.data());
  return record;
}

void overwrite(const std::string& path, uint64_t offset, const void* data, size_t length) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(::pwrite(fd, data, length, static_cast<off_t>(offset)), static_cast<ssize_t>(length));
  ::close(fd);
}

void put_record(const std::string& folder_path, uint32_t id, uint32_t slot, const Record& record) {
  overwrite(folder_path + "/" + index_name(id), slot_record::place_of(slot), record.data(), record.size());
  if (const auto ring = ChangeRing::find(folder_path)) {
    const Change change{id, slot};
    CHECK_EQ(ring->append(&change, 1), 0);
  }
}

struct Row {
  uint32_t digest[4], segment, slot, meta, state, name_space;
  double generation, written_at, file_offset, length;
  uint64_t checksum;
};
std::vector<Row> rows_of(const Loaded& loaded) {
  std::vector<Row> rows;
  CHECK_EQ(loaded.rows.bytes() % row_bytes, 0u);
  for (size_t at = 0; at < loaded.rows.bytes(); at += row_bytes) {
    const uint8_t* const from = loaded.rows.data() + at;
    Row row;
    const auto take = [&](size_t offset, auto& value) { std::memcpy(&value, from + offset, sizeof(value)); };
    take(0, row.digest);
    take(16, row.segment);
    take(20, row.slot);
    take(24, row.generation);
    take(32, row.written_at);
    take(40, row.file_offset);
    take(48, row.length);
    take(56, row.checksum);
    take(64, row.meta);
    take(68, row.state);
    take(72, row.name_space);
    rows.push_back(row);
  }
  return rows;
}

void load_all(const std::string& directory, const std::string& folder, Loaded& out) { load(directory, folder, seed, nullptr, out); }

// Runs in another process, which then dies without closing anything.
void in_dying_process(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  int status = 0;
  CHECK_EQ(::waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

uint64_t disk_usage(const std::string& path) {
  uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    struct stat status;
    CHECK_EQ(::lstat(entry.path().c_str(), &status), 0);
    bytes += static_cast<uint64_t>(status.st_blocks) * 512;
  }
  return bytes;
}

size_t count_files(const std::string& path, const std::string& ending) {
  size_t count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path)) count += entry.path().string().ends_with(ending) ? 1 : 0;
  return count;
}

std::vector<std::string> folders_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory + "/segments")) {
    if (entry.is_directory()) names.push_back(entry.path().filename());
  }
  return names;
}

std::string content_of(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  std::string content(1 << 16, '\0');
  const ssize_t length = ::read(fd, content.data(), content.size());
  ::close(fd);
  content.resize(static_cast<size_t>(std::max<ssize_t>(length, 0)));
  return content;
}
void set_content(const std::string& path, const std::string& content) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  CHECK_EQ(::write(fd, content.data(), content.size()), static_cast<ssize_t>(content.size()));
  ::close(fd);
}

// ---- tests ----

void digests() {
  test_context() = "digests";
  const auto check = [](const std::string& key, const char* scope_hex, std::array<uint32_t, 4> expected) {
    uint8_t scope[16];
    for (size_t i = 0; i < 16; i++) scope[i] = static_cast<uint8_t>(std::stoul(std::string(scope_hex + 2 * i, 2), nullptr, 16));
    uint32_t hash[8], digest[4];
    hash_words(reinterpret_cast<const uint8_t*>(key.data()), key.size(), hash);
    page_digest(seed, hash, scope, digest);
    for (size_t i = 0; i < 4; i++) CHECK_EQ(digest[i], expected[i]);
  };
  // Computed from the definition in docs/formats.md by another program.
  const std::string hash = "9a8eeff1d0bc6b9b7acf170b1168d6d07f193dc770d4c1864b03e48d775e8d1a";
  check(hash + "_model_0_1_k", "0ca30cc79cd135d75e945f0b4c741595", {0x14899a77, 0x05295113, 0x28d75bd1, 0xbc27d0b6});
  check(hash, "4f9e5167503cd370346d76ac85d2d658", {0xa5f5cd79, 0xcf89651c, 0xfba6688e, 0x822380cf});
  check("a plain key_model", "741fe8819e6a978dea7a76712fc88a8f", {0x51d2b1cb, 0xa1f29d98, 0x7811923c, 0xdea2f303});
  // Every byte at every place.
  for (size_t place = 0; place < 64; place++) {
    for (int byte = 0; byte < 256; byte++) {
      std::string key = hash;
      key[place] = static_cast<char>(byte);
      const bool digit = std::string("0123456789abcdef").find(static_cast<char>(byte)) != std::string::npos;
      uint32_t words[8];
      hash_words(reinterpret_cast<const uint8_t*>(key.data()), key.size(), words);
      for (size_t i = 0; i < 8; i++) CHECK_EQ(words[i], digit ? static_cast<uint32_t>(std::stoul(key.substr(8 * i, 8), nullptr, 16)) : 0u);
    }
  }
  uint32_t words[8];
  hash_words(reinterpret_cast<const uint8_t*>(hash.data()), 63, words);
  for (const uint32_t word : words) CHECK_EQ(word, 0u);
}

void names() {
  test_context() = "names";
  const std::string name = new_folder_name(this_host());
  CHECK(valid_folder_name(name));
  CHECK(machine_of(name) == this_host().machine && boot_of(name) == this_host().boot);
  for (const std::string& wrong : {std::string(), std::string(".."), name + "0", name.substr(1), "../" + name.substr(3), std::string(50, '/')}) CHECK(!valid_folder_name(wrong));
  uint32_t id = 0;
  CHECK(file_kind("0123abcd.data", id) == FileKind::data);
  CHECK_EQ(id, 0x0123abcdu);
  CHECK(file_kind("ffffffff.index", id) == FileKind::index && file_kind("ffffffff.new", id) == FileKind::preparing && file_kind("ffffffff.index.new", id) == FileKind::preparing);
  for (const char* wrong : {"", "owner", "0123abc.data", "0123abcde.data", "0123ABCD.data", "0123abcd.dat", "0123abcd", "0123abcd.data.new"}) CHECK(file_kind(wrong, id) == FileKind::none);
}

void opening(const std::string& base) {
  test_context() = "opening";
  const Directory directory(base);
  CHECK_EQ(usage(directory.path).used_bytes, 0u);
  Owned first(directory.path);
  CHECK(valid_folder_name(first.folder()));
  CHECK_EQ(content_of(directory.path + "/segments/FORMAT"), "hicache-nixl segments 1\n");
  struct stat status;
  for (const auto& entry : fs::recursive_directory_iterator(directory.path)) {
    CHECK_EQ(::lstat(entry.path().c_str(), &status), 0);
    CHECK_EQ(status.st_mode & 0777, S_ISDIR(status.st_mode) ? 0700u : 0600u);
  }
  // Two of one process are two writers.
  Owned second(directory.path);
  CHECK(second.folder() != first.folder() && second.opened.adopted.empty());
  CHECK_EQ(usage(directory.path).writers, 2u);
  // Only with its own descriptor.
  CHECK(!close_writer(directory.path, first.folder(), second.opened.owner_fd) && !close_writer(directory.path, first.folder(), first.opened.owner_fd, 1u << 30));
  CHECK_EQ(error_of([&] { segments::grant(directory.path, new_folder_name(this_host()), {segment_bytes, extent, 0, 0, false}); }), EBADF);
  // One without segments leaves nothing.
  second.close();
  CHECK_EQ(folders_in(directory.path).size(), 1u);
  const Granted granted = first.grant();
  CHECK_EQ(std::string(granted.refused), "");
  first.close();
  CHECK_EQ(folders_in(directory.path).size(), 1u);
  // And one with segments is taken up again.
  Owned third(directory.path);
  CHECK_EQ(third.opened.adopted.size(), 1u);
  Loaded loaded;
  load_all(directory.path, third.folder(), loaded);
  CHECK_EQ(loaded.segments.size(), 1u);
  CHECK_EQ(loaded.segments[0].id, granted.id);
  CHECK_EQ(loaded.segments[0].slots, segment_bytes / extent);
}

void formats(const std::string& base) {
  test_context() = "formats";
  const std::map<std::string, int> contents = {
      {"hicache-nixl segments 2\n", EPROTONOSUPPORT}, {"hicache-nixl segments 10", EPROTONOSUPPORT}, {"hicache-nixl segments 99999999999999999999999\n", EPROTONOSUPPORT},
      {"something else\n", EBADMSG}, {"hicache-nixl segments x\n", EBADMSG}, {"hicache-nixl segments 0\n", EBADMSG},
      {std::string(24, '\0'), 0}, {"", 0}, {"hicache-nixl seg", 0}, {"hicache-nixl segments 1\n", 0},
  };
  for (const auto& [content, error] : contents) {
    const Directory directory(base);
    fs::create_directory(directory.path + "/segments");
    set_content(directory.path + "/segments/FORMAT", content);
    CHECK_EQ(error_of([&] { Owned owned(directory.path); }), error);
    CHECK_EQ(content_of(directory.path + "/segments/FORMAT"), error == 0 ? "hicache-nixl segments 1\n" : content);
    // Nothing was touched.
    if (error != 0) CHECK_EQ(std::distance(fs::directory_iterator(directory.path + "/segments"), {}), 1);
  }
  for (const char* name : {"FORMAT", "lock"}) {
    const Directory directory(base);
    fs::create_directories(directory.path + "/segments/" + name);
    CHECK_EQ(error_of([&] { Owned owned(directory.path); }), EISDIR);
  }
  // Links are not followed, whatever they are called.
  const Directory elsewhere(base);
  set_content(elsewhere.path + "/file", "untouched");
  for (const char* name : {"FORMAT", "lock"}) {
    const Directory directory(base);
    fs::create_directory(directory.path + "/segments");
    fs::create_symlink(elsewhere.path + "/file", directory.path + "/segments/" + name);
    CHECK_EQ(error_of([&] { Owned owned(directory.path); }), ELOOP);
  }
  const Directory directory(base);
  fs::create_symlink(elsewhere.path, directory.path + "/segments");
  CHECK(error_of([&] { Owned owned(directory.path); }) != 0);
  CHECK_EQ(content_of(elsewhere.path + "/file"), "untouched");
  CHECK_EQ(std::distance(fs::directory_iterator(elsewhere.path), {}), 1);
}

void loading(const std::string& base) {
  test_context() = "loading";
  const Directory directory(base);
  const Owned owned(directory.path);
  const Granted one = owned.grant(), two = owned.grant();
  const std::string hash(64, 'a');
  put_record(owned.path(), one.id, 3, page_record(one.id, 3, hash + "_m", 5, 16384, 0x1122334455667788));
  put_record(owned.path(), one.id, 4, tombstone(one.id, 4, 9));
  put_record(owned.path(), two.id, 31, page_record(two.id, 31, "b", 1, 0, 1, "other meta"));
  put_record(owned.path(), two.id, 0, page_record(two.id, 0, "c", 2));
  Loaded loaded;
  load_all(directory.path, owned.folder(), loaded);
  CHECK_EQ(loaded.damaged, 0u);
  CHECK_EQ(loaded.segments.size(), 2u);
  CHECK_EQ(loaded.metas.size(), 2u);
  CHECK_EQ(loaded.namespaces.size(), 1u);
  std::map<std::pair<uint32_t, uint32_t>, Row> rows;
  for (const Row& row : rows_of(loaded)) rows[{row.segment, row.slot}] = row;
  CHECK_EQ(rows.size(), 4u);
  const Row& page = rows[{one.id, 3}];
  CHECK_EQ(page.state, 1u);
  CHECK_EQ(page.generation, 5.0);
  CHECK_EQ(page.written_at, 1'700'000'000'000'005.0);
  CHECK_EQ(page.file_offset, 3.0 * extent);
  CHECK_EQ(page.length, 16384.0);
  CHECK_EQ(page.checksum, 0x1122334455667788u);
  CHECK_EQ(loaded.metas[page.meta], "meta");
  CHECK_EQ(loaded.namespaces[page.name_space].size(), 16u);
  const Record record = page_record(one.id, 3, hash + "_m", 5);
  uint32_t words[8], digest[4];
  hash_words(record.data() + at::key, 66, words);
  CHECK_EQ(words[0], 0xaaaaaaaau);
  page_digest(seed, words, record.data() + at::scope, digest);
  CHECK(std::memcmp(digest, page.digest, sizeof(digest)) == 0);
  const Row& dead = rows[{one.id, 4}];
  CHECK_EQ(dead.state, 2u);
  CHECK_EQ(dead.generation, 9.0);
  const Row& empty = rows[{two.id, 31}];
  CHECK_EQ(loaded.metas[empty.meta], "other meta");
  // Some segments only; those that are not there are no damage.
  Loaded some;
  const std::vector<uint32_t> ids{two.id, 12345};
  load(directory.path, owned.folder(), seed, &ids, some);
  CHECK_EQ(rows_of(some).size(), 2u);
  CHECK_EQ(some.damaged, 0u);
  CHECK_EQ(records(directory.path, owned.folder(), one.id).size(), 512u);
  CHECK_EQ(records(directory.path, owned.folder(), 12345).size(), 0u);
  // What lies about its place is damage, however right its checksum.
  const std::vector<Record> lies = {
      page_record(one.id, 6, "k", 1), page_record(two.id, 5, "k", 1), page_record(one.id, 5, "k", 1, extent + 1), page_record(one.id, 5, "k", 1, 10, 7, "m", 2 * extent),
      page_record(one.id, 5, "", 1), page_record(one.id, 5, "k", uint64_t{1} << 60)};
  for (const Record& lie : lies) {
    put_record(owned.path(), one.id, 5, lie);
    Loaded again;
    load_all(directory.path, owned.folder(), again);
    CHECK_EQ(again.damaged, 1u);
    CHECK_EQ(rows_of(again).size(), 4u);
  }
  // A folder that is not there has nothing.
  Loaded none;
  load_all(directory.path, new_folder_name(this_host()), none);
  CHECK(none.segments.empty() && none.damaged == 0);
}

void polling(const std::string& base) {
  test_context() = "polling";
  const Directory directory(base);
  const Owned writer(directory.path), reader(directory.path);
  const Granted granted = writer.grant();
  Loaded loaded;
  load_all(directory.path, writer.folder(), loaded);
  uint64_t sequence = loaded.sequence;
  CHECK(sequence > 0);
  const auto ask = [&] {
    Polled polled = poll(directory.path, reader.folder(), {{writer.folder(), sequence}}, seed);
    CHECK_EQ(polled.changes.size(), 1u);
    CHECK(!polled.changes[0].gone);
    CHECK_EQ(polled.folders.size(), 1u);
    CHECK(polled.folders[0].live && polled.folders[0].same_machine);
    sequence = polled.changes[0].sequence;
    return polled;
  };
  CHECK(!ask().changes[0].any);
  put_record(writer.path(), granted.id, 7, page_record(granted.id, 7, "a", 1));
  put_record(writer.path(), granted.id, 2, page_record(granted.id, 2, "b", 1));
  put_record(writer.path(), granted.id, 7, tombstone(granted.id, 7, 2));
  {
    const Polled polled = ask();
    const std::vector<Row> rows = rows_of(polled.changes[0].loaded);
    CHECK_EQ(rows.size(), 2u);
    CHECK_EQ(rows[0].slot, 2u);
    CHECK_EQ(rows[1].state, 2u);
    CHECK_EQ(polled.changes[0].loaded.segments.size(), 1u);
    CHECK(polled.changes[0].whole.empty() && !polled.folders[0].wants);
  }
  CHECK(!ask().changes[0].any);
  set_wants(directory.path, writer.folder(), true);
  CHECK(ask().folders[0].wants);
  set_wants(directory.path, writer.folder(), false);
  set_wants(directory.path, writer.folder(), false);
  CHECK(!ask().folders[0].wants);
  // Around the ring's turn, in steps of many sizes.
  const auto ring = ChangeRing::find(writer.path());
  std::vector<Change> many(9000, Change{granted.id, 7});
  for (size_t told = 0, step = 1; told < 2 * ChangeRing::entries; told += step, step = step % 8999 + 1777) {
    step = std::min<size_t>(step, many.size());
    CHECK_EQ(ring->append(many.data(), step), 0);
    const Polled polled = ask();
    CHECK(!polled.changes[0].lapped);
    CHECK_EQ(rows_of(polled.changes[0].loaded).size(), 1u);
    CHECK_EQ(sequence, ring->head());
  }
  // Overtaken.
  for (size_t told = 0; told <= ChangeRing::entries; told += many.size()) CHECK_EQ(ring->append(many.data(), many.size()), 0);
  CHECK(ask().changes[0].lapped);
  Loaded again;
  load_all(directory.path, writer.folder(), again);
  sequence = again.sequence;
  CHECK_EQ(sequence, ring->head());
  // A damaged entry is noticed, as the first and as one in the middle.
  for (const size_t behind : {0, 1, 2}) {
    CHECK_EQ(ring->append(many.data(), 3), 0);
    overwrite(writer.path() + "/changes", ChangeRing::place_of(ring->head() - behind) + 3, "\xff\xff", 2);
    CHECK_EQ(ask().changes[0].lapped, behind != 0);
    CHECK_EQ(ring->append(many.data(), 1), 0);
    CHECK(ask().changes[0].lapped);
    sequence = ring->head();
  }
  // Changes that could not be told leave a hole, and whoever meets it loads the folder anew.
  fault::set({{.point = "pwritev", .match = "changes", .error = EIO}});
  CHECK_EQ(ring->append(many.data(), 64), EIO);
  fault::clear();
  CHECK(!ask().changes[0].lapped);
  CHECK_EQ(ring->append(many.data(), 1), 0);
  CHECK(ask().changes[0].lapped);
  sequence = ring->head();
  // Requests for pages of others come as such, among changes and whoever has the segment, and their generations cannot be damaged unseen.
  const std::vector<Change> told{{77, 5, uint64_t{1} << 52}, {granted.id, 7}, {granted.id, 2, 3}};
  CHECK_EQ(ring->append(told.data(), told.size()), 0);
  {
    const Polled polled = ask();
    const std::vector<Change>& asked = polled.changes[0].asked;
    CHECK_EQ(asked.size(), 2u);
    CHECK(asked[0].segment == 77 && asked[0].slot == 5 && asked[0].generation == uint64_t{1} << 52);
    CHECK(asked[1].segment == granted.id && asked[1].slot == 2 && asked[1].generation == 3);
    CHECK(polled.changes[0].whole.empty());
    const std::vector<Row> rows = rows_of(polled.changes[0].loaded);
    CHECK(rows.size() == 1 && rows[0].slot == 7);
  }
  segments::ask(directory.path, writer.folder(), {{78, 6, 9}});
  CHECK_EQ(ask().changes[0].asked[0].segment, 78u);
  segments::ask(directory.path, writer.folder(), {{78, 6, 9}, {79, 6, 9}});
  overwrite(writer.path() + "/changes", ChangeRing::place_of(ring->head() - 1) + 16, "\x08", 1);
  CHECK(ask().changes[0].lapped);
  sequence = ring->head();
  // Segments as a whole.
  const Reassigned reassigned = reassign(directory.path, writer.folder(), granted.id, 4 * extent);
  CHECK_EQ(reassigned.slots, segment_bytes / extent / 4);
  {
    const Polled polled = ask();
    CHECK_EQ(polled.changes[0].whole.size(), 1u);
    CHECK_EQ(polled.changes[0].loaded.segments[0].extent_bytes, 4 * extent);
    CHECK(rows_of(polled.changes[0].loaded).empty());
  }
  release(directory.path, writer.folder(), granted.id);
  {
    const Polled polled = ask();
    CHECK_EQ(polled.changes[0].whole.size(), 1u);
    CHECK(polled.changes[0].loaded.segments.empty());
  }
  // A ring that was made anew is noticed by whoever followed the old one, or none.
  sequence = 0;
  CHECK(ask().changes[0].lapped);
  // Gone.
  const Polled polled = poll(directory.path, reader.folder(), {{new_folder_name(this_host()), 5}}, seed);
  CHECK(polled.changes[0].gone);
}

void reassigning(const std::string& base) {
  test_context() = "reassigning";
  const Directory directory(base);
  const Owned owned(directory.path);
  const Granted granted = owned.grant(0, 4 << 20);
  put_record(owned.path(), granted.id, 0, page_record(granted.id, 0, "old", 3));
  const uint64_t before = usage(directory.path).used_bytes;
  uint64_t data_bytes = 4 << 20;
  for (int round = 0; round < 3; round++) {
    for (const uint32_t size : {4096u, 1u << 20, 8192u, extent}) {
      const Reassigned reassigned = reassign(directory.path, owned.folder(), granted.id, size);
      CHECK_EQ(reassigned.slots, reassigned.data_bytes / size);
      CHECK(usage(directory.path).used_bytes <= before);
      Loaded loaded;
      load_all(directory.path, owned.folder(), loaded);
      CHECK_EQ(loaded.damaged, 0u);
      CHECK(rows_of(loaded).empty());
      CHECK_EQ(loaded.segments[0].slots, reassigned.slots);
      CHECK_EQ(loaded.segments[0].extent_bytes, size);
      // The index takes its space once.
      CHECK(reassigned.data_bytes <= data_bytes && (round == 0 || reassigned.data_bytes == data_bytes));
      data_bytes = reassigned.data_bytes;
    }
  }
  CHECK_EQ(error_of([&] { reassign(directory.path, owned.folder(), granted.id, 8 << 20); }), EINVAL);
  CHECK_EQ(error_of([&] { reassign(directory.path, owned.folder(), 12345, extent); }), EBADMSG);
}

void capacity(const std::string& base) {
  test_context() = "capacity";
  const Directory directory(base);
  const Owned owned(directory.path);
  const uint64_t limit = 20 << 20;
  uint64_t granted_bytes = 0;
  for (int round = 0;; round++) {
    CHECK(round < 100);
    const Granted granted = owned.grant(limit, 3 << 20);
    CHECK(disk_usage(directory.path + "/segments") <= limit && usage(directory.path).used_bytes <= limit);
    if (*granted.refused != '\0') {
      CHECK_EQ(std::string(granted.refused), "capacity");
      break;
    }
    CHECK(granted.data_bytes >= (3u << 20) / 4 && granted.slots == granted.data_bytes / extent);
    granted_bytes += granted.data_bytes;
  }
  // Less than a quarter of a segment is left.
  CHECK(granted_bytes > limit - (3 << 20));
  CHECK_EQ(count_files(directory.path, ".new"), 0u);
  // The file system's own limit.
  const Granted none = owned.grant(0, segment_bytes, uint64_t{1} << 52);
  CHECK_EQ(std::string(none.refused), "disk");
  for (const char* point : {"fallocate", "pwritev", "fsync"}) {
    fault::set({{.point = point, .match = ".new", .error = ENOSPC}});
    const Granted full = owned.grant();
    CHECK_EQ(fault::clear()[0], 1);
    CHECK_EQ(std::string(full.refused), "disk");
    CHECK_EQ(count_files(directory.path, ".new"), 0u);
  }
  // Where there is no fallocate.
  fault::set({{.point = "fallocate", .times = 0, .error = EOPNOTSUPP}});
  CHECK_EQ(std::string(owned.grant().refused), "");
  fault::clear();
}

// One writes and tells, others look: nobody meets half a record, and in the end everybody knows everything.
void reading_at_once(const std::string& base) {
  test_context() = "reading at once";
  const Directory directory(base);
  const Owned writer(directory.path);
  const Granted granted = writer.grant();
  constexpr uint64_t rounds = 400;
  std::atomic<bool> done{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; i++) {
    readers.emplace_back([&] {
      Loaded loaded;
      load_all(directory.path, writer.folder(), loaded);
      std::map<uint32_t, double> generations;
      const auto learn = [&](const Loaded& from) {
        for (const Row& row : rows_of(from)) generations[row.slot] = std::max(generations[row.slot], row.generation);
      };
      learn(loaded);
      uint64_t sequence = loaded.sequence;
      for (bool last = false;; ) {
        const Polled polled = poll(directory.path, "", {{writer.folder(), sequence}}, seed);
        const FolderChanges& changes = polled.changes[0];
        CHECK(!changes.gone && !changes.lapped && changes.whole.empty());
        sequence = changes.sequence;
        learn(changes.loaded);
        if (last) break;
        last = done;
      }
      for (uint32_t slot = 0; slot < granted.slots; slot++) CHECK_EQ(generations[slot], static_cast<double>(rounds));
    });
  }
  for (uint64_t generation = 1; generation <= rounds; generation++) {
    for (uint32_t slot = 0; slot < granted.slots; slot++) {
      put_record(writer.path(), granted.id, slot,
                 generation % 2 == 0 ? page_record(granted.id, slot, "key" + std::to_string(generation), generation) : tombstone(granted.id, slot, generation));
    }
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
}

// Everything at once, from two writers: never more than the capacity, and no id twice.
void grants_at_once(const std::string& base) {
  test_context() = "grants at once";
  const Directory directory(base);
  const Owned a(directory.path), b(directory.path);
  const uint64_t limit = 16 << 20;
  std::mutex mutex;
  std::set<uint32_t> ids;
  std::vector<std::thread> threads;
  std::atomic<bool> done{false};
  for (int i = 0; i < 4; i++) {
    threads.emplace_back([&, i] {
      const Owned& mine = i % 2 == 0 ? a : b;
      for (int round = 0; round < 12; round++) {
        const Granted granted = mine.grant(limit, 2 << 20);
        if (*granted.refused != '\0') continue;
        {
          std::lock_guard lock(mutex);
          CHECK(ids.insert(granted.id).second);
        }
        if (round % 3 == 0) release(directory.path, mine.folder(), granted.id);
      }
    });
  }
  // With the directory's lock: what is given back and granted again while one counts would count twice.
  std::thread watch([&] {
    const UniqueFd lock(::open((directory.path + "/segments/lock").c_str(), O_RDWR | O_CLOEXEC));
    while (!done) {
      if (try_lock(lock.get(), false, "") == 0) CHECK(usage(directory.path).used_bytes <= limit);
      ::flock(lock.get(), LOCK_UN);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  for (std::thread& thread : threads) thread.join();
  done = true;
  watch.join();
  CHECK(!ids.empty());
}

void closing_ends_grants(const std::string& base) {
  test_context() = "closing";
  const Directory directory(base);
  Owned owned(directory.path);
  const std::string folder = owned.folder();
  fault::set({{.point = "pwritev", .match = ".new", .after = 3, .hang = true}});
  std::atomic<int> error{-1};
  std::thread granting([&] { error = error_of([&] { segments::grant(directory.path, folder, {64 << 20, extent, 0, 0, false}); }); });
  while (count_files(directory.path, ".new") == 0) std::this_thread::yield();
  std::thread closing([&] { owned.close(); });
  // Let go once closing has begun: nothing new begins on this folder then.
  while (error_of([&] { set_wants(directory.path, folder, false); }) == 0) std::this_thread::yield();
  fault::clear();
  granting.join();
  closing.join();
  CHECK_EQ(error.load(), ECANCELED);
  CHECK_EQ(folders_in(directory.path).size(), 0u);
}

// ---- dead writers ----

struct Left {
  std::string folder;
  std::vector<uint32_t> ids;
};

// A writer that stored one page in each of `count` segments and died.
Left leave(const std::string& directory, int count, const std::string& prefix) {
  int ends[2];
  CHECK_EQ(::pipe(ends), 0);
  in_dying_process([&] {
    // Those that are there already are not ours: as if they lived.
    std::vector<UniqueFd> held;
    for (const std::string& name : fs::exists(directory + "/segments") ? folders_in(directory) : std::vector<std::string>{}) {
      held.emplace_back(::open((directory + "/segments/" + name + "/owner").c_str(), O_RDWR | O_CLOEXEC));
      if (held.back()) try_lock(held.back().get(), false, "");
    }
    const Opened opened = open_writer(directory);
    std::string said = opened.folder;
    for (int i = 0; i < count; i++) {
      const Granted granted = segments::grant(directory, opened.folder, {segment_bytes, extent, 0, 0, false});
      put_record(directory + "/segments/" + opened.folder, granted.id, 1, page_record(granted.id, 1, prefix + std::to_string(i), 1));
      said += hex(granted.id, 8);
    }
    if (::write(ends[1], said.data(), said.size()) != static_cast<ssize_t>(said.size())) ::_exit(1);
  });
  ::close(ends[1]);
  std::string said(4096, '\0');
  const ssize_t length = ::read(ends[0], said.data(), said.size());
  ::close(ends[0]);
  CHECK(length >= 50);
  Left left{said.substr(0, 50), {}};
  for (ssize_t i = 50; i < length; i += 8) left.ids.push_back(static_cast<uint32_t>(std::stoul(said.substr(static_cast<size_t>(i), 8), nullptr, 16)));
  return left;
}

std::set<uint32_t> pages_of(const std::string& directory, const std::string& folder) {
  Loaded loaded;
  load_all(directory, folder, loaded);
  CHECK_EQ(loaded.damaged, 0u);
  std::set<uint32_t> ids;
  for (const Row& row : rows_of(loaded)) CHECK(ids.insert(row.segment).second);
  return ids;
}

void adoption(const std::string& base) {
  test_context() = "adoption";
  const Directory directory(base);
  const Left one = leave(directory.path, 2, "one"), two = leave(directory.path, 3, "two");
  std::set<uint32_t> all;
  for (const uint32_t id : one.ids) all.insert(id);
  for (const uint32_t id : two.ids) all.insert(id);
  {
    Owned owned(directory.path);
    CHECK_EQ(owned.opened.adopted.size(), 2u);
    CHECK_EQ(folders_in(directory.path).size(), 1u);
    CHECK(pages_of(directory.path, owned.folder()) == all);
    // One that dies while we live.
    const Left three = leave(directory.path, 1, "three");
    Loaded before;
    load_all(directory.path, owned.folder(), before);
    const std::vector<uint32_t> adopted = adopt(directory.path, owned.folder());
    CHECK(adopted == three.ids);
    CHECK(adopt(directory.path, owned.folder()).empty());
    all.insert(three.ids[0]);
    CHECK(pages_of(directory.path, owned.folder()) == all);
    // Those who follow us are told.
    const Polled polled = poll(directory.path, "", {{owned.folder(), before.sequence}}, seed);
    CHECK(polled.changes[0].whole == adopted);
    CHECK_EQ(rows_of(polled.changes[0].loaded).size(), 1u);
  }
  // Not of another machine; of another boot, as this file system is of this machine.
  const std::string segments = directory.path + "/segments/", name = folders_in(directory.path)[0];
  const std::string foreign = std::string(16, '0') + name.substr(16), earlier = name.substr(0, 17) + std::string(16, '0') + name.substr(33);
  fs::rename(segments + name, segments + foreign);
  {
    Owned owned(directory.path);
    CHECK(owned.opened.adopted.empty() && adopt(directory.path, owned.folder()).empty());
    CHECK(pages_of(directory.path, foreign) == all);
    const Polled polled = poll(directory.path, owned.folder(), {}, seed);
    CHECK(!polled.folders[0].same_machine && !polled.folders[0].live);
  }
  fs::rename(segments + foreign, segments + earlier);
  {
    Owned owned(directory.path);
    CHECK(pages_of(directory.path, owned.folder()) == all);
    // A segment that is there twice is one copied by somebody.
    const Left copied = leave(directory.path, 1, "copy");
    fs::copy(owned.path() + "/" + index_name(one.ids[0]), segments + copied.folder + "/" + index_name(one.ids[0]));
    fs::copy(owned.path() + "/" + data_name(one.ids[0]), segments + copied.folder + "/" + data_name(one.ids[0]));
    CHECK(adopt(directory.path, owned.folder()) == copied.ids);
    all.insert(copied.ids[0]);
    CHECK(pages_of(directory.path, owned.folder()) == all);
    CHECK_EQ(count_files(directory.path, ".data"), all.size());
  }
  // Segments without their owner's file: nobody knows whose they are.
  fs::remove(segments + folders_in(directory.path)[0] + "/owner");
  Owned owned(directory.path);
  CHECK(owned.opened.adopted.empty());
}

// Whatever is left in the folders of dead writers, after a while there is no file of no use.
void check_settled(const std::string& directory) {
  Owned owned(directory);
  CHECK_EQ(folders_in(directory).size(), 1u);
  std::set<std::string> stems[2];
  for (const auto& entry : fs::directory_iterator(owned.path())) {
    const std::string file = entry.path().filename();
    uint32_t id;
    const FileKind kind = file_kind(file, id);
    CHECK(kind != FileKind::preparing);
    if (kind == FileKind::data) stems[0].insert(file.substr(0, 8));
    if (kind == FileKind::index) stems[1].insert(file.substr(0, 8));
  }
  CHECK(stems[0] == stems[1]);
}

// Each call of taking over fails once, or the process ends there: pages may go, space and order do not.
void broken_adoption(const std::string& base) {
  test_context() = "broken adoption";
  for (const bool dies : {false, true}) {
    // An end matters where something was changed before.
    std::vector<const char*> points{"rename", "unlink", "rmdir", "pwritev", "fsync"};
    if (!dies) points.insert(points.end(), {"preadv", "open", "stat", "list", "flock", "truncate"});
    for (const char* const point : points) {
      for (int64_t after = 0;; after++) {
        test_context() = std::string("broken adoption: ") + (dies ? "end at " : "failed ") + point + " " + std::to_string(after);
        const Directory directory(base);
        const Left one = leave(directory.path, 1, "one"), two = leave(directory.path, 2, "two");
        std::atomic<bool> struck{false};
        int ends[2];
        CHECK_EQ(::pipe(ends), 0);
        // In a process of its own: what it leaves open dies with it.
        in_dying_process([&] {
          if (dies) {
            fault::set({{.point = point, .after = after, .hang = true}});
            // The process ends while its thread hangs there.
            std::atomic<bool> through{false};
            std::thread([&] {
              error_of([&] { open_writer(directory.path); });
              through = true;
            }).detach();
            for (int i = 0; i < 100 && !through; i++) std::this_thread::sleep_for(std::chrono::milliseconds(1));
            if (!through && ::write(ends[1], "x", 1) != 1) ::_exit(1);
            ::_exit(0);
          }
          fault::set({{.point = point, .after = after, .error = EIO}});
          error_of([&] { open_writer(directory.path); });
          if (fault::clear()[0] > 0 && ::write(ends[1], "x", 1) != 1) ::_exit(1);
        });
        ::close(ends[1]);
        char said;
        const bool hit = ::read(ends[0], &said, 1) == 1;
        ::close(ends[0]);
        check_settled(directory.path);
        const std::set<uint32_t> pages = pages_of(directory.path, folders_in(directory.path)[0]);
        std::set<uint32_t> known(one.ids.begin(), one.ids.end());
        known.insert(two.ids.begin(), two.ids.end());
        CHECK(std::includes(known.begin(), known.end(), pages.begin(), pages.end()));
        // One end costs one segment at most.
        CHECK(pages.size() + 1 >= known.size());
        if (!hit) break;
        if (dies && after >= 12) break;
      }
    }
  }
}

// Every call of every function fails once: an error or an answer, and afterwards everything works.
void failures(const std::string& base) {
  test_context() = "failures";
  const Directory directory(base);
  const Owned owned(directory.path), other(directory.path);
  const std::vector<std::pair<std::string, std::function<void()>>> calls = {
      {"grant", [&] { owned.grant(); }},
      {"load", [&] { Loaded loaded; load_all(directory.path, owned.folder(), loaded); }},
      {"poll", [&] { poll(directory.path, owned.folder(), {{other.folder(), 1}}, seed); }},
      {"usage", [&] { usage(directory.path); }},
      {"wants", [&] { set_wants(directory.path, owned.folder(), true); set_wants(directory.path, owned.folder(), false); }},
      {"adopt", [&] { adopt(directory.path, owned.folder()); }},
      {"open", [&] { Owned third(directory.path); }},
      {"change", [&] {
         const Granted granted = owned.grant();
         if (*granted.refused != '\0') return;
         // As the caller is told to: a segment that could not be reassigned is given back.
         const int error = error_of([&] { reassign(directory.path, owned.folder(), granted.id, 2 * extent); });
         CHECK(error == 0 || error == EIO || error == EBADMSG);
         release(directory.path, owned.folder(), granted.id);
       }}};
  for (const auto& [what, call] : calls) {
    for (const char* point : {"open", "stat", "mkdir", "rename", "unlink", "rmdir", "pwritev", "preadv", "fsync", "flock", "list", "statfs", "fallocate", "truncate"}) {
      for (int64_t after = 0;; after++) {
        test_context() = "failures: " + what + ", " + point + " " + std::to_string(after);
        fault::set({{.point = point, .after = after, .error = EIO}});
        const int error = error_of(call);
        const bool struck = fault::clear()[0] > 0;
        CHECK(error == 0 || (struck && (error == EIO || error == EBADMSG)));
        if (!struck) break;
      }
      CHECK_EQ(error_of(call), 0);
      CHECK_EQ(usage(directory.path).writers, 2u);
    }
  }
  test_context() = "failures: no descriptors";
  fault::set({{.point = "open", .match = ".index", .error = EMFILE}});
  CHECK_EQ(error_of([&] { Loaded loaded; load_all(directory.path, owned.folder(), loaded); }), EMFILE);
  fault::clear();
}

// What could not be asked is not believed: the next one asks again.
void a_look_that_failed(const std::string& base) {
  test_context() = "a look that failed";
  for (const char* point : {"open", "flock"}) {
    const Directory directory(base);
    const Owned owned(directory.path);
    fault::set({{.point = point, .match = "/owner", .error = EIO}});
    CHECK_EQ(usage(directory.path).writers, 0u);
    CHECK(fault::clear()[0] == 1);
    CHECK_EQ(usage(directory.path).writers, 1u);
  }
}

void a_lock_that_stays(const std::string& base) {
  test_context() = "a lock that stays";
  const Directory directory(base);
  const Owned owned(directory.path);
  const UniqueFd lock(::open((directory.path + "/segments/lock").c_str(), O_RDWR | O_CLOEXEC));
  CHECK_EQ(try_lock(lock.get(), false, ""), 0);
  CHECK_EQ(error_of([&] { owned.grant(); }), EBUSY);
}

// ---- damage ----

// Files cut, zeroed, flipped, replaced: at worst fewer pages, never another one, and never a failure that stays.
void damage(const std::string& base, int rounds) {
  const Directory directory(base);
  std::mt19937 random(12345);
  std::set<std::string> keys;
  std::string folder;
  const auto refill = [&] {
    Owned owned(directory.path);
    folder = owned.folder();
    Loaded loaded;
    load_all(directory.path, folder, loaded);
    while (loaded.segments.size() < 2) {
      const Granted granted = owned.grant();
      CHECK_EQ(std::string(granted.refused), "");
      loaded.segments.push_back({granted.id, granted.data_bytes, extent, granted.slots});
    }
    for (const LoadedSegment& segment : loaded.segments) {
      for (uint32_t slot = 0; slot < segment.slots; slot += 3) {
        // The key says where it is.
        const std::string key = hex(segment.id, 8) + "/" + std::to_string(slot) + "/" + std::to_string(segment.extent_bytes);
        put_record(owned.path(), segment.id, slot, page_record(segment.id, slot, key, 1, 1000, slot, "meta", segment.extent_bytes));
      }
    }
  };
  for (int round = 0; round < rounds; round++) {
    test_context() = "damage " + std::to_string(round);
    refill();
    std::vector<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(directory.path + "/segments")) {
      if (entry.is_regular_file() && entry.path().filename() != "FORMAT") files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    const std::string file = files[random() % files.size()];
    const uint64_t size = fs::file_size(file);
    switch (random() % 6) {
      case 0: fs::resize_file(file, size == 0 ? 0 : random() % size); break;
      case 1:
        // Records are near the beginning, so that is where it hurts.
        for (int i = 0; i < 20 && size > 0; i++) overwrite(file, (random() % 4 == 0 ? random() : random() % 40960) % size, "\xa5", 1);
        break;
      case 2: {
        const std::string zeros(4096, '\0');
        if (size > 0) overwrite(file, random() % size, zeros.data(), zeros.size());
        break;
      }
      case 3: {
        std::string noise(3000, '\0');
        for (char& c : noise) c = static_cast<char>(random());
        set_content(file, noise);
        break;
      }
      case 4: fs::remove(file); break;
      default:
        if (fs::path(file).filename() == "lock") break;  // everybody's: that is an error
        fs::remove(file);
        if (random() % 2 == 0) fs::create_directory(file);
        else fs::create_symlink("/dev/zero", file);
    }
    const auto look = [&](const std::string& where) {
      Loaded loaded;
      load_all(directory.path, where, loaded);
      for (const LoadedSegment& segment : loaded.segments) {
        CHECK(uint64_t{segment.slots} * segment.extent_bytes <= segment.data_bytes);
        const std::string pages = records(directory.path, where, segment.id);
        CHECK_EQ(pages.size() % slot_record::bytes, 0u);
        for (size_t from = 0; from < pages.size(); from += slot_record::bytes) {
          const auto* const record = reinterpret_cast<const uint8_t*>(pages.data()) + from;
          const std::string key(pages, from + at::key, slot_record::take<uint16_t>(record, at::key_length));
          CHECK_EQ(key, hex(segment.id, 8) + "/" + std::to_string(slot_record::take<uint32_t>(record, at::slot)) + "/" + std::to_string(segment.extent_bytes));
        }
      }
      poll(directory.path, "", {{where, 3}, {where, loaded.sequence}}, seed);
    };
    if (fs::exists(directory.path + "/segments/" + folder)) look(folder);
    {
      const Owned owned(directory.path);
      look(owned.folder());
      CHECK_EQ(std::string(owned.grant().refused), "");
      usage(directory.path);
    }
    // Only what somebody else put in the way may stay.
    if (round % 50 == 49) fs::remove_all(directory.path + "/segments");
  }
}

}  // namespace

int main(int argc, char** argv) {
  // What a test did not expect.
  std::set_terminate([] {
    try {
      std::rethrow_exception(std::current_exception());
    } catch (const Failure& failure) {
      check_failed(__FILE__, __LINE__, failure.what + ": " + errno_name(failure.error));
    } catch (...) {
      check_failed(__FILE__, __LINE__, "an exception");
    }
  });
  std::string base = std::string(argc > 1 ? argv[1] : "/tmp") + "/segments-test-XXXXXX";
  CHECK(::mkdtemp(base.data()) != nullptr);
  digests();
  names();
#if defined(__SANITIZE_THREAD__)
  constexpr bool alone = false;
#else
  constexpr bool alone = true;  // what one thread does is the other sanitizers' business
#endif
  // Those that start processes come before those that start threads.
  adoption(base);
  if (alone) broken_adoption(base);
  opening(base);
  formats(base);
  loading(base);
  polling(base);
  reassigning(base);
  capacity(base);
  if (alone) failures(base);
  damage(base, alone ? 120 : 10);
  a_look_that_failed(base);
  a_lock_that_stays(base);
  closing_ends_grants(base);
  grants_at_once(base);
  reading_at_once(base);
  fs::remove_all(base);
  std::printf("segments: ok\n");
  return 0;
}
