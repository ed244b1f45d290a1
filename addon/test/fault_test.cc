// The planned failures themselves: a specification of a rare branch is worth what these are worth.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "check.h"
#include "util/fault.h"

using namespace hicache;

static bool readable(int fd) {
  pollfd event{fd, POLLIN, 0};
  return poll(&event, 1, 0) == 1;
}

static void nothing_planned() {
  CHECK(!fault::planned);
  CHECK(!fault::ask("open", "a").hit);
  CHECK(fault::clear().empty());
}

static void matches_point_and_name() {
  fault::set({{.point = "open", .match = "key1", .error = EIO}, {.point = "pwritev", .times = 2, .error = ENOSPC}});
  CHECK(fault::planned);
  CHECK(!fault::ask("open", "d/key2").hit);
  CHECK(!fault::ask("preadv", "d/key1").hit);
  CHECK(!fault::ask("ope", "d/key1").hit);
  CHECK_EQ(fault::ask("open", "d/key1.bin").error, EIO);
  CHECK(!fault::ask("open", "d/key1.bin").hit);
  CHECK_EQ(fault::ask("pwritev", "any").error, ENOSPC);
  CHECK_EQ(fault::ask("pwritev", "").error, ENOSPC);
  CHECK(!fault::ask("pwritev", "any").hit);
  const auto struck = fault::clear();
  CHECK_EQ(struck.size(), 2u);
  CHECK_EQ(struck[0], 1);
  CHECK_EQ(struck[1], 2);
  CHECK(!fault::planned);
}

static void lets_some_pass() {
  fault::set({{.point = "stat", .after = 2, .times = 0, .short_bytes = 7}});
  CHECK(!fault::ask("stat", "a").hit);
  CHECK(!fault::ask("stat", "b").hit);
  for (int i = 0; i < 100; i++) CHECK_EQ(fault::ask("stat", "c").short_bytes, 7);
  CHECK_EQ(fault::clear()[0], 100);
}

static void a_spent_plan_leaves_the_next_one() {
  fault::set({{.point = "stat", .error = EIO}, {.point = "stat", .error = ENOENT}});
  CHECK_EQ(fault::ask("stat", "a").error, EIO);
  CHECK_EQ(fault::ask("stat", "a").error, ENOENT);
  CHECK(!fault::ask("stat", "a").hit);
  fault::clear();
}

static void a_hang_ends_with_its_plan_set() {
  for (bool by_clear : {true, false}) {
    fault::set({{.point = "open", .hang = true}});
    const fault::Strike strike = fault::ask("open", "a");
    CHECK(strike.hang);
    CHECK(!fault::released(strike));
    std::atomic<bool> through{false};
    std::thread blocked([&] {
      fault::wait_released(strike);
      CHECK(fault::released(strike));
      through = true;
    });
    CHECK(!through);
    if (by_clear) fault::clear();
    else fault::set({{.point = "open", .hang = true}});
    blocked.join();
    CHECK(through);
    fault::wait_released(strike);  // a released one does not block
  }
  fault::clear();
}

static void eventfds_ring_on_release() {
  const int one = eventfd(0, EFD_NONBLOCK), two = eventfd(0, EFD_NONBLOCK), three = eventfd(0, EFD_NONBLOCK);
  fault::set({{.point = "aio.complete", .times = 0, .hang = true}});
  const fault::Strike strike = fault::ask("aio.complete", "a");
  fault::wake_when_released(strike, one);
  fault::wake_when_released(strike, one);
  fault::wake_when_released(strike, two);
  fault::forget(two);
  CHECK(!readable(one));
  std::thread([] { fault::clear(); }).join();
  CHECK(readable(one));
  CHECK(!readable(two));
  eventfd_t count = 0;
  CHECK(eventfd_read(one, &count) == 0);
  CHECK_EQ(count, 1u);
  // Asked for after the release: it must not be waited for in vain.
  fault::wake_when_released(strike, three);
  CHECK(readable(three));
  for (int fd : {one, two, three}) close(fd);
}

static void many_threads_share_one_plan() {
  fault::set({{.point = "open", .after = 100, .times = 50, .error = EIO}});
  std::atomic<int> hits{0};
  std::thread threads[4];
  for (std::thread& thread : threads) {
    thread = std::thread([&] {
      for (int i = 0; i < 100; i++) hits += fault::ask("open", "a").hit;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(hits.load(), 50);
  CHECK_EQ(fault::clear()[0], 50);
}

int main() {
  nothing_planned();
  matches_point_and_name();
  lets_some_pass();
  a_spent_plan_leaves_the_next_one();
  a_hang_ends_with_its_plan_set();
  eventfds_ring_on_release();
  many_threads_share_one_plan();
  std::puts("fault_test: ok");
}
