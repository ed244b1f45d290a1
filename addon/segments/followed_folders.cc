#include "segments/followed_folders.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>

#include "segments/owner_lock.h"
#include "segments/segment_files.h"
#include "segments/segment_names.h"
#include "segments/store_folder.h"

namespace hicache::segments {

void load(const std::string& directory, const std::string& folder, const DigestSeed& seed, const std::vector<uint32_t>* ids, Loaded& out) {
  const Store store = open_store(directory, false);
  if (!store.fd) return;
  const std::string name = store.named(folder);
  const int opened = open_folder(store.fd.get(), folder.c_str(), name.c_str());
  if (opened == -ENOENT) return;
  const UniqueFd fd(must(opened, "opening " + name));
  out.sequence = ring_head(fd.get(), name);
  Loader loader(seed, out);
  if (ids != nullptr) {
    for (const uint32_t id : *ids) loader.add_segment(fd.get(), name, id);
    return;
  }
  for (const uint32_t id : files_of(fd.get(), name).index) loader.add_segment(fd.get(), name, id);
}

std::string records(const std::string& directory, const std::string& folder, uint32_t id) {
  const Store store = open_store(directory, false);
  if (!store.fd) return "";
  const std::string name = store.named(folder);
  const int opened = open_folder(store.fd.get(), folder.c_str(), name.c_str());
  if (opened == -ENOENT) return "";
  const UniqueFd fd(must(opened, "opening " + name));
  return page_records(fd.get(), name, id);
}

namespace {

void follow(int folder, const std::string& name, const DigestSeed& seed, FolderChanges& out) {
  const RingTail tail = read_changes(folder, name, out.sequence);
  out.sequence = tail.sequence;
  out.lapped = tail.lapped;
  if (tail.changes.empty()) return;
  std::map<uint32_t, std::vector<uint32_t>> slots;
  std::set<uint32_t> whole;
  for (const Change& change : tail.changes) {
    if (change.generation != 0) out.asked.push_back(change);
    else if (change.slot == whole_segment) whole.insert(change.segment);
    else slots[change.segment].push_back(change.slot);
  }
  Loader loader(seed, out.loaded);
  for (const uint32_t id : whole) loader.add_segment(folder, name, id);
  for (auto& [id, list] : slots) {
    if (whole.count(id) != 0) continue;
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
    if (!loader.add_slots(folder, name, id, list)) whole.insert(id);
  }
  out.any = true;
  out.whole.assign(whole.begin(), whole.end());
  out.loaded.sequence = out.sequence;
}

}  // namespace

Polled poll(const std::string& directory, const std::string& own_folder, const std::vector<Followed>& followed, const DigestSeed& seed) {
  Polled polled;
  const Store store = open_store(directory, false);
  std::map<std::string, UniqueFd> open;
  for (const std::string& name : folders_of(store)) {
    if (name == own_folder) continue;
    const std::string path = store.named(name);
    UniqueFd folder(open_folder(store.fd.get(), name.c_str(), path.c_str()));
    // Gone meanwhile, or not for us to read.
    if (!folder) continue;
    struct stat status;
    const std::string wants_path = path + "/" + wants_file;
    polled.folders.push_back({name, is_live(directory, store, name, folder.get()), file_io::stat_at(folder.get(), wants_file, &status, wants_path.c_str()) == 0,
                              machine_of(name) == this_host().machine});
    open[name] = std::move(folder);
  }
  for (const Followed& one : followed) {
    FolderChanges changes;
    changes.folder = one.folder;
    changes.sequence = one.sequence;
    UniqueFd folder;
    if (const auto found = open.find(one.folder); found != open.end()) folder = std::move(found->second);
    else if (store.fd) folder = UniqueFd(open_folder(store.fd.get(), one.folder.c_str(), store.named(one.folder).c_str()));
    // Out of descriptors is no reason to forget somebody's pages.
    if (folder) follow(folder.get(), store.named(one.folder), seed, changes);
    else changes.gone = !store.fd || folder.get() == -ENOENT || folder.get() == -ENOTDIR;
    polled.changes.push_back(std::move(changes));
  }
  return polled;
}

Usage usage(const std::string& directory) {
  Usage out;
  const Store store = open_store(directory, false);
  if (!store.fd) return out;
  out.used_bytes = taken_below(store.fd.get(), store.name);
  for (const std::string& name : folders_of(store)) {
    const UniqueFd folder(open_folder(store.fd.get(), name.c_str(), store.named(name).c_str()));
    if (folder && is_live(directory, store, name, folder.get())) out.writers++;
  }
  return out;
}

}  // namespace hicache::segments
