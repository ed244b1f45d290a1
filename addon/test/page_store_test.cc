// Pages on a real file system: what is written comes back whole or not at all, whoever else writes, reads, removes or dies meanwhile.
#include "pool/page_store.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "test/check.h"
#include "util/aligned_buffer.h"
#include "util/fault.h"

using namespace hicache;
namespace fs = std::filesystem;

namespace {

struct Payload {
  AlignedBuffer buffer;
  Memory memory;

  Payload(size_t length, uint8_t seed, size_t misalignment = 0) : buffer(round_up(length + misalignment + 1)) {
    memory = {buffer.data() + misalignment, length, nullptr};
    for (size_t i = 0; i < length; i++) memory.data[i] = static_cast<uint8_t>(i * 31 + (i >> 8) * 7 + seed);
  }
  bool operator==(const Payload& other) const {
    return memory.length == other.memory.length && std::memcmp(memory.data, other.memory.data, memory.length) == 0;
  }
};

Outcome read(PageStore& store, const char* name, std::string_view identity, const Memory& memory, uint32_t flags = 0) {
  PageRead read;
  read.page = {name, identity};
  read.flags = flags;
  read.memory = memory;
  return store.read(read);
}

void overwrite(const std::string& path, long offset, const std::string& bytes) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  CHECK(file.good());
  if (offset < 0) file.seekp(offset, std::ios::end);
  else file.seekp(offset);
  file << bytes;
}

// Temporaries of a store, which must all be gone when a write is over.
size_t temporaries(const PageStore& store) {
  const std::string folder = store.path() + "/" + std::string(temporary_folder);
  if (!fs::exists(folder)) return 0;
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

void plan(const char* point, int error, int64_t short_bytes = -1, int64_t times = 1) {
  fault::Plan one;
  one.point = point;
  one.error = error;
  one.short_bytes = short_bytes;
  one.times = times;
  fault::set({one});
}

void write_and_read(PageStore& store) {
  for (const size_t length : {0, 1, 4095, 4096, 4097, 65536, 70001, 1 << 20}) {
    for (const size_t misalignment : {0, 8}) {
      test_context() = std::to_string(length) + " bytes, misaligned by " + std::to_string(misalignment);
      const std::string name = "a" + std::to_string(length % 3) + "/page" + std::to_string(length) + "-" + std::to_string(misalignment);
      const Payload page(length, 1, misalignment), other(length, 2, misalignment);
      Payload target(length, 99, misalignment);
      const PageName whose{name.c_str(), "me"};
      CHECK(store.write(whose, "meta", page.memory, 0).status == Status::ok);
      CHECK(store.write(whose, "meta", page.memory, 0).status == Status::already_there);
      CHECK(store.write(whose, "meta", page.memory, flag::replace).status == Status::ok);
      const Outcome outcome = read(store, name.c_str(), "me", target.memory);
      CHECK(outcome.status == Status::ok);
      CHECK_EQ(outcome.length, length);
      CHECK(std::string(reinterpret_cast<const char*>(outcome.meta), outcome.meta_length) == "meta");
      CHECK(target == page);
      CHECK(read(store, name.c_str(), "you", target.memory).status == Status::identity);
      Payload larger(length + 1, 0, misalignment);
      const Outcome wrong = read(store, name.c_str(), "me", larger.memory, flag::accept_unverified);
      CHECK(wrong.status == Status::length);
      CHECK_EQ(wrong.length, length);
      CHECK(store.check(whose, 0).status == Status::ok);
      CHECK(store.check({name.c_str(), "you"}, 0).status == Status::identity);
      // Other bytes, then another owner: the last writer wins, and says so.
      if (length > 0) {
        CHECK(store.write(whose, "meta", other.memory, 0).status == Status::ok);
        CHECK(read(store, name.c_str(), "me", target.memory).status == Status::ok && target == other);
      }
      CHECK(store.write({name.c_str(), "you"}, "", page.memory, 0).status == Status::ok);
      CHECK(read(store, name.c_str(), "me", target.memory).status == Status::identity);
      CHECK(store.remove(whose, 0).status == Status::identity);
      CHECK(store.remove({name.c_str(), "you"}, 0).status == Status::ok);
      CHECK(store.remove({name.c_str(), "you"}, 0).status == Status::absent);
      CHECK(read(store, name.c_str(), "you", target.memory).status == Status::absent);
      CHECK_EQ(temporaries(store), 0u);
    }
  }
}

// Each byte range of a file: changed or cut off, it is never a hit, and never somebody else's file that is dropped.
void corruption(PageStore& store) {
  constexpr size_t length = 10000;
  const Payload page(length, 3);
  Payload target(length, 0);
  const PageName whose{"broken", "me"};
  const std::string path = store.path() + "/broken";
  for (const long at : {0L, 4096L, 9999L, -4096L + 16, -4096L + 24, -4096L + 64, -1L}) {
    test_context() = "changed at " + std::to_string(at);
    CHECK(store.write(whose, "", page.memory, flag::replace).status == Status::ok);
    char old = 0;
    std::ifstream in(path, std::ios::binary);
    in.seekg(at < 0 ? static_cast<long>(page_file_bytes(length)) + at : at);
    in.get(old);
    overwrite(path, at, std::string(1, static_cast<char>(old ^ 0x10)));
    CHECK(read(store, "broken", "me", target.memory).status == Status::corrupt);
    CHECK(fs::exists(path));
    CHECK(read(store, "broken", "me", target.memory, flag::accept_unverified | flag::drop_corrupt).status == Status::corrupt);
    CHECK(!fs::exists(path));
  }
  for (const uintmax_t left : {0, 1, 4096, 8192, 10000, 12288, 16383}) {
    test_context() = "cut to " + std::to_string(left);
    CHECK(store.write(whose, "", page.memory, flag::replace).status == Status::ok);
    fs::resize_file(path, left);
    const Status status = read(store, "broken", "me", target.memory, flag::drop_corrupt).status;
    CHECK(status == Status::corrupt || status == Status::length);
    CHECK(fs::exists(path));  // nothing says that it was ours
    CHECK(store.write(whose, "", page.memory, 0).status == Status::ok);
    CHECK(read(store, "broken", "me", target.memory).status == Status::ok && target == page);
  }
  // A later version: not read, not replaced, not dropped, not removed unless by force.
  overwrite(path, -4096 + 8, std::string(1, 2));
  CHECK_EQ(read(store, "broken", "me", target.memory, flag::drop_corrupt).error, EPROTONOSUPPORT);
  CHECK_EQ(store.write(whose, "", page.memory, flag::replace).error, EPROTONOSUPPORT);
  CHECK_EQ(store.remove(whose, 0).error, EPROTONOSUPPORT);
  CHECK(fs::exists(path));
  CHECK(store.remove(whose, flag::force).status == Status::ok);
}

void foreign_files(PageStore& store) {
  for (const size_t length : {size_t{100}, size_t{8192}}) {
    const Payload page(length, 5);
    Payload target(length, 0);
    std::ofstream(store.path() + "/python", std::ios::binary).write(reinterpret_cast<const char*>(page.memory.data), static_cast<long>(length));
    CHECK(read(store, "python", "me", target.memory).status == Status::corrupt);
    CHECK(read(store, "python", "me", target.memory, flag::accept_unverified | flag::drop_corrupt).status == Status::unverified);
    CHECK(target == page);
    Payload other(length - 1, 0);
    const Outcome outcome = read(store, "python", "me", other.memory, flag::accept_unverified);
    CHECK(outcome.status == Status::length);
    CHECK_EQ(outcome.length, length);
    CHECK(store.check({"python", "me"}, 0).status == Status::corrupt);
    CHECK(store.check({"python", "me"}, flag::accept_unverified).status == Status::unverified);
  }
  // A page of ours is as long as a foreign file of one block more, and is not taken for it.
  const Payload page(4096, 6);
  Payload target(8192, 0);
  CHECK(store.write({"python", "me"}, "", page.memory, 0).status == Status::ok);
  CHECK(read(store, "python", "me", target.memory, flag::accept_unverified).status == Status::length);
  CHECK(read(store, "python", "you", target.memory, flag::accept_unverified).status == Status::identity);
  CHECK(store.remove({"python", "me"}, 0).status == Status::ok);

  // Neither links nor pipes nor folders are followed, opened or waited for; a write takes the place of the first two.
  const std::string outside = store.path() + "-outside";
  std::ofstream(outside) << std::string(4096, 'x');
  fs::create_symlink(outside, store.path() + "/link");
  CHECK_EQ(read(store, "link", "me", page.memory, flag::accept_unverified).error, ELOOP);
  CHECK(store.write({"link", "me"}, "", page.memory, 0).status == Status::ok);
  CHECK(!fs::is_symlink(store.path() + "/link"));
  CHECK_EQ(fs::file_size(outside), 4096u);
  CHECK_EQ(::mkfifo((store.path() + "/pipe").c_str(), 0600), 0);
  CHECK(read(store, "pipe", "me", page.memory).status == Status::error);
  CHECK(store.write({"pipe", "me"}, "", page.memory, 0).status == Status::ok);
  fs::create_directory(store.path() + "/folder");
  CHECK_EQ(read(store, "folder", "me", page.memory).error, EISDIR);
  CHECK(store.write({"folder", "me"}, "", page.memory, 0).status == Status::error);
  CHECK_EQ(temporaries(store), 0u);
  // A folder that is a link leads out of the directory: refused.
  fs::create_directory(outside + "-folder");
  fs::create_directory_symlink(outside + "-folder", store.path() + "/out");
  CHECK(store.write({"out/page", "me"}, "", page.memory, 0).status == Status::error);
  CHECK(fs::is_empty(outside + "-folder"));
  fs::remove_all(outside);
  fs::remove_all(outside + "-folder");
  fs::remove_all(store.path() + "/out");

  CHECK(!valid_name("") && !valid_name("/a") && !valid_name("a/") && !valid_name("a//b") && !valid_name("../a") && !valid_name("a/../b") && !valid_name("."));
  CHECK(!valid_name(std::string_view("a\0b", 3)) && !valid_name(std::string(256, 'a')) && !valid_name(std::string(temporary_prefix) + "x"));
  CHECK(valid_name(std::string(255, 'a')) && valid_name("d1/..a") && valid_folder("") && !valid_folder(".."));
}

void failures(PageStore& store) {
  constexpr size_t length = 70001;
  const Payload page(length, 7), newer(length, 8);
  Payload target(length, 0);
  const PageName whose{"f/page", "me"};
  fs::remove_all(store.path() + "/f");
  // A new page, and then one that takes another's place: what fails leaves what was there, and no temporary.
  for (const char* point : {"mkdir", "open", "pwritev", "link"}) {
    test_context() = std::string("new, ") + point;
    plan(point, EIO);
    const Outcome outcome = store.write({"f/new", "me"}, "", page.memory, 0);
    CHECK_EQ(fault::clear()[0], 1);
    CHECK_EQ(outcome.error, EIO);
    CHECK(!fs::exists(store.path() + "/f/new"));
  }
  CHECK(store.write(whose, "", page.memory, 0).status == Status::ok);
  for (const char* point : {"open", "stat", "pwritev", "flock", "link", "rename"}) {
    test_context() = std::string("replaced, ") + point;
    plan(point, ENOSPC);
    const Outcome outcome = store.write(whose, "", newer.memory, 0);
    CHECK_EQ(fault::clear()[0], 1);
    CHECK_EQ(outcome.error, ENOSPC);
    CHECK(read(store, "f/page", "me", target.memory).status == Status::ok && target == page);
    CHECK_EQ(temporaries(store), 0u);
  }
  // Short transfers and interruptions are continued.
  for (const int64_t piece : {1, 4096, 5000}) {
    test_context() = "pieces of " + std::to_string(piece);
    plan("pwritev", 0, piece, 5);
    CHECK(store.write(whose, "", newer.memory, flag::replace).status == Status::ok);
    CHECK_EQ(fault::clear()[0], 5);
    plan("preadv", 0, piece, 5);
    target = Payload(length, 0);
    CHECK(read(store, "f/page", "me", target.memory).status == Status::ok && target == newer);
    CHECK_EQ(fault::clear()[0], 5);
  }
  for (const char* point : {"pwritev", "open", "flock", "link", "rename"}) {
    test_context() = std::string("interrupted, ") + point;
    plan(point, EINTR);
    CHECK(store.write(whose, "", page.memory, flag::replace).status == Status::ok);
    CHECK_EQ(fault::clear()[0], 1);
  }
  // A file that ends while it is read.
  plan("preadv", 0, 0);
  CHECK(read(store, "f/page", "me", target.memory).status == Status::corrupt);
  fault::clear();
  // Without O_TMPFILE: named temporaries.
  PageStore plain(store.path(), store.direct());
  plan("open", EOPNOTSUPP);
  fault::Plan second;
  second.point = "open";
  second.error = EOPNOTSUPP;
  second.after = 2;  // the look for the page, then its folder
  fault::set({second});
  for (int i = 0; i < 3; i++) {
    CHECK(plain.write(whose, std::to_string(i), page.memory, 0).status == Status::ok);
    CHECK(read(plain, "f/page", "me", target.memory).status == Status::ok && target == page);
  }
  fault::clear();
  CHECK_EQ(temporaries(store), 0u);
}

// Folders, and the directory itself, that are removed under a store that holds them open.
void vanishing(PageStore& store) {
  const Payload page(5000, 9);
  Payload target(5000, 0);
  const PageName whose{"v/page", "me"};
  CHECK(store.write(whose, "", page.memory, 0).status == Status::ok);
  fs::remove_all(store.path() + "/v");
  CHECK(read(store, "v/page", "me", target.memory).status == Status::absent);
  CHECK(store.write(whose, "", page.memory, 0).status == Status::ok);
  fs::remove_all(store.path() + "/v");
  CHECK(store.write(whose, "", page.memory, 0).status == Status::ok);
  fs::remove_all(store.path());
  CHECK_EQ(read(store, "v/page", "me", target.memory).error, ENOENT);
  CHECK_EQ(store.write(whose, "", page.memory, 0).error, ENOENT);
  fs::create_directory(store.path());
  CHECK(read(store, "v/page", "me", target.memory).status == Status::absent);
  CHECK(store.write(whose, "", page.memory, 0).status == Status::ok);
  CHECK(read(store, "v/page", "me", target.memory).status == Status::ok);
}

void listing(PageStore& store) {
  fs::remove_all(store.path() + "/l");
  const Payload page(5000, 9);
  CHECK(store.write({"l/one", "me"}, "m", page.memory, 0).status == Status::ok);
  CHECK(store.write({"l/two", "me"}, "m", page.memory, 0).status == Status::ok);
  overwrite(store.path() + "/l/two", -100, "x");
  std::ofstream(store.path() + "/l/three") << "python";
  std::ofstream(store.path() + "/l/.hicache-nixl-tmp-x") << "left";
  fs::create_directory(store.path() + "/l/folder");
  std::vector<ListedFile> files;
  CHECK_EQ(store.list("l", true, files), 0);
  CHECK_EQ(files.size(), 3u);
  for (const ListedFile& file : files) {
    if (file.name == "one") CHECK(file.record == RecordState::whole && file.payload_length == 5000 && file.identity == "me" && file.meta == "m" && file.size == 12288);
    if (file.name == "two") CHECK(file.record == RecordState::damaged);
    if (file.name == "three") CHECK(file.record == RecordState::none && file.size == 6);
  }
  files.clear();
  CHECK_EQ(store.list("nowhere", false, files), 0);
  CHECK(files.empty());
}

// A temporary whose writer lives is locked and stays; those of the dead go.
void sweeping(PageStore& store) {
  fs::remove_all(store.path() + "/s");
  fs::create_directory(store.path() + "/s");
  const std::string prefix = store.path() + "/s/" + std::string(temporary_prefix);
  int ready[2];
  CHECK_EQ(::pipe2(ready, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    // Only calls that are safe in the child of a program with threads.
    const int fd = ::open((prefix + "living").c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || ::flock(fd, LOCK_EX) != 0 || ::write(ready[1], "x", 1) != 1) ::_exit(1);
    while (true) ::pause();
  }
  char byte;
  CHECK_EQ(::read(ready[0], &byte, 1), 1);
  std::ofstream(prefix + "dead") << "left";
  std::ofstream(store.path() + "/s/page") << "not ours to sweep";
  size_t removed = 0;
  CHECK_EQ(store.sweep("s", removed), 0);
  CHECK_EQ(removed, 1u);
  CHECK(fs::exists(prefix + "living") && !fs::exists(prefix + "dead"));
  CHECK_EQ(::kill(child, SIGKILL), 0);
  CHECK_EQ(::waitpid(child, nullptr, 0), child);
  CHECK_EQ(store.sweep("s", removed), 0);
  CHECK_EQ(removed, 1u);
  CHECK(!fs::exists(prefix + "living") && fs::exists(store.path() + "/s/page"));
  ::close(ready[0]);
  ::close(ready[1]);
}

// Writers, replacers, removers, sweepers and readers of the same names: a reader meets one version, whole, or none.
void everyone_at_once(PageStore& store) {
  constexpr size_t length = 9000;
  constexpr int rounds = 150;
  std::vector<Payload> versions;
  for (int i = 0; i < 4; i++) versions.emplace_back(length, static_cast<uint8_t>(i * 40));
  std::atomic<int> hits{0}, writers{4};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < rounds; round++) {
        const std::string name = "e/page" + std::to_string(round % 3);
        const Status status = store.write({name.c_str(), "me"}, "", versions[static_cast<size_t>(i)].memory, round % 2 == 0 ? flag::replace : 0).status;
        CHECK(status == Status::ok || status == Status::already_there);
        if (i == 0 && round % 10 == 0) store.remove({name.c_str(), "me"}, 0);
        size_t removed = 0;
        if (i == 1 && round % 10 == 0) CHECK_EQ(store.sweep(temporary_folder, removed), 0);
        CHECK_EQ(removed, 0u);
      }
      writers--;
    });
  }
  for (int i = 0; i < 2; i++) {
    threads.emplace_back([&] {
      Payload target(length, 0);
      // To the end of the writers and once more, so that there is something to hit however the threads are scheduled.
      for (int round = 0, last = 0; last < 3; round++) {
        if (writers == 0) last++;
        const std::string name = "e/page" + std::to_string(round % 3);
        const Status status = read(store, name.c_str(), "me", target.memory).status;
        CHECK(status == Status::ok || status == Status::absent);
        if (status != Status::ok) continue;
        bool known = false;
        for (const Payload& version : versions) known = known || target == version;
        CHECK(known);
        hits++;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(hits > 0);
  CHECK_EQ(temporaries(store), 0u);
}

}  // namespace

int main(int argc, char** argv) {
  std::string base = std::string(argc > 1 ? argv[1] : "/tmp") + "/page-store-test-XXXXXX";
  CHECK(::mkdtemp(base.data()) != nullptr);
  const int probe = ::open(base.c_str(), O_TMPFILE | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600);
  if (probe >= 0) ::close(probe);
  for (const bool direct : {false, true}) {
    if (direct && probe < 0) continue;
    const std::string path = base + (direct ? "/direct" : "/buffered");
    fs::create_directory(path);
    {
      PageStore store(path, direct);
      sweeping(store);
      write_and_read(store);
      corruption(store);
      foreign_files(store);
      failures(store);
      listing(store);
      everyone_at_once(store);
      vanishing(store);
    }
    std::printf("page store, %s: ok\n", direct ? "O_DIRECT" : "buffered");
  }
  fs::remove_all(base);
  return 0;
}
