#include "segments/dead_writers.h"

#include <algorithm>
#include <cerrno>
#include <optional>

#include "segments/change_ring.h"
#include "segments/owner_lock.h"
#include "segments/segment_files.h"
#include "segments/segment_names.h"

namespace hicache::segments {

bool remove_writer_folder(const Store& store, int folder, const std::string& folder_name) {
  const std::string name = store.named(folder_name);
  for (const char* file : {ChangeRing::file_name, wants_file, owner_file}) remove_file(folder, name, file);
  return remove_folder(store.fd.get(), folder_name.c_str(), name.c_str()) == 0;
}

std::vector<Dead> take_dead(const Store& store, const std::string& except) {
  std::vector<Dead> dead;
  const Host& host = this_host();
  std::optional<bool> local;
  for (const std::string& name : folders_of(store)) {
    if (name == except || machine_of(name) != host.machine) continue;
    if (boot_of(name) != host.boot) {
      if (!local) local = is_local(store);
      if (!*local) continue;
    }
    // Whatever cannot be opened is somebody else's, or broken: it stays.
    UniqueFd folder(open_folder(store.fd.get(), name.c_str(), store.named(name).c_str()));
    if (!folder) continue;
    int owner = take_owner(store, name, folder.get(), false);
    if (owner == -ENOENT) {
      // Made, or emptied, by somebody who died before it was done: both happen under the directory's lock, which is ours. Segments without an owner's file are a riddle: they stay.
      std::vector<std::string> entries;
      if (list(folder.get(), entries, store.named(name).c_str()) != 0) continue;
      uint32_t id;
      if (std::any_of(entries.begin(), entries.end(), [&](const std::string& entry) { return file_kind(entry, id) != FileKind::none; })) continue;
      owner = take_owner(store, name, folder.get(), true);
    }
    if (owner < 0) continue;
    dead.push_back({name, std::move(folder), UniqueFd(owner)});
  }
  return dead;
}

std::vector<uint32_t> merge(const Store& store, Dead& dead, int own_folder, const std::string& own_name) {
  std::vector<uint32_t> merged;
  const std::string from = store.named(dead.name);
  bool left_alone = false;
  const FolderFiles ours = files_of(own_folder, store.named(own_name));
  for (const uint32_t id : tidy(dead.folder.get(), from, &left_alone)) {
    const std::string data = data_name(id), index = index_name(id);
    if (ours.data.count(id) != 0 || ours.index.count(id) != 0) {
      // Ids are random and never used again: this is a copy that somebody made. Which is the right one nobody knows; the space is certain.
      remove_file(dead.folder.get(), from, index);
      remove_file(dead.folder.get(), from, data);
      continue;
    }
    const std::string data_path = from + "/" + data, index_path = from + "/" + index;
    if (file_io::rename_at(dead.folder.get(), data.c_str(), own_folder, data.c_str(), data_path.c_str()) < 0 ||
        file_io::rename_at(dead.folder.get(), index.c_str(), own_folder, index.c_str(), index_path.c_str()) < 0) {
      left_alone = true;
      continue;
    }
    merged.push_back(id);
  }
  if (!merged.empty()) {
    sync(own_folder, false, store.named(own_name).c_str());
    sync(dead.folder.get(), false, from.c_str());
  }
  if (!left_alone) remove_writer_folder(store, dead.folder.get(), dead.name);
  return merged;
}

}  // namespace hicache::segments
