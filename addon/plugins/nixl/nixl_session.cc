#include "plugins/nixl/nixl_session.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

namespace hicache::nixl {
namespace {

std::string next_name() {
  static std::atomic<uint64_t> number{0};
  return "hicache-" + std::to_string(::getpid()) + "-" + std::to_string(number.fetch_add(1) + 1);
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

// The text of what a plugin needs beyond NIXL, for the remedy.
std::string needs_of(const std::string& plugin) {
  if (plugin == "GDS" || plugin == "GDS_MT") return "it needs CUDA's driver and libcufile";
  if (plugin == "HF3FS") return "it needs 3FS's libhf3fs_api_shared and a mounted 3FS";
  if (plugin == "POSIX") return "it needs libaio, liburing or librt, as its parameters say";
  return "it needs libraries of its own";
}

}  // namespace

std::unique_ptr<Session> Session::open(const SessionSettings& settings, Refusal& refusal) {
  std::unique_ptr<Session> session(new Session(*settings.api, next_name()));
  if (!session->start(settings, refusal)) return nullptr;
  return session;
}

bool Session::start(const SessionSettings& settings, Refusal& refusal) {
  const AgentConfig config;
  int answer = api_.create_configured_agent(name_.c_str(), &config, &agent_);
  if (answer != status::success || agent_ == nullptr) {
    agent_ = nullptr;
    refusal = {"create_configured_agent of " + api_.path + " answered " + describe_status(answer), "set NIXL_LOG_LEVEL=debug to see what NIXL says on stderr"};
    return false;
  }
  const std::vector<std::string> names = plugin_names(api_, agent_);
  if (std::find(names.begin(), names.end(), settings.plugin) == names.end()) {
    refusal = {"NIXL (" + api_.path + ") has no plugin " + settings.plugin + ": it lists " + joined(names) + ", and looks into " + api_.plugin_folder,
               "install libplugin_" + settings.plugin + ".so there, or name its folder in NIXL_PLUGIN_DIR"};
    return false;
  }
  const PluginInfo info = describe_plugin(api_, agent_, settings.plugin);
  const std::string plugin_remedy = needs_of(settings.plugin) + "; set NIXL_LOG_LEVEL=debug to see what NIXL says on stderr";
  if (!info.described) {
    refusal = {"NIXL lists plugin " + settings.plugin + ", but " + info.reason, plugin_remedy};
    return false;
  }
  memory_types_ = info.memory;
  if (!moves(memory::file) || !moves(memory::dram)) {
    refusal = {"NIXL's plugin " + settings.plugin + " does not move files between storage and memory", "use POSIX, GDS, GDS_MT or HF3FS"};
    return false;
  }
  Params* params = nullptr;
  answer = api_.create_params(&params);
  std::string told;
  for (auto at = settings.parameters.begin(); answer == status::success && at != settings.parameters.end(); ++at) {
    answer = api_.params_add(params, at->first.c_str(), at->second.c_str());
    told += (told.empty() ? "" : ", ") + at->first + "=" + at->second;
  }
  if (answer == status::success) answer = api_.create_backend(agent_, settings.plugin.c_str(), params, &backend_);
  if (params != nullptr) api_.destroy_params(params);
  if (answer != status::success || backend_ == nullptr) {
    backend_ = nullptr;
    refusal = {"create_backend of NIXL's plugin " + settings.plugin + " (" + (told.empty() ? "no parameters" : told) + ") answered " + describe_status(answer),
               "check the parameters (each is typed: a number, or yes or no), and that what the plugin needs is there: " + plugin_remedy};
    return false;
  }
  answer = api_.create_opt_args(&opt_);
  if (answer == status::success) answer = api_.opt_args_add_backend(opt_, backend_);
  if (answer != status::success || !open_slab(slabs_[0])) {
    const std::string why = answer != status::success ? "create_opt_args answered " + describe_status(answer) : problem_;
    refusal = {"NIXL's plugin " + settings.plugin + " cannot be used: " + why, plugin_remedy};
    return false;
  }
  return true;
}

Session::~Session() {
  if (agent_ != nullptr) {
    for (FileEntry& entry : files_) deregister(entry);
    for (const MemoryEntry& entry : regions_) deregister(entry);
    for (const Slab& slab : slabs_) {
      if (slab.memory) memory_call(false, memory::dram, {{reinterpret_cast<uintptr_t>(slab.memory.data()), slab.memory.size(), 0, 0, -1}});
    }
  }
  if (opt_ != nullptr) api_.destroy_opt_args(opt_);
  if (backend_ != nullptr) api_.destroy_backend(backend_);
  if (agent_ != nullptr) api_.destroy_agent(agent_);
}

void Session::destroy_apart() {
  const Api& api = api_;
  Agent* const agent = std::exchange(agent_, nullptr);
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
  agent_ = nullptr;
  abandoned_ = true;
}

bool Session::moves(int memory_type) const { return std::find(memory_types_.begin(), memory_types_.end(), memory_type) != memory_types_.end(); }

int Session::memory_call(bool in, int type, const std::vector<Descriptor>& descriptors) {
  if (agent_ == nullptr) return status::success;
  RegDlist* list = nullptr;
  int answer = api_.create_reg_dlist(type, &list);
  if (answer != status::success) return answer;
  for (const Descriptor& one : descriptors) {
    // Of a file: from its beginning, length 0, which has no end.
    const bool file = type == memory::file;
    answer = api_.reg_dlist_add_desc(list, file ? 0 : one.address, file ? 0 : one.length, file ? static_cast<uint64_t>(one.fd) : one.device, nullptr, 0);
    if (answer != status::success) break;
  }
  if (answer == status::success) answer = (in ? api_.register_mem : api_.deregister_mem)(agent_, list, opt_);
  api_.destroy_reg_dlist(list);
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
  int answer = api_.create_xfer_dlist(memory_type, &local);
  if (answer == status::success) answer = api_.create_xfer_dlist(memory::file, &remote);
  for (size_t i = 0; answer == status::success && i < descriptors.size(); i++) {
    const Descriptor& one = descriptors[i];
    answer = api_.xfer_dlist_add_desc(local, one.address, one.length, one.device);
    if (answer == status::success) answer = api_.xfer_dlist_add_desc(remote, one.offset, one.length, static_cast<uint64_t>(one.fd));
  }
  const char* call = "create_xfer_req";
  if (answer == status::success) answer = api_.create_xfer_req(agent_, operation, local, remote, name_.c_str(), &transfer.request, opt_);
  if (local != nullptr) api_.destroy_xfer_dlist(local);
  if (remote != nullptr) api_.destroy_xfer_dlist(remote);
  if (answer == status::success) {
    call = "post_xfer_req";
    answer = api_.post_xfer_req(agent_, transfer.request, opt_);
  } else {
    transfer.request = nullptr;
    if (answer > 0) answer = status::backend;
  }
  if (answer < 0) problem_ = std::string(call) + " answered " + describe_status(answer);
  return answer;
}

int Session::poll(Transfer& transfer) {
  const int answer = api_.get_xfer_status(agent_, transfer.request);
  if (answer < 0) problem_ = "a transfer of " + std::to_string(transfer.bytes) + " bytes ended with " + describe_status(answer);
  return answer;
}

void Session::release(Transfer& transfer) {
  if (transfer.request == nullptr) return;
  if (agent_ != nullptr) {
    api_.release_xfer_req(agent_, transfer.request);
    api_.destroy_xfer_req(transfer.request);
  }
  transfer.request = nullptr;
}

}  // namespace hicache::nixl
