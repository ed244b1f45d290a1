// The object plugin's threads, coroutines and memory under the sanitizers: every operation, every way in which one can fail, be called off, or be left behind.
#include "plugins/obj/obj_plugin.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "plugins/obj/credentials.h"
#include "plugins/obj/object_client.h"
#include "plugins/obj/object_record.h"
#include "pool/record.h"
#include "test/check.h"
#include "test/page_bench.h"
#include "test/tiny_s3.h"

using namespace hicache;

namespace {

constexpr size_t memory_slot_bytes = 12 << 20, memory_slots = 4;
constexpr char path_of_bucket[] = "/bucket/";

std::unique_ptr<Plugin> plugin_for(const TinyS3& server, uint32_t credentials, unsigned threads, unsigned connections, bool checksums = false) {
  ObjectOptions options;
  options.endpoint = server.endpoint();
  options.region = "us-east-1";
  options.bucket = "bucket";
  options.credentials = credentials;
  options.threads = threads;
  options.connections = connections;
  options.multipart_bytes = 6 << 20;
  options.send_checksum = options.ask_checksum = options.sign_payload = checksums;
  Refusal refusal;
  auto plugin = try_create_obj_plugin(options, refusal);
  if (plugin == nullptr) std::printf("%s\n", refusal.reason.c_str());
  return plugin;
}

struct Bench : PageBench {
  explicit Bench(std::unique_ptr<Plugin> plugin) : PageBench(memory_slot_bytes, memory_slots, std::move(plugin)) {}
};


void plain(uint32_t credentials, bool checksums) {
  TinyS3 server;
  Bench bench(plugin_for(server, credentials, 2, 4, checksums));
  bench.fill(0, 100'000, 1);
  bench.fill(2, 100'000, 2);
  bench.expect(write("page", 0, 100'000), Status::ok);
  bench.expect(write("page", 0, 100'000), Status::already_there);
  bench.expect(write("page", 0, 100'000, flag::compare_first), Status::already_there);
  bench.expect(read("page", 1, 100'000), Status::ok);
  CHECK(bench.same(0, 1, 100'000));
  bench.expect(write("page", 2, 100'000), Status::ok);
  bench.expect(read("page", 1, 100'000), Status::ok);
  CHECK(bench.same(2, 1, 100'000));
  bench.expect(write("page", 0, 100'000, flag::compare_first), Status::ok);
  bench.expect(write("page", 2, 100'000, flag::replace), Status::ok);
  const auto length = bench.run({read("page", 1, 50'000)});
  CHECK(length->status() == Status::length && length->length() == 100'000);
  bench.expect(of_you(read("page", 1, 100'000)), Status::identity);
  bench.expect(of_you(check("page")), Status::identity);
  bench.expect(of_you({Op::page_delete, "page"}), Status::identity);
  const auto checked = bench.run({check("page")});
  CHECK(checked->status() == Status::ok && checked->length() == 100'000 && checked->metas[0] == "meta");
  bench.expect({Op::page_delete, "page"}, Status::ok);
  bench.expect({Op::page_delete, "page"}, Status::absent);
  bench.expect(check("page"), Status::absent);
  bench.expect(read("page", 1, 100'000), Status::absent);
  bench.expect({Op::page_touch, "page"}, Status::error);
  bench.expect(write("empty", 0, 0), Status::ok);
  bench.expect(read("empty", 1, 0), Status::ok);

  // Somebody else's object, and one of a version to come.
  server.change(std::string(path_of_bucket) + "foreign", [](TinyS3::Object& object) { object.body = std::string(1000, 'x'); });
  bench.expect(read("foreign", 1, 1000), Status::absent);
  bench.expect(read("foreign", 1, 1000, flag::accept_unverified), Status::unverified);
  server.change(std::string(path_of_bucket) + "foreign", [](TinyS3::Object& object) { object.record = "2.later"; });
  bench.expect(read("foreign", 1, 1000), Status::error);
  bench.expect(write("foreign", 0, 1000), Status::error);

  // Altered bytes, and altered metadata: a miss, and the next write mends it.
  bench.expect(write("altered", 0, 100'000), Status::ok);
  server.change(std::string(path_of_bucket) + "altered", [](TinyS3::Object& object) { object.body[7] ^= 1; });
  bench.expect(read("altered", 1, 100'000), Status::corrupt);
  bench.expect(write("altered", 0, 100'000, flag::replace), Status::ok);
  bench.expect(read("altered", 1, 100'000), Status::ok);
  server.change(std::string(path_of_bucket) + "altered", [](TinyS3::Object& object) { object.record[2] ^= 1; });
  bench.expect(read("altered", 1, 100'000), Status::corrupt);
  bench.expect(write("altered", 0, 100'000), Status::ok);
}

// What a writer without metadata has stored: the body is a page file.
void page_files(uint32_t credentials) {
  TinyS3 server;
  Bench bench(plugin_for(server, credentials, 1, 3));
  const auto stored = [&](const std::string& name, size_t length, const std::function<void(std::string&)>& alter = [](std::string&) {}) {
    std::string body(page_file_bytes(length), '\0');
    std::memcpy(body.data(), bench.slot(0), length);
    Record record;
    record.payload_length = length;
    record.payload_crc = payload_crc("me", bench.slot(0), length);
    record.identity = "me";
    record.meta = "meta";
    encode_record(reinterpret_cast<uint8_t*>(body.data()) + body.size() - record_bytes, record);
    alter(body);
    server.change(std::string(path_of_bucket) + name, [&](TinyS3::Object& object) {
      object.body = body;
      object.etag = "\"page-file\"";
      object.record.clear();
    });
  };
  // The last two go in ranges.
  for (const size_t length : {size_t{0}, size_t{1}, size_t{4096}, size_t{70'000}, size_t{6 << 20}, size_t{11'000'001}}) {
    const std::string page = "page-" + std::to_string(length);
    bench.fill(0, length, 1);
    bench.fill(1, length, 2);
    stored(page, length);
    const auto got = bench.run({read(page, 1, length)});
    test_context() = page + ": status " + std::to_string(static_cast<int>(got->status())) + " " + got->metas[0];
    CHECK(got->status() == Status::ok && got->metas[0] == "meta" && got->length() == length);
    CHECK(bench.same(0, 1, length));
    const auto checked = bench.run({check(page)});
    CHECK(checked->status() == Status::ok && checked->metas[0] == "meta" && checked->length() == length);
    bench.expect(of_you(check(page)), Status::identity);
    bench.expect(of_you(read(page, 1, length)), Status::identity);
    bench.expect(of_you({Op::page_delete, page}), Status::identity);
    // As a whole it is not a page of somebody's, record and all.
    const size_t whole = page_file_bytes(length);
    if (whole <= memory_slot_bytes) CHECK_EQ(bench.run({read(page, 1, whole, flag::accept_unverified)})->length(), length);
    if (whole <= memory_slot_bytes) bench.expect(read(page, 1, whole, flag::accept_unverified), Status::length);
    bench.expect(write(page, 0, length, flag::compare_first), Status::already_there);
    // Of what goes in parts this server knows no condition.
    if (length < (6 << 20)) bench.expect(write(page, 0, length), Status::already_there);
    stored(page, length);
    if (length > 0) {
      for (const size_t at : {size_t{0}, whole - record_bytes + 20, whole - 1}) {
        stored(page, length, [&](std::string& body) { body[at] = static_cast<char>(body[at] ^ 1); });
        bench.expect(read(page, 1, length, flag::accept_unverified), Status::corrupt);
      }
      // Without the record it is too long, and nobody's.
      stored(page, length, [&](std::string& body) { body[whole - record_bytes] ^= 1; });
      bench.expect(read(page, 1, length, flag::accept_unverified), Status::length);
      bench.expect(check(page), Status::absent);
    }
    stored(page, length, [&](std::string& body) { body[whole - record_bytes + 8] = 2; });
    bench.expect(read(page, 1, length, flag::accept_unverified), Status::error);
    bench.expect(write(page, 0, length, flag::compare_first), Status::error);
    bench.expect({Op::page_delete, page}, Status::error);
    stored(page, length);
    bench.expect({Op::page_delete, page}, Status::ok);
    bench.expect(check(page), Status::absent);
    // Metadata take its place.
    stored(page, length);
    bench.expect(write(page, 0, length, flag::replace), Status::ok);
    bench.expect(read(page, 1, length), Status::ok);
  }
}

void in_parts(uint32_t credentials) {
  TinyS3 server;
  Bench bench(plugin_for(server, credentials, 1, 3));
  const size_t large = 11'000'001;
  bench.fill(0, large, 1);
  bench.fill(2, large, 9);
  bench.expect(write("large", 0, large), Status::ok);
  bench.expect(read("large", 1, large), Status::ok);
  CHECK(bench.same(0, 1, large));
  bench.expect(write("large", 2, large, flag::replace), Status::ok);
  bench.expect(read("large", 1, large), Status::ok);
  CHECK(bench.same(2, 1, large));
  server.plan("partNumber=2", '5', 2);
  server.plan("partNumber=1", 'r', 1);
  bench.expect(write("tried", 0, large), Status::ok);
  server.plan("tried", 'c', 2);
  bench.expect(read("tried", 1, large), Status::ok);
  CHECK(bench.same(0, 1, large));
  server.plan("partNumber=2", '5', 10);
  bench.expect(write("given-up", 0, large), Status::unavailable);
  CHECK_EQ(server.uploads(), 0u);
  bench.expect(read("given-up", 1, large), Status::absent);
  const auto length = bench.run({read("large", 1, large - 7)});
  CHECK(length->status() == Status::length && length->length() == large);
  // Called off in the middle: nothing of it stays.
  server.plan("partNumber", 'h', 2);
  size_t first;
  const auto answer = bench.submit({write("off", 0, large)}, first);
  server.wait_held(2);
  CHECK(bench.change(first, word_state::started, word_state::cancelling));
  request_cancel_everywhere();
  bench.process_until([&] { return answer->there; });
  server.release();
  bench.process_until([&] { return bench.agent->idle(); });
  CHECK_EQ(server.uploads(), 0u);
}

void faults(uint32_t credentials) {
  TinyS3 server;
  Bench bench(plugin_for(server, credentials, 2, 4));
  bench.fill(0, 200'000, 3);
  for (const char fault : {'5', 's', 'r'}) {
    const std::string name = std::string("fault-") + fault;
    server.plan(name, fault, 2);
    bench.expect(write(name, 0, 200'000), Status::ok);
    server.plan(name, fault, 2);
    bench.expect(read(name, 1, 200'000), Status::ok);
    CHECK(bench.same(0, 1, 200'000));
    server.plan(name, fault, 2);
    bench.expect(check(name), Status::ok);
    server.plan(name, fault, 2);
    bench.expect({Op::page_delete, name}, Status::ok);
    server.plan(name, fault, 100);
    bench.expect(write(name, 0, 200'000), Status::unavailable);
  }
  server.plan("conditional", 'n', 1);
  bench.expect(write("conditional", 0, 200'000), Status::ok);
  bench.expect(write("body", 0, 200'000), Status::ok);
  server.plan("body", 'c', 1);
  bench.expect(read("body", 1, 200'000), Status::ok);
  CHECK(bench.same(0, 1, 200'000));
  server.plan("body", 'w', 1);
  bench.expect(read("body", 1, 200'000), Status::ok);
  CHECK(bench.same(0, 1, 200'000));
  server.plan("body", 'w', 2);
  bench.expect(read("body", 1, 200'000), Status::corrupt);
  // What a server says unasked is nobody's answer.
  for (int i = 0; i < 20; i++) {
    server.plan("body", 'x', 1);
    bench.expect(read("body", 1, 200'000), Status::ok);
    bench.expect(check("nothing"), Status::absent);
  }
  CHECK(bench.same(0, 1, 200'000));
}

// Many at once, from several threads' worth of connections; some are called off while they wait, some while they run.
void many(uint32_t credentials) {
  TinyS3 server;
  Bench bench(plugin_for(server, credentials, 3, 6));
  bench.fill(0, 70'000, 5);
  for (int round = 0; round < 5; round++) {
    std::vector<PageAsk> asks;
    for (int i = 0; i < 60; i++) asks.push_back(write("many-" + std::to_string(round) + "-" + std::to_string(i), 0, 70'000));
    const auto answer = bench.run(asks);
    for (size_t i = 0; i < asks.size(); i++) CHECK(answer->status(i) == Status::ok);
    for (size_t i = 0; i < asks.size(); i++) {
      asks[i] = read(asks[i].name, 1, 70'000);
      asks[i].shift = i * 70'000;
    }
    const auto got = bench.run(asks);
    for (size_t i = 0; i < asks.size(); i++) CHECK(got->status(i) == Status::ok && std::memcmp(bench.slot(0), bench.slot(1) + i * 70'000, 70'000) == 0);
  }

  server.plan("held", 'h', 100);
  std::vector<PageAsk> asks;
  for (int i = 0; i < 20; i++) asks.push_back(read("held-" + std::to_string(i), 1, 70'000));
  size_t first;
  const auto answer = bench.submit(asks, first);
  server.wait_held(6);
  for (size_t i = 0; i < asks.size(); i++) {
    if (!bench.change((first + i) % bench.words.size(), word_state::queued, word_state::cancelled)) CHECK(bench.change((first + i) % bench.words.size(), word_state::started, word_state::cancelling));
  }
  request_cancel_everywhere();
  bench.process_until([&] { return answer->there; });
  server.release();
  bench.process_until([&] { return bench.agent->idle(); });
  for (size_t i = 0; i < asks.size(); i++) CHECK(answer->status(i) == Status::cancelled || answer->error(i) == ECANCELED);
}

// An agent that ends with requests under way: they are called off, and their connections closed.
void left_behind(uint32_t credentials) {
  TinyS3 server;
  {
    Bench bench(plugin_for(server, credentials, 2, 4));
    server.plan("held", 'h', 100);
    std::vector<PageAsk> asks;
    for (int i = 0; i < 12; i++) asks.push_back(read("held-" + std::to_string(i), 0, 1000));
    size_t first;
    const auto answer = bench.submit(asks, first);
    server.wait_held(4);
    bench.agent->stop();
    CHECK(bench.agent->drain(10'000));
    CHECK(answer->there);
    bench.agent.reset();
  }
  server.release();
  server.wait_closed();
}

void no_server(uint32_t credentials) {
  std::string endpoint;
  {
    TinyS3 gone;
    endpoint = gone.endpoint();
  }
  ObjectOptions options;
  options.endpoint = endpoint;
  options.region = "us-east-1";
  options.bucket = "bucket";
  options.credentials = credentials;
  Refusal refusal;
  Bench bench(try_create_obj_plugin(options, refusal));
  bench.expect(read("page", 0, 1000), Status::unavailable);
  // No time for a second try.
  bench.expect({Op::page_read, "page", 0, 1000, 0, /* left_ms */ 1}, Status::unavailable);
  const uint32_t taken_back = CredentialStore::instance().set(0, {"a", "b", ""});
  CredentialStore::instance().remove(taken_back);
  options.credentials = taken_back;
  Bench unsigned_bench(try_create_obj_plugin(options, refusal));
  unsigned_bench.expect(read("page", 0, 1000), Status::refused);
}

void client(uint32_t credentials) {
  TinyS3 server;
  ObjectOptions options;
  options.endpoint = server.endpoint();
  options.region = "us-east-1";
  options.bucket = "bucket";
  options.credentials = credentials;
  Refusal refusal;
  ObjectClient client(*curl::load(refusal), options);
  CHECK_EQ(client.request({"PUT", "key", {}, {}, "a body", 5000, 0}).status, 200);
  CHECK_EQ(client.request({"GET", "key", {}, {}, "", 5000, 0}).body, "a body");
  CHECK_EQ(client.request({"GET", "other", {}, {}, "", 5000, 0}).code, "NoSuchKey");
  // Bodies whose length is not said: until the end, and in chunks; whenever they come.
  const std::string text(100'000, 'y');
  CHECK_EQ(client.request({"PUT", "long", {}, {}, text, 5000, 0}).status, 200);
  for (int i = 0; i < 20; i++) {
    for (const char fault : {'u', 'k', 'x', 'c'}) {
      server.plan("long", fault, 1);
      const S3Answer answer = client.request({"GET", "long", {}, {}, "", 5000, 2});
      test_context() = std::string(1, fault) + " " + answer.why;
      CHECK(answer.status == 200 && answer.body == text);
    }
  }
  server.plan("held", 'h', 100);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++) {
    threads.emplace_back([&] { CHECK(client.request({"GET", "held", {}, {}, "", 60'000, 0}).result == S3Result::cancelled); });
  }
  server.wait_held(4);
  client.close();
  for (std::thread& thread : threads) thread.join();
  CHECK(client.request({"GET", "key", {}, {}, "", 5000, 0}).result == S3Result::cancelled);
  server.release();
}

}  // namespace

int main() {
  Refusal refusal;
  if (curl::load(refusal) == nullptr) {
    std::printf("obj_test: NOTHING was tested: %s (%s)\n", refusal.reason.c_str(), refusal.remedy.c_str());
    return 0;
  }
  const uint32_t credentials = CredentialStore::instance().set(0, {"AKEXAMPLE", "a secret that nobody sees", "a token"});
  plain(credentials, false);
  plain(credentials, true);
  page_files(credentials);
  in_parts(credentials);
  faults(credentials);
  many(credentials);
  left_behind(credentials);
  no_server(credentials);
  client(credentials);
  return 0;
}
