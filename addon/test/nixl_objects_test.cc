// Pages as objects of NIXL's, over the stand-in of its C library ($HICACHE_STAND_INS/libnixl_capi.so), whose objects are files below argv[1] (or $TMPDIR, or /tmp): every operation, every fault that the
// stand-in knows. It shows that our side holds against what we know of NIXL, and nothing about NIXL.
#include <dirent.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

#include "plugins/nixl/nixl_object_lane.h"
#include "plugins/nixl/nixl_objects.h"
#include "pool/record.h"
#include "test/check.h"
#include "test/knobs.h"
#include "test/page_bench.h"
#include "test/tiny_s3.h"

using namespace hicache;

namespace {

constexpr size_t memory_slot_bytes = 12 << 20, memory_slots = 4;
std::string folder;
Knobs* knobs;

nixl::ObjectsOptions plugin(const char* name, int64_t timeout_ms = 60'000) {
  nixl::ObjectsOptions options;
  options.plugin = name;
  options.parameters = {{"colour", "red"}};
  options.timeout_ms = timeout_ms;
  return options;
}
std::unique_ptr<Plugin> make(const nixl::ObjectsOptions& options, std::unique_ptr<ObjectPlugin> beside = nullptr) {
  Refusal refusal;
  auto made = nixl::try_create_objects_plugin(options, std::move(beside), refusal);
  if (made == nullptr) check_failed(__FILE__, __LINE__, refusal.reason + ": " + refusal.remedy);
  return made;
}

struct Bench : PageBench {
  explicit Bench(const nixl::ObjectsOptions& options = plugin("OBJ"), std::unique_ptr<ObjectPlugin> beside = nullptr)
      : PageBench(memory_slot_bytes, memory_slots, make(options, std::move(beside))) {}
  ~Bench() {
    process_until([&] { return agent->idle(); });
    agent.reset();
    for (const char* name : {"fault.short_io", "fault.io_error", "fault.lost_write", "fault.torn_write", "fault.query", "param.strict_end", "param.polls"}) knobs->set(name, 0);
    // Nothing is left of the library's, whatever happened.
    for (const char* name : {"count.agents", "count.backends", "count.requests", "count.registrations", "count.in_flight"}) {
      test_context() += std::string(", ") + name;
      CHECK_EQ(knobs->get(name), 0);
    }
  }
};

std::string path_of(const std::string& name) { return folder + "/" + name; }
std::string stored(const std::string& name) {
  std::string content;
  FILE* const open = std::fopen(path_of(name).c_str(), "rb");
  if (open == nullptr) return content;
  char part[65536];
  for (size_t count; (count = std::fread(part, 1, sizeof(part), open)) > 0;) content.append(part, count);
  std::fclose(open);
  return content;
}
void store(const std::string& name, const std::string& content) {
  FILE* const open = std::fopen(path_of(name).c_str(), "wb");
  CHECK(open != nullptr);
  CHECK_EQ(std::fwrite(content.data(), 1, content.size(), open), content.size());
  std::fclose(open);
}
void clear() {
  DIR* const open = ::opendir(folder.c_str());
  CHECK(open != nullptr);
  while (const dirent* entry = ::readdir(open)) {
    if (entry->d_name[0] != '.') ::unlink(path_of(entry->d_name).c_str());
  }
  ::closedir(open);
}

void pages_there_and_back(const char* name) {
  Bench bench(plugin(name));
  size_t number = 0;
  for (const size_t length : {size_t{0}, size_t{1}, size_t{7}, size_t{8}, size_t{9}, size_t{4095}, size_t{4096}, size_t{4097}, size_t{65'536}, size_t{100'001}, size_t{9'000'000}}) {
    const std::string page = "page-" + std::to_string(number++);
    bench.fill(0, length, 1);
    bench.fill(1, length, 99);
    bench.fill(2, length, 2);
    bench.expect(read(page, 1, length), Status::absent);
    bench.expect(check(page), Status::absent);
    bench.expect(write(page, 0, length), Status::ok);
    CHECK_EQ(stored(page).size(), page_file_bytes(length));
    CHECK(length == 0 || std::memcmp(stored(page).data(), bench.slot(0), length) == 0);
    bench.expect(check(page), Status::unverified);
    const auto answer = bench.expect(read(page, 1, length), Status::ok);
    CHECK(answer->length() == length && answer->metas[0] == "meta" && bench.same(0, 1, length));
    // The same once more, and another one.
    bench.expect(write(page, 0, length, flag::compare_first), Status::already_there);
    bench.expect(write(page, 0, length), Status::ok);
    if (length > 0) bench.expect(write(page, 2, length, flag::compare_first), Status::ok);
    if (length > 0) bench.expect(write(page, 2, length, flag::compare_first | flag::replace), Status::ok);
    bench.expect(read(page, 1, length), Status::ok);
    CHECK(bench.same(length > 0 ? 2 : 0, 1, length));
    bench.expect(of_you(read(page, 1, length)), Status::identity);
  }
  // Another length: known where the record is found by the way, else not.
  bench.expect(write("long", 0, 100'000), Status::ok);
  CHECK_EQ(bench.expect(read("long", 1, 99'999), Status::length)->length(), 100'000u);
  CHECK_EQ(bench.expect(read("long", 1, 50'000), Status::length)->length(), 0u);
  CHECK_EQ(bench.expect(read("long", 1, 500'000), Status::length)->length(), 0u);
  // An object that is longer than it was is written whole; so is one that is shorter, and whose record nobody finds.
  bench.expect(write("long", 0, 10'000, flag::compare_first), Status::ok);
  bench.expect(write("long", 0, 200'000, flag::compare_first), Status::ok);
  bench.expect(read("long", 1, 200'000), Status::ok);
  bench.expect({Op::page_delete, "long"}, Status::error);
  bench.expect({Op::page_touch, "long"}, Status::error);
}

void others_objects() {
  Bench bench;
  const std::string text(70'000, 'x');
  store("foreign", text);
  bench.expect(read("foreign", 1, 70'000), Status::absent);
  CHECK_EQ(bench.expect(read("foreign", 1, 70'000, flag::accept_unverified), Status::unverified)->length(), 70'000u);
  CHECK(std::memcmp(bench.slot(1), text.data(), text.size()) == 0);
  // Neither a part of one, nor one that is too short.
  for (const size_t length : {size_t{1}, size_t{69'990}, size_t{69'999}, size_t{70'001}, size_t{70'008}, size_t{200'000}}) bench.expect(read("foreign", 1, length, flag::accept_unverified), Status::length);
  // A plugin that fails a read past the end cannot read them at all.
  knobs->set("param.strict_end", 1);
  bench.expect(read("foreign", 1, 70'000, flag::accept_unverified), Status::unavailable);
  bench.expect(write("own", 0, 70'000), Status::ok);
  bench.expect(read("own", 1, 70'000), Status::ok);
}

void damage() {
  Bench bench;
  bench.fill(0, 70'000, 3);
  const auto altered = [&](size_t at) {
    bench.expect(write("page", 0, 70'000, flag::replace), Status::ok);
    std::string content = stored("page");
    content[at] = static_cast<char>(content[at] ^ 1);
    store("page", content);
  };
  const size_t record = page_file_bytes(70'000) - record_bytes;
  for (const size_t at : {size_t{0}, size_t{69'999}, record + 16, record + 30, record + 64, record + 4095}) {
    altered(at);
    bench.expect(read("page", 1, 70'000, flag::accept_unverified), Status::corrupt);
    bench.expect(write("page", 0, 70'000), Status::ok);
    bench.expect(read("page", 1, 70'000), Status::ok);
  }
  // Who does not want the checksum gets the bytes.
  altered(5);
  bench.expect(read("page", 1, 70'000, flag::skip_checksum), Status::ok);
  // Without its magic it is anybody's, and too long for what is asked.
  altered(record);
  bench.expect(read("page", 1, 70'000, flag::accept_unverified), Status::length);
  // Of a version to come: neither read nor, where it is looked at, replaced.
  bench.expect(write("page", 0, 70'000, flag::replace), Status::ok);
  std::string content = stored("page");
  content[record + 8] = 2;
  store("page", content);
  CHECK_EQ(bench.expect(read("page", 1, 70'000), Status::error)->error(), EPROTONOSUPPORT);
  CHECK_EQ(bench.expect(write("page", 0, 70'000, flag::compare_first), Status::error)->error(), EPROTONOSUPPORT);
  // Cut off anywhere.
  for (const size_t length : {size_t{0}, size_t{1}, size_t{30'000}, size_t{69'999}, size_t{70'001}, record, record + 1, record + 4095}) {
    bench.expect(write("page", 0, 70'000, flag::replace), Status::ok);
    store("page", stored("page").substr(0, length));
    const Status status = bench.run({read("page", 1, 70'000)})->status();
    CHECK(status != Status::ok && status != Status::unverified);
  }
}

void short_reads() {
  Bench bench;
  bench.fill(0, 70'000, 4);
  bench.expect(write("page", 0, 70'000), Status::ok);
  knobs->set("fault.short_io", 1);
  bench.expect(read("page", 1, 70'000), Status::ok);
  CHECK(bench.same(0, 1, 70'000));
  knobs->set("fault.short_io", -1);
  for (const uint32_t flags : {0u, flag::accept_unverified}) bench.expect(read("page", 1, 70'000, flags), Status::length);
  knobs->set("fault.short_io", 0);
  bench.expect(read("page", 1, 70'000), Status::ok);
}

void writes_that_are_none() {
  Bench bench;
  bench.fill(0, 70'000, 5);
  knobs->set("fault.lost_write", 1);
  bench.expect(write("lost", 0, 70'000), Status::ok);
  bench.expect(read("lost", 1, 70'000), Status::absent);
  knobs->set("fault.torn_write", 1);
  bench.expect(write("torn", 0, 70'000), Status::ok);
  bench.expect(read("torn", 1, 70'000, flag::accept_unverified), Status::length);
  bench.expect(write("torn", 0, 70'000, flag::compare_first), Status::ok);
  bench.expect(read("torn", 1, 70'000), Status::ok);
}

void errors() {
  Bench bench;
  bench.fill(0, 70'000, 6);
  bench.expect(write("page", 0, 70'000), Status::ok);
  for (const char* fault : {"fault.io_error", "fault.create_request", "fault.post", "fault.register_file"}) {
    test_context() = fault;
    const int64_t made = knobs->get("count.agents_made");
    knobs->set(fault, 1);
    bench.expect(write("other", 0, 70'000), Status::ok);
    knobs->set(fault, 1);
    bench.expect(read("page", 1, 70'000), Status::ok);
    CHECK(bench.same(0, 1, 70'000));
    // What nothing explains costs the agent.
    CHECK(knobs->get("count.agents_made") >= made + 2);
    knobs->set(fault, -1);
    const auto answer = bench.run({write("other", 0, 70'000), read("page", 1, 70'000)});
    CHECK(answer->status(0) == Status::unavailable && answer->status(1) == Status::unavailable);
    CHECK(answer->metas[0].find("OBJ") != std::string::npos && answer->metas[0].find("answered -2") + answer->metas[0].find("ended with -2") != 2 * std::string::npos);
    knobs->set(fault, 0);
    bench.expect(read("page", 1, 70'000), Status::ok);
  }
  knobs->set("fault.query", 1);
  bench.expect(check("page"), Status::unverified);
  knobs->set("fault.query", -1);
  bench.expect(check("page"), Status::unavailable);
  bench.expect(write("page", 0, 70'000, flag::compare_first), Status::unavailable);
  bench.expect(read("nowhere", 1, 70'000), Status::unavailable);
  knobs->set("fault.query", 0);
  bench.expect(check("page"), Status::unverified);
  bench.expect(read("nowhere", 1, 70'000), Status::absent);
}

void no_agents() {
  Bench bench;
  bench.fill(0, 70'000, 7);
  bench.expect(write("page", 0, 70'000), Status::ok);
  knobs->set("fault.create_backend", -1);
  knobs->set("fault.io_error", 1);
  bench.expect(read("page", 1, 70'000), Status::unavailable);
  knobs->set("fault.create_backend", 0);
  // After a pause.
  bench.process_until([&] { return bench.run({read("page", 1, 70'000)})->status() == Status::ok; });
  knobs->set("fault.create_agent", 1);
  Refusal refusal;
  CHECK(nixl::try_create_objects_plugin(plugin("OBJ"), nullptr, refusal) == nullptr);
  CHECK(refusal.reason.find("create_configured_agent") != std::string::npos);
  CHECK(nixl::try_create_objects_plugin(plugin("POSIX"), nullptr, refusal) == nullptr);
  CHECK(refusal.reason.find("does not move objects") != std::string::npos);
  CHECK(nixl::try_create_objects_plugin(plugin("NOTHING"), nullptr, refusal) == nullptr);
  nixl::ObjectsOptions secret = plugin("OBJ");
  secret.parameters = {{"crtMinLimit", "many"}, {"secret_key", "do not say"}};
  CHECK(nixl::try_create_objects_plugin(secret, nullptr, refusal) == nullptr);
  CHECK(refusal.reason.find("crtMinLimit=many") != std::string::npos && refusal.reason.find("do not say") == std::string::npos);
}

// More than fit into the slots, more than may be in flight, and every page its own answer.
void many() {
  knobs->set("count.in_flight_max", 0);
  knobs->set("param.polls", 3);
  Bench bench;
  bench.fill(0, memory_slot_bytes, 8);
  std::vector<PageAsk> writes, reads, checks;
  for (int i = 0; i < 20; i++) writes.push_back(write("large-" + std::to_string(i), 0, memory_slot_bytes - 4096));
  for (int i = 0; i < 100; i++) writes.push_back(write("small-" + std::to_string(i), 0, 4096));
  for (const PageAsk& ask : writes) reads.push_back(read(ask.name, 1, ask.length));
  for (const PageAsk& ask : writes) checks.push_back(check(ask.name));
  checks.push_back(check("nowhere"));
  const auto written = bench.run(writes);
  for (size_t i = 0; i < writes.size(); i++) CHECK(written->status(i) == Status::ok);
  const auto got = bench.run(reads);
  for (size_t i = 0; i < reads.size(); i++) CHECK(got->status(i) == Status::ok);
  const int64_t queries = knobs->get("count.queries");
  const auto checked = bench.run(checks);
  for (size_t i = 0; i < checks.size(); i++) CHECK(checked->status(i) == (checks[i].name == "nowhere" ? Status::absent : Status::unverified));
  CHECK(knobs->get("count.queries") - queries <= 4);
  CHECK(knobs->get("count.in_flight_max") > 1 && knobs->get("count.in_flight_max") <= 256);
  clear();
}

void hangs() {
  {
    Bench bench(plugin("OBJ", 50));
    bench.fill(0, 70'000, 9);
    bench.expect(write("page", 0, 70'000), Status::ok);
    // Called off: the caller has its memory back at once, whatever the library does.
    knobs->set("fault.hang", 1);
    size_t first;
    auto answer = bench.submit({read("page", 1, 70'000)}, first);
    bench.process_until([&] { return knobs->get("fault.hang") == 0; });
    bench.call_off(first);
    bench.process_until([&] { return answer->there && bench.agent->idle(); });
    CHECK_EQ(bench.state(first), word_state::done);
    bench.fill(1, 70'000, 77);
    bench.expect(read("page", 2, 70'000), Status::ok);
    // At its deadline, and its agent is given up; the next page has another one.
    for (int i = 0; i < 3; i++) {
      knobs->set("fault.hang", 1);
      CHECK(bench.expect(write("hung", 0, 70'000), Status::unavailable)->metas[0].find("did not end within 50 ms") != std::string::npos);
      bench.expect(read("page", 2, 70'000), Status::ok);
    }
    // As many as are waited for.
    knobs->set("fault.hang", -1);
    bench.process_until([&] { return bench.run({read("page", 2, 70'000)})->status() == Status::unavailable; });
    knobs->set("fault.hang", 0);
    knobs->set("param.release", 1);
    bench.process_until([&] { return bench.run({read("page", 2, 70'000)})->status() == Status::ok; });
    // What came late went where nobody is.
    bench.fill(3, 70'000, 77);
    CHECK(bench.same(1, 3, 70'000));
  }
  knobs->set("param.release", 0);
  {
    // A question that never comes back has a thread to itself. Those that wait behind it are answered by another one.
    Bench bench(plugin("OBJ", 50));
    bench.expect(write("page", 0, 70'000), Status::ok);
    knobs->set("fault.query_hangs", 1);
    size_t first;
    const auto hung = bench.submit({check("page")}, first);
    bench.process_until([&] { return knobs->get("fault.query_hangs") == 0; });
    bench.expect(read("page", 1, 70'000), Status::ok);
    std::vector<std::shared_ptr<AgentBench::Answer>> answers;
    bench.process_until([&] {
      if (answers.size() < 100) {
        size_t word;
        answers.push_back(bench.submit({check("page")}, word));
      }
      return answers.back()->there;
    });
    for (const auto& answer : answers) {
      bench.process_until([&] { return answer->there; });
      CHECK(answer->status() == Status::unverified);
    }
    CHECK(hung->there && hung->status() == Status::unavailable);
    knobs->set("param.release", 1);
    bench.process_until([&] { return knobs->get("count.agents") == 2; });
  }
  knobs->set("param.release", 0);
}

void measures() {
  Bench bench(plugin("BLOBS"));
  const auto measured = [&](const std::string& name, uint32_t flags = 0) { return bench.run({check(name, flags | flag::force)}); };
  CHECK(measured("absent")->status() == Status::absent);
  // Around the borders of the windows, too.
  for (const size_t length : {size_t{0}, size_t{1}, size_t{4096}, size_t{61'440}, size_t{61'441}, size_t{65'536}, size_t{70'000}, size_t{180'224}, size_t{184'320}, size_t{184'321}, size_t{11'000'000}}) {
    bench.fill(0, length, 10);
    const std::string page = "page-" + std::to_string(length);
    bench.expect(write(page, 0, length), Status::ok);
    const auto answer = measured(page);
    test_context() = page + ": status " + std::to_string(static_cast<int>(answer->status())) + ", length " + std::to_string(answer->length()) + " " + answer->metas[0];
    CHECK(answer->status() == Status::ok && answer->length() == length && answer->metas[0] == "meta");
    bench.expect(of_you(check(page, flag::force)), Status::identity);
  }
  store("foreign", std::string(100'000, 'x'));
  CHECK(measured("foreign")->status() == Status::absent);
  CHECK(measured("foreign", flag::accept_unverified)->status() == Status::unverified);
}

// Deletes, and what a page is, go by HTTP where there is somebody for it. A batch may have both.
void beside() {
  Refusal none;
  if (curl::load(none) == nullptr) return;
  TinyS3 server;
  ObjectOptions options;
  options.endpoint = server.endpoint();
  options.region = "us-east-1";
  options.bucket = "bucket";
  auto http = try_create_obj_plugin(options, none);
  CHECK(http != nullptr);
  Bench bench(plugin("OBJ"), std::move(http));
  bench.fill(0, 70'000, 11);
  bench.expect(write("page", 0, 70'000), Status::ok);
  server.change("/bucket/page", [&](TinyS3::Object& object) { object.body = stored("page"); });
  const auto checked = bench.expect(check("page", flag::force), Status::ok);
  CHECK(checked->length() == 70'000 && checked->metas[0] == "meta");
  const auto answer = bench.run({write("other", 0, 70'000), {Op::page_delete, "page"}, read("page", 1, 70'000), check("page"), check("page", flag::force), {Op::page_delete, "nowhere"}});
  CHECK(answer->status(0) == Status::ok && answer->status(1) == Status::ok && answer->status(2) == Status::ok && answer->status(3) == Status::unverified);
  CHECK(answer->status(5) == Status::absent);
  bench.expect(check("page", flag::force), Status::absent);
}

// Called off while it waits, while it runs, and at the end of the agent.
void called_off() {
  {
    Bench bench;
    bench.fill(0, memory_slot_bytes, 12);
    for (int round = 0; round < 20; round++) {
      std::vector<PageAsk> asks;
      for (int i = 0; i < 30; i++) asks.push_back(i % 3 == 0 ? check("page-" + std::to_string(i)) : write("page-" + std::to_string(i), 0, 200'000));
      size_t first;
      const auto answer = bench.submit(asks, first);
      for (size_t i = 0; i < asks.size(); i += 2) {
        const size_t word = (first + i) % bench.words.size();
        if (!bench.change(word, word_state::queued, word_state::cancelled)) bench.change(word, word_state::started, word_state::cancelling);
      }
      request_cancel_everywhere();
      bench.process_until([&] { return answer->there && bench.agent->idle(); });
      for (size_t i = 0; i < asks.size(); i++) {
        const Status status = answer->status(i);
        CHECK(status == Status::ok || status == Status::absent || status == Status::unverified || (i % 2 == 0 && (status == Status::cancelled || answer->error(i) == ECANCELED)));
      }
    }
  }
  Bench bench;
  knobs->set("param.polls", 20);
  std::vector<PageAsk> asks;
  for (int i = 0; i < 60; i++) asks.push_back(write("end-" + std::to_string(i), 0, 200'000));
  size_t first;
  const auto answer = bench.submit(asks, first);
  bench.agent->stop();
  bench.process_until([&] { return answer->there && bench.agent->idle(); });
}

// An agent that ends while the library does not.
void left_behind() {
  const size_t before = nixl::object_sessions_left_behind();
  auto made = make(plugin("OBJ"));
  AgentBench bench(memory_slot_bytes, memory_slots, std::move(made));
  knobs->set("fault.hang", -1);
  size_t first;
  const auto answer = bench.submit(1, [&](size_t, double* one, std::string& blob) {
    one[field::op] = static_cast<double>(Op::page_write);
    one[field::name_length] = 4;
    one[field::record_offset] = 4;
    one[field::identity_length] = 2;
    blob = "pageme";
    one[field::region] = bench.region->id;
    one[field::length] = 70'000;
  }, first, nullptr);
  bench.process_until([&] { return knobs->get("count.in_flight") == 1; });
  bench.agent->stop();
  bench.process_until([&] { return answer->there && bench.agent->idle(); });
  bench.agent.reset();
  CHECK_EQ(nixl::object_sessions_left_behind(), before + 1);
  knobs->set("fault.hang", 0);
}

}  // namespace

int main(int argc, char** argv) {
  const char* const temporary = std::getenv("TMPDIR");
  const std::string directory = argc > 1 ? argv[1] : temporary != nullptr ? temporary : "/tmp";
  const char* const stand_ins = std::getenv("HICACHE_STAND_INS");
  if (stand_ins == nullptr) check_failed(__FILE__, __LINE__, "HICACHE_STAND_INS does not name the folder of the stand-in libraries");
  const std::string control = directory + "/nixl_objects_test.control." + std::to_string(::getpid());
  folder = directory + "/nixl_objects_test." + std::to_string(::getpid());
  CHECK_EQ(::mkdir(folder.c_str(), 0700), 0);
  ::setenv("HICACHE_STAND_IN_CONTROL", control.c_str(), 1);
  ::setenv("HICACHE_STAND_IN_NIXL_OBJECTS", folder.c_str(), 1);
  ::setenv("HICACHE_NIXL_LIBNIXL_PATH", (std::string(stand_ins) + "/libnixl_capi.so").c_str(), 1);
  Knobs the_knobs(control, "nixl.");
  knobs = &the_knobs;
  const auto test = [](const std::string& name, const std::function<void()>& call) {
    test_context() = name;
    call();
    clear();
  };
  for (const char* name : {"OBJ", "BLOBS"}) test(std::string("pages ") + name, [&] { pages_there_and_back(name); });
  test("others", others_objects);
  test("damage", damage);
  test("short reads", short_reads);
  test("writes that are none", writes_that_are_none);
  test("errors", errors);
  test("no agents", no_agents);
  test("many", many);
  test("hangs", hangs);
  test("measures", measures);
  test("beside", beside);
  test("called off", called_off);
  test("left behind", left_behind);
  ::unlink(control.c_str());
  ::rmdir(folder.c_str());
  std::printf("nixl_objects_test passed\n");
  return 0;
}
