#include "plugins/nixl/nixl_session.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

namespace hicache::nixl {

std::unique_ptr<Session> Session::open(const SessionSettings& settings, Refusal& refusal) {
  std::unique_ptr<Session> session(new Session(*settings.api, next_agent_name()));
  if (!session->start(settings, refusal)) return nullptr;
  return session;
}

bool Session::start(const SessionSettings& settings, Refusal& refusal) {
  if (!own_.open(settings.plugin, settings.parameters, memory::file, refusal)) return false;
  if (open_slab(slabs_[0])) return true;
  refusal = {"NIXL's plugin " + settings.plugin + " cannot be used: " + problem_, plugin_remedy(settings.plugin)};
  return false;
}

Session::~Session() {
  if (own_.agent != nullptr) {
    for (FileEntry& entry : files_) deregister(entry);
    for (const MemoryEntry& entry : regions_) deregister(entry);
    for (const Slab& slab : slabs_) {
      if (slab.memory) memory_call(false, memory::dram, {{reinterpret_cast<uintptr_t>(slab.memory.data()), slab.memory.size(), 0, 0, -1}});
    }
  }
}

void Session::destroy_apart() {
  const Api& api = own_.api;
  Agent* const agent = std::exchange(own_.agent, nullptr);
  auto ended = std::make_shared<std::atomic<bool>>(false);
  destruction_ = ended;
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread([&api, agent, ended] {
      api.destroy_agent(agent);
      ended->store(true, std::memory_order_release);
    }).detach();
  } catch (const std::system_error&) {
    // No thread is to be had: waiting for the kernel here is better than never.
    api.destroy_agent(agent);
    ended->store(true, std::memory_order_release);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Session::abandon() {
  own_.agent = nullptr;
  abandoned_ = true;
}

int Session::memory_call(bool in, int type, const std::vector<Descriptor>& descriptors) {
  if (own_.agent == nullptr) return status::success;
  RegDlist* list = nullptr;
  int answer = own_.api.create_reg_dlist(type, &list);
  if (answer != status::success) return answer;
  for (const Descriptor& one : descriptors) {
    // Of a file: from its beginning, length 0, which has no end.
    const bool file = type == memory::file;
    answer = own_.api.reg_dlist_add_desc(list, file ? 0 : one.address, file ? 0 : one.length, file ? static_cast<uint64_t>(one.fd) : one.device, nullptr, 0);
    if (answer != status::success) break;
  }
  if (answer == status::success) answer = (in ? own_.api.register_mem : own_.api.deregister_mem)(own_.agent, list, own_.opt);
  own_.api.destroy_reg_dlist(list);
  return answer;
}

bool Session::open_slab(Slab& slab) {
  AlignedBuffer memory(slab.bytes * slab.count);
  slab.free.reserve(slab.count);
  const int answer = memory_call(true, memory::dram, {{reinterpret_cast<uintptr_t>(memory.data()), memory.size(), 0, 0, -1}});
  if (answer != status::success) {
    problem_ = "register_mem of " + std::to_string(memory.size()) + " bytes of its own memory answered " + describe_status(answer);
    return false;
  }
  slab.memory = std::move(memory);
  for (size_t i = slab.count; i-- > 0;) slab.free.push_back(slab.memory.data() + i * slab.bytes);
  return true;
}

// ---- files ----

FileEntry* Session::known_file(int fd) {
  const auto found = by_fd_.find(fd);
  return found == by_fd_.end() ? nullptr : &*found->second;
}

FileEntry* Session::file(int fd, const struct stat& info, int flags) {
  const auto found = by_fd_.find(fd);
  if (found != by_fd_.end()) {
    const auto at = found->second;
    if (at->device == info.st_dev && at->inode == info.st_ino && at->flags == flags) {
      files_.splice(files_.begin(), files_, at);
      at->users++;
      return &*at;
    }
    // The number was closed and means another file by now.
    forget_file(fd);
  }
  make_room_for_files();
  files_.emplace_front();
  try {
    by_fd_[fd] = files_.begin();
  } catch (...) {
    files_.pop_front();
    throw;
  }
  FileEntry& entry = files_.front();
  entry.fd = fd;
  entry.device = info.st_dev;
  entry.inode = info.st_ino;
  entry.flags = flags;
  entry.users = 1;
  return &entry;
}

void Session::make_room_for_files() {
  if (by_fd_.size() < files_max) return;
  for (auto at = std::prev(files_.end());; --at) {
    if (at->users == 0) return erase(at);
    if (at == files_.begin()) return;
  }
}

void Session::register_files(const std::vector<FileEntry*>& files) {
  std::vector<Descriptor> descriptors;
  descriptors.reserve(files.size());
  for (const FileEntry* file : files) descriptors.push_back({0, 0, 0, 0, file->fd});
  if (memory_call(true, memory::file, descriptors) == status::success) {
    for (FileEntry* file : files) file->registered = true;
    return;
  }
  // One of them is to blame, and does not take the others with it.
  for (FileEntry* file : files) {
    const int answer = memory_call(true, memory::file, {{0, 0, 0, 0, file->fd}});
    file->registered = answer == status::success;
    if (!file->registered) problem_ = "register_mem of the file with descriptor " + std::to_string(file->fd) + " answered " + describe_status(answer);
  }
}

void Session::deregister(FileEntry& entry) {
  if (!entry.registered) return;
  entry.registered = false;
  const int answer = memory_call(false, memory::file, {{0, 0, 0, 0, entry.fd}});
  if (answer != status::success) problem_ = "deregister_mem of the file with descriptor " + std::to_string(entry.fd) + " answered " + describe_status(answer);
}

void Session::erase(std::list<FileEntry>::iterator at) {
  deregister(*at);
  const auto found = by_fd_.find(at->fd);
  if (found != by_fd_.end() && found->second == at) by_fd_.erase(found);
  files_.erase(at);
}

void Session::let_go(FileEntry* entry) {
  if (--entry->users > 0 || !entry->forgotten) return;
  for (auto at = files_.begin(); at != files_.end(); ++at) {
    if (&*at == entry) return erase(at);
  }
}

void Session::forget_file(int fd) {
  const auto found = by_fd_.find(fd);
  if (found == by_fd_.end()) return;
  const auto at = found->second;
  if (at->users == 0) return erase(at);
  at->forgotten = true;
  by_fd_.erase(found);
}

// ---- memory ----

MemoryEntry* Session::memory_of(const Region& region) {
  const int type = region.kind == MemoryKind::device ? memory::vram : memory::dram;
  for (auto at = regions_.begin(); at != regions_.end(); ++at) {
    if (at->id != region.id || at->address != region.address || at->length != region.length || at->type != type) continue;
    regions_.splice(regions_.begin(), regions_, at);
    at->users++;
    return &*at;
  }
  make_room_for(region);
  MemoryEntry entry;
  entry.id = region.id;
  entry.address = region.address;
  entry.length = region.length;
  entry.type = type;
  entry.device = type == memory::vram ? static_cast<uint64_t>(region.device) : 0;
  entry.users = 1;
  const std::vector<Descriptor> whole{{reinterpret_cast<uintptr_t>(entry.address), entry.length, entry.device, 0, -1}};
  regions_.push_front(entry);
  const int answer = memory_call(true, type, whole);
  if (answer == status::success) return &regions_.front();
  regions_.pop_front();
  problem_ = "register_mem of a region of " + std::to_string(region.length) + " bytes (" + memory_name(type) + ") answered " + describe_status(answer);
  return nullptr;
}

// What has ended, what lies where the new region lies (it must have ended, too), and the ones used longest ago beyond the bound.
void Session::make_room_for(const Region& region) {
  size_t kept = 0;
  for (auto at = regions_.begin(); at != regions_.end();) {
    const RegionRef there = MemoryRegistry::instance().find(at->id);
    const bool ended = there == nullptr || there->gate.closed();
    const bool overlaps = at->address < region.address + region.length && region.address < at->address + at->length;
    if (at->users == 0 && (ended || overlaps || kept + 1 >= regions_max)) {
      deregister(*at);
      at = regions_.erase(at);
    } else {
      kept++;
      ++at;
    }
  }
}

void Session::deregister(const MemoryEntry& entry) {
  const int answer = memory_call(false, entry.type, {{reinterpret_cast<uintptr_t>(entry.address), entry.length, entry.device, 0, -1}});
  if (answer != status::success) problem_ = "deregister_mem of a region of " + std::to_string(entry.length) + " bytes answered " + describe_status(answer);
}

void Session::forget_region(uint32_t id) {
  for (auto at = regions_.begin(); at != regions_.end();) {
    if (at->id == id && at->users == 0) {
      deregister(*at);
      at = regions_.erase(at);
    } else {
      ++at;
    }
  }
}

bool Session::take_block(size_t bytes, Block& block, bool& broken) {
  broken = false;
  for (Slab& slab : slabs_) {
    // A larger one, where none of the right size is left.
    if (slab.bytes < bytes && &slab != &slabs_.back()) continue;
    if (!slab.memory && !open_slab(slab)) {
      broken = true;
      return false;
    }
    if (slab.free.empty() && slab.bytes > block_bytes) continue;
    if (slab.free.empty()) return false;
    block = {slab.free.back(), slab.bytes};
    slab.free.pop_back();
    return true;
  }
  return false;
}

void Session::give_back(const Block& block) {
  for (Slab& slab : slabs_) {
    if (slab.bytes == block.length) return slab.free.push_back(block.data);
  }
}

// ---- requests ----

int Session::post(int operation, int memory_type, const std::vector<Descriptor>& descriptors, Transfer& transfer) {
  XferDlist *local = nullptr, *remote = nullptr;
  int answer = own_.api.create_xfer_dlist(memory_type, &local);
  if (answer == status::success) answer = own_.api.create_xfer_dlist(memory::file, &remote);
  for (size_t i = 0; answer == status::success && i < descriptors.size(); i++) {
    const Descriptor& one = descriptors[i];
    answer = own_.api.xfer_dlist_add_desc(local, one.address, one.length, one.device);
    if (answer == status::success) answer = own_.api.xfer_dlist_add_desc(remote, one.offset, one.length, static_cast<uint64_t>(one.fd));
  }
  const char* call = "create_xfer_req";
  if (answer == status::success) answer = own_.api.create_xfer_req(own_.agent, operation, local, remote, own_.name.c_str(), &transfer.request, own_.opt);
  if (local != nullptr) own_.api.destroy_xfer_dlist(local);
  if (remote != nullptr) own_.api.destroy_xfer_dlist(remote);
  if (answer == status::success) {
    call = "post_xfer_req";
    answer = own_.api.post_xfer_req(own_.agent, transfer.request, own_.opt);
  } else {
    transfer.request = nullptr;
    if (answer > 0) answer = status::backend;
  }
  if (answer < 0) problem_ = std::string(call) + " answered " + describe_status(answer);
  return answer;
}

int Session::poll(Transfer& transfer) {
  const int answer = own_.api.get_xfer_status(own_.agent, transfer.request);
  if (answer < 0) problem_ = "a transfer of " + std::to_string(transfer.bytes) + " bytes ended with " + describe_status(answer);
  return answer;
}

void Session::release(Transfer& transfer) {
  if (transfer.request == nullptr) return;
  if (own_.agent != nullptr) {
    own_.api.release_xfer_req(own_.agent, transfer.request);
    own_.api.destroy_xfer_req(transfer.request);
  }
  transfer.request = nullptr;
}

}  // namespace hicache::nixl
