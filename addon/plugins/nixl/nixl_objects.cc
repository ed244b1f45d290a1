#include "plugins/nixl/nixl_objects.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "plugins/nixl/nixl_object_lane.h"

namespace hicache::nixl {
namespace {

constexpr unsigned depth_max = 256;
// Threads that did not come back from the library; then everything is unavailable.
constexpr size_t lost_max = 4;

class ObjectsPlugin final : public Plugin {
 public:
  ObjectsPlugin(ObjectLaneOptions options, std::unique_ptr<ObjectPlugin> beside) : options_(std::move(options)), beside_(std::move(beside)) {
    for (auto& lane : lanes_) lane = new_lane();
  }
  ~ObjectsPlugin() override {
    for (const auto& lane : lanes_) {
      if (lane != nullptr) lane->close();
    }
  }

  const char* engine() const override { return "nixl"; }
  std::vector<int> event_fds() const override { return beside_ == nullptr ? std::vector<int>{} : beside_->event_fds(); }
  void process() override {
    if (beside_ != nullptr) beside_->process();
  }
  size_t directories() const override { return 1; }
  size_t calls() const override { return 0; }

  void start(Batch& batch) override {
    auto state = std::make_shared<State>();
    state->places.resize(batch.size());
    batch.plugin_state = state;
    std::array<std::vector<ObjectLane::Given>, lane_count> shares;
    std::vector<Operation*> aside;
    for (size_t i = 0; i < batch.size(); i++) {
      Operation& operation = batch[i];
      if (goes_aside(operation)) {
        aside.push_back(&operation);
        continue;
      }
      const size_t lane = operation.op == Op::page_check ? questions : transfers;
      state->places[i] = {lane, next_id_++};
      operation.state = &state->places[i];
      shares[lane].push_back({state->places[i].id, &operation});
    }
    // Whatever the lanes take may be finished, and the batch gone, before this is over: first everything is noted, then handed over.
    for (size_t i = 0; i < lane_count; i++) {
      if (!shares[i].empty()) hand_over(i, std::move(shares[i]));
    }
    if (aside.empty()) return;
    if (beside_ != nullptr) return beside_->start_these(aside, state->aside);
    for (Operation* operation : aside) operation->finish(operation->claim() ? Outcome::failed(ENOTSUP) : Outcome::of(Status::cancelled));
  }

  void withdraw_called_off() override {
    for (const auto& lane : lanes_) {
      if (lane != nullptr) lane->withdraw_called_off();
    }
    if (beside_ != nullptr) beside_->withdraw_called_off();
  }
  void cancel(Operation& operation) override {
    if (goes_aside(operation)) {
      if (beside_ != nullptr) beside_->cancel(operation);
      return;
    }
    const auto* const place = static_cast<const Place*>(operation.state);
    if (lanes_[place->lane] != nullptr) lanes_[place->lane]->cancel(place->id);
  }
  void stop() override {
    for (const auto& lane : lanes_) {
      if (lane != nullptr) lane->stop();
    }
    if (beside_ != nullptr) beside_->stop();
  }

  // NIXL lists nothing.
  void list(size_t, std::string, bool, ListDone done) override {
    std::vector<ListedFile> none;
    done(ENOTSUP, none);
  }
  void sweep(size_t, std::string, SweepDone done) override { done(ENOTSUP, 0); }

 private:
  // A question blocks the thread that asks it, and what is in flight has to be looked after.
  static constexpr size_t transfers = 0, questions = 1, lane_count = 2;
  struct Place {
    size_t lane = 0;
    uint64_t id = 0;
  };

  struct State {
    std::vector<Place> places;
    std::shared_ptr<void> aside;
  };

  // What NIXL cannot do.
  bool goes_aside(const Operation& operation) const {
    return operation.op == Op::page_delete || (beside_ != nullptr && operation.op == Op::page_check && (operation.flags & flag::force) != 0);
  }

  std::shared_ptr<ObjectLane> new_lane() const {
    auto lane = std::make_shared<ObjectLane>(options_);
    lane->start();
    return lane;
  }

  void hand_over(size_t index, std::vector<ObjectLane::Given> given) {
    std::shared_ptr<ObjectLane>& lane = lanes_[index];
    if (lane != nullptr && lane->stuck()) {
      const auto waiting = lane->give_up();
      given.insert(given.begin(), waiting.begin(), waiting.end());
      lane->close();
      lane = ++lost_ < lost_max ? new_lane() : nullptr;
    }
    if (lane != nullptr) return lane->hand_over(given);
    Outcome outcome = Outcome::of(Status::unavailable);
    outcome.set_meta("NIXL's plugin does not come back from its calls");
    for (const auto& [id, operation] : given) operation->finish(operation->claim() ? outcome : Outcome::of(Status::cancelled));
  }

  const ObjectLaneOptions options_;
  const std::unique_ptr<ObjectPlugin> beside_;
  std::array<std::shared_ptr<ObjectLane>, lane_count> lanes_;
  uint64_t next_id_ = 1;
  size_t lost_ = 0;
};

}  // namespace

std::unique_ptr<Plugin> try_create_objects_plugin(const ObjectsOptions& options, std::unique_ptr<ObjectPlugin> beside, Refusal& refusal) {
  const Api* const api = load(refusal);
  if (api == nullptr) return nullptr;
  // An agent of its own is made by the thread that uses it; this one says whether it can be.
  std::atomic<int64_t> inside{0};
  if (ObjectSession::open(*api, options.plugin, options.parameters, inside, refusal) == nullptr) return nullptr;
  return std::make_unique<ObjectsPlugin>(
      ObjectLaneOptions{api, options.plugin, options.parameters, std::clamp(options.depth, 1u, depth_max), std::max<int64_t>(options.timeout_ms, 1)}, std::move(beside));
}

}  // namespace hicache::nixl
