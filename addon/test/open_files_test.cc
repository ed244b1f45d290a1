// The cache of open files: whoever looks a file up does not wait for the end of another one's registration, which may block.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "plugins/posix/open_files.h"
#include "test/check.h"

using namespace hicache;

namespace {

UniqueFd make(const std::string& path) { return UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT, 0600)); }

void ends_beside_look_ups(const std::string& folder) {
  OpenFiles* looked_up = nullptr;
  int ended = 0;
  // As a registration that takes its time: it ends when somebody else has looked a file up meanwhile.
  const auto register_file = [&](int) {
    return std::shared_ptr<void>(&ended, [&](void*) {
      std::promise<void> found;
      std::thread other([&] {
        looked_up->find("b", ".data", true, false);
        found.set_value();
      });
      const bool in_time = found.get_future().wait_for(std::chrono::seconds(60)) == std::future_status::ready;
      if (!in_time) {
        std::fprintf(stderr, "a look-up waits for the end of a registration\n");
        std::_Exit(1);
      }
      other.join();
      ended++;
    });
  };
  OpenFiles files(2, true, register_file);
  looked_up = &files;
  const std::string a = folder + "/open-files-a", b = folder + "/open-files-b", c = folder + "/open-files-c";
  files.add("a", ".data", true, false, make(a));
  files.add("b", ".data", true, false, make(b));
  CHECK(ended == 0);
  files.add("c", ".data", true, false, make(c));  // a is the oldest
  CHECK(ended == 1);
  files.add("c", ".data", true, false, make(c));  // another descriptor in the place of the first
  CHECK(ended == 2);
  ::unlink(c.c_str());
  CHECK(files.find("c", ".data", true, false) == nullptr);
  CHECK(ended == 3);
  for (const std::string& path : {a, b}) {
    ::unlink(path.c_str());
    CHECK(files.find(path == a ? "a" : "b", ".data", true, false) == nullptr);
  }
  CHECK(ended == 4);
}

}  // namespace

int main(int argc, char** argv) {
  ends_beside_look_ups(argc > 1 ? argv[1] : "/tmp");
  return 0;
}
