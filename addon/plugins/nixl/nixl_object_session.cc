#include "plugins/nixl/nixl_object_session.h"

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

#include "util/clock.h"

namespace hicache::nixl {
namespace {

// The thread is inside of the library from here on.
class Inside {
 public:
  explicit Inside(std::atomic<int64_t>& since) : since_(since) { since_.store(now_ns(), std::memory_order_relaxed); }
  ~Inside() { since_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t>& since_;
};

// Few sizes, and never much more than was asked for.
size_t slot_size(size_t bytes) { return round_up(bytes, std::max<size_t>(block_bytes, std::bit_floor(bytes) / 4)); }

}  // namespace

std::unique_ptr<ObjectSession> ObjectSession::open(const Api& api, const std::string& plugin, const std::map<std::string, std::string>& parameters, std::atomic<int64_t>& inside,
                                                   Refusal& refusal) {
  std::unique_ptr<ObjectSession> session(new ObjectSession(api, inside));
  const Inside here(inside);
  return session->own_->open(plugin, parameters, memory::object, refusal) ? std::move(session) : nullptr;
}

ObjectSession::~ObjectSession() {
  const Inside here(inside_);
  for (const auto& slot : slots_) memory_call(false, memory::dram, reinterpret_cast<uintptr_t>(slot->data()), slot->memory.size(), 0, "");
  own_.reset();
}

int ObjectSession::memory_call(bool in, int type, uintptr_t address, size_t length, uint64_t device, const std::string& key) {
  const Api& api = own_->api;
  RegDlist* list = nullptr;
  if (own_->agent == nullptr || own_->opt == nullptr) return status::success;
  int answer = api.create_reg_dlist(type, &list);
  if (answer != status::success) return answer;
  answer = api.reg_dlist_add_desc(list, address, length, device, key.empty() ? nullptr : key.data(), key.size());
  if (answer == status::success) answer = (in ? api.register_mem : api.deregister_mem)(own_->agent, list, own_->opt);
  api.destroy_reg_dlist(list);
  return answer;
}

int ObjectSession::query(const std::vector<std::string>& keys, std::vector<bool>& there) {
  const Inside here(inside_);
  const Api& api = own_->api;
  there.assign(keys.size(), false);
  RegDlist* list = nullptr;
  QueryRespList* answers = nullptr;
  int answer = api.create_reg_dlist(memory::object, &list);
  for (size_t i = 0; answer == status::success && i < keys.size(); i++) answer = api.reg_dlist_add_desc(list, 0, 0, next_device_++, keys[i].data(), keys[i].size());
  if (answer == status::success) answer = api.create_query_resp_list(&answers);
  const char* call = "query_mem";
  if (answer == status::success) answer = api.query_mem(own_->agent, list, answers, own_->opt);
  size_t count = 0;
  if (answer == status::success) answer = api.query_resp_list_size(answers, &count);
  if (answer == status::success && count != keys.size()) answer = status::backend;
  for (size_t i = 0; answer == status::success && i < count; i++) {
    bool has = false;
    answer = api.query_resp_list_has_value(answers, i, &has);
    there[i] = has;
  }
  if (answers != nullptr) api.destroy_query_resp_list(answers);
  if (list != nullptr) api.destroy_reg_dlist(list);
  if (answer > 0) answer = status::backend;
  if (answer < 0) problem_ = std::string(call) + " of " + std::to_string(keys.size()) + " objects answered " + describe_status(answer);
  return answer;
}

// ---- slots ----

ObjectSlot* ObjectSession::take_slot(size_t bytes, bool& refused) {
  refused = false;
  const size_t size = slot_size(bytes);
  if (std::vector<ObjectSlot*>& free = free_[size]; !free.empty()) {
    ObjectSlot* const slot = free.back();
    free.pop_back();
    slots_used_++;
    return slot;
  }
  if (slot_bytes_ + size > slot_bytes_max) drop_free_slots();
  if (slot_bytes_ + size > slot_bytes_max && slots_used_ > 0) return nullptr;
  auto slot = std::make_unique<ObjectSlot>();
  try {
    slot->memory = AlignedBuffer(size);
    slots_.reserve(slots_.size() + 1);
  } catch (const std::bad_alloc&) {
    problem_ = "there is no memory for a page of " + std::to_string(bytes) + " bytes";
    // What is in use comes back some day.
    refused = slots_used_ == 0;
    return nullptr;
  }
  const Inside here(inside_);
  const int answer = memory_call(true, memory::dram, reinterpret_cast<uintptr_t>(slot->data()), size, 0, "");
  if (answer != status::success) {
    problem_ = "register_mem of " + std::to_string(size) + " bytes of its own memory answered " + describe_status(answer);
    refused = true;
    return nullptr;
  }
  slot_bytes_ += size;
  slots_used_++;
  slots_.push_back(std::move(slot));
  return slots_.back().get();
}

void ObjectSession::give_back(ObjectSlot* slot) {
  slots_used_--;
  free_[slot->memory.size()].push_back(slot);
}

void ObjectSession::drop_free_slots() {
  const Inside here(inside_);
  for (auto& [size, free] : free_) {
    for (ObjectSlot* slot : free) {
      memory_call(false, memory::dram, reinterpret_cast<uintptr_t>(slot->data()), size, 0, "");
      slot_bytes_ -= size;
      std::erase_if(slots_, [&](const auto& one) { return one.get() == slot; });
    }
  }
  free_.clear();
}

// ---- requests ----

int ObjectSession::post(const std::string& key, ObjectTransfer& transfer) {
  const Inside here(inside_);
  const Api& api = own_->api;
  const uint64_t device = next_device_++;
  const char* call = "register_mem";
  // What a transfer asks for has to lie inside of what is registered.
  int answer = memory_call(true, memory::object, 0, static_cast<size_t>(transfer.offset) + transfer.length, device, key);
  if (answer == status::success) {
    transfer.device = device;
    call = "create_xfer_req";
    XferDlist *local = nullptr, *remote = nullptr;
    answer = api.create_xfer_dlist(memory::dram, &local);
    if (answer == status::success) answer = api.create_xfer_dlist(memory::object, &remote);
    if (answer == status::success) answer = api.xfer_dlist_add_desc(local, reinterpret_cast<uintptr_t>(transfer.slot->data()), transfer.length, 0);
    if (answer == status::success) answer = api.xfer_dlist_add_desc(remote, static_cast<uintptr_t>(transfer.offset), transfer.length, device);
    if (answer == status::success) answer = api.create_xfer_req(own_->agent, transfer.operation, local, remote, own_->name.c_str(), &transfer.request, own_->opt);
    if (answer != status::success) transfer.request = nullptr;
    if (local != nullptr) api.destroy_xfer_dlist(local);
    if (remote != nullptr) api.destroy_xfer_dlist(remote);
  }
  if (answer == status::success) {
    call = "post_xfer_req";
    answer = api.post_xfer_req(own_->agent, transfer.request, own_->opt);
  } else if (answer > 0) {
    answer = status::backend;
  }
  if (answer < 0) problem_ = std::string(call) + " for an object answered " + describe_status(answer);
  return answer;
}

int ObjectSession::poll(ObjectTransfer& transfer) {
  const Inside here(inside_);
  const int answer = own_->api.get_xfer_status(own_->agent, transfer.request);
  if (answer < 0) problem_ = std::string(transfer.operation == operation::write ? "writing" : "reading") + " " + std::to_string(transfer.length) + " bytes of an object ended with " + describe_status(answer);
  return answer;
}

void ObjectSession::release(const std::string& key, ObjectTransfer& transfer) {
  const Inside here(inside_);
  if (XferReq* const request = std::exchange(transfer.request, nullptr)) {
    own_->api.release_xfer_req(own_->agent, request);
    own_->api.destroy_xfer_req(request);
  }
  if (transfer.device != 0) memory_call(false, memory::object, 0, static_cast<size_t>(transfer.offset) + transfer.length, std::exchange(transfer.device, 0), key);
}

}  // namespace hicache::nixl
