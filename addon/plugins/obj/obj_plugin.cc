#include "plugins/obj/obj_plugin.h"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <new>
#include <unordered_map>

#include "plugins/obj/http_loop.h"
#include "plugins/obj/page_transfer.h"
#include "plugins/obj/s3_call.h"
#include "util/clock.h"

namespace hicache {
namespace {

// Threads cost: each is woken by itself, and then finds little to do. One serves all connections until its processor is nearly full; then another joins.
constexpr double busy_enough = 0.7, idle_enough = 0.4;
constexpr int64_t look_every_ns = 10'000'000;

// One thread and its operations.
class Lane {
 public:
  Lane(const curl::Api& api, const std::shared_ptr<ObjectEndpoint>& endpoint, unsigned connections)
      : loop_(api, {endpoint->base(), endpoint->options().ca_bundle, endpoint->options().proxy, connections}), caller_(loop_, endpoint) {}

  struct Given {
    uint64_t id;
    Operation* operation;
  };
  // Any thread.
  void limit(unsigned connections) {
    loop_.limit(connections);
    // Those that are too many are closed now, and not when there is something to do again.
    loop_.post([] {});
  }
  int64_t cpu_ns() const { return loop_.cpu_ns(); }
  void hand_over(std::vector<Given> given) {
    loop_.post([this, given = std::move(given)] {
      waiting_.insert(waiting_.end(), given.begin(), given.end());
      start_waiting();
    });
  }
  void cancel(std::vector<uint64_t> ids) {
    loop_.post([this, ids = std::move(ids)] {
      for (const uint64_t id : ids) {
        if (const auto found = running_.find(id); found != running_.end()) found->second->cancel();
      }
    });
  }
  void withdraw_called_off() {
    loop_.post([this] {
      withdraw([](Operation& operation) { return operation.called_off(); });
    });
  }
  void stop() {
    loop_.post([this] {
      stopped_ = true;
      withdraw([](Operation&) { return true; });
    });
  }

 private:
  template <typename Fits>
  void withdraw(Fits&& fits) {
    std::vector<Operation*> gone;
    std::erase_if(waiting_, [&](const Given& given) {
      if (!fits(*given.operation)) return false;
      gone.push_back(given.operation);
      return true;
    });
    for (Operation* operation : gone) operation->finish(Outcome::of(Status::cancelled));
  }

  // As many as there are connections: what waits can still be called off without anything having happened.
  void start_waiting() {
    while (!waiting_.empty() && running_.size() < loop_.connections()) {
      const Given given = waiting_.front();
      waiting_.pop_front();
      if (stopped_ || !given.operation->claim()) {
        given.operation->finish(Outcome::of(Status::cancelled));
        continue;
      }
      run(given);
    }
  }

  Detached run(Given given) {
    Outcome outcome;
    try {
      PageTransfer transfer(loop_, caller_, *given.operation);
      running_.emplace(given.id, &transfer);
      outcome = co_await transfer.run();
    } catch (const std::bad_alloc&) {
      outcome = Outcome::failed(ENOMEM);
    }
    running_.erase(given.id);
    given.operation->finish(outcome);
    // Not from within the end of another: a hundred that end at once would be as deep.
    if (!waiting_.empty() && !scheduled_) {
      scheduled_ = true;
      loop_.post([this] {
        scheduled_ = false;
        start_waiting();
      });
    }
  }

  std::deque<Given> waiting_;
  std::unordered_map<uint64_t, PageTransfer*> running_;
  bool stopped_ = false, scheduled_ = false;
  HttpLoop loop_;
  S3Caller caller_;
};

class ObjPlugin final : public ObjectPlugin {
 public:
  ObjPlugin(const curl::Api& api, const ObjectOptions& options) : endpoint_(std::make_shared<ObjectEndpoint>(options)) {
    const unsigned threads = std::clamp(options.threads, 1u, std::max(1u, options.connections));
    for (unsigned i = 0; i < threads; i++) lanes_.push_back(std::make_unique<Lane>(api, endpoint_, options.connections));
    seen_.resize(threads);
  }

  const char* engine() const override { return "libcurl"; }
  std::vector<int> event_fds() const override { return {}; }
  void process() override {}
  size_t directories() const override { return 1; }
  size_t calls() const override { return 0; }

  void start(Batch& batch) override {
    std::vector<Operation*> all;
    all.reserve(batch.size());
    for (size_t i = 0; i < batch.size(); i++) all.push_back(&batch[i]);
    start_these(all, batch.plugin_state);
  }
  void start_these(const std::vector<Operation*>& operations, std::shared_ptr<void>& kept) override {
    auto places = std::make_shared<std::vector<Place>>(operations.size());
    kept = places;
    choose_lanes();
    const size_t each = (operations.size() + in_use_ - 1) / in_use_;
    // Whatever the lanes take may be finished, and the batch gone, before this is over: first everything is noted, then handed over.
    std::vector<std::pair<size_t, std::vector<Lane::Given>>> shares;
    for (size_t from = 0; from < operations.size(); from += each) {
      const size_t lane = next_lane_++ % in_use_;
      std::vector<Lane::Given> given;
      for (size_t i = from; i < std::min(operations.size(), from + each); i++) {
        Operation& operation = *operations[i];
        (*places)[i] = {lane, next_id_++};
        operation.state = &(*places)[i];
        given.push_back({(*places)[i].id, &operation});
      }
      shares.emplace_back(lane, std::move(given));
    }
    for (auto& [lane, given] : shares) lanes_[lane]->hand_over(std::move(given));
  }

  void withdraw_called_off() override {
    for (const auto& lane : lanes_) lane->withdraw_called_off();
  }
  void cancel(Operation& operation) override {
    const auto* const place = static_cast<const Place*>(operation.state);
    lanes_[place->lane]->cancel({place->id});
  }
  void stop() override {
    for (const auto& lane : lanes_) lane->stop();
  }

  // Listings go by requests of the object client.
  void list(size_t, std::string, bool, ListDone done) override {
    std::vector<ListedFile> none;
    done(ENOTSUP, none);
  }
  void sweep(size_t, std::string, SweepDone done) override { done(ENOTSUP, 0); }

 private:
  struct Place {
    size_t lane = 0;
    uint64_t id = 0;
  };

  void choose_lanes() {
    const int64_t now = now_ns(), passed = now - looked_ns_;
    if (lanes_.size() == 1 || passed < look_every_ns) return;
    double all = 0;
    for (size_t i = 0; i < lanes_.size(); i++) {
      const int64_t cpu = lanes_[i]->cpu_ns();
      all += static_cast<double>(cpu - std::exchange(seen_[i], cpu)) / static_cast<double>(passed);
    }
    looked_ns_ = now;
    const double in_use = static_cast<double>(in_use_);
    size_t wanted = in_use_;
    if (all > busy_enough * in_use) wanted = std::min(lanes_.size(), in_use_ + 1);
    else if (in_use_ > 1 && all < idle_enough * (in_use - 1)) wanted = in_use_ - 1;
    if (wanted == in_use_) return;
    in_use_ = wanted;
    const unsigned share = std::max(1u, endpoint_->options().connections / static_cast<unsigned>(in_use_));
    for (size_t i = 0; i < lanes_.size(); i++) lanes_[i]->limit(i < in_use_ ? share : 1);
  }

  const std::shared_ptr<ObjectEndpoint> endpoint_;
  size_t in_use_ = 1;
  int64_t looked_ns_ = 0;
  std::vector<int64_t> seen_;  // each lane's processor time, when it was looked at
  uint64_t next_id_ = 1;
  size_t next_lane_ = 0;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace

std::unique_ptr<ObjectPlugin> try_create_obj_plugin(const ObjectOptions& options, Refusal& refusal) {
  const curl::Api* const api = curl::load(refusal);
  if (api == nullptr) return nullptr;
  return std::make_unique<ObjPlugin>(*api, options);
}

}  // namespace hicache
