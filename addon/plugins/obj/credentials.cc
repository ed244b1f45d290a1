#include "plugins/obj/credentials.h"

#include <map>
#include <mutex>
#include <utility>

namespace hicache {
namespace {

struct Known {
  std::mutex mutex;
  std::map<uint32_t, std::shared_ptr<const Credentials>> all;
  uint32_t next = 1;
};
Known& known() {
  static Known* const the_known = new Known;  // never destroyed: threads may outlive main()
  return *the_known;
}

}  // namespace

CredentialStore& CredentialStore::instance() {
  static CredentialStore store;
  return store;
}

uint32_t CredentialStore::set(uint32_t id, Credentials credentials) {
  auto fresh = std::make_shared<const Credentials>(std::move(credentials));
  Known& here = known();
  std::lock_guard lock(here.mutex);
  if (id == 0) id = here.next++;
  else if (!here.all.contains(id)) return 0;
  here.all[id] = std::move(fresh);
  return id;
}

bool CredentialStore::remove(uint32_t id) {
  Known& here = known();
  std::lock_guard lock(here.mutex);
  return here.all.erase(id) > 0;
}

std::shared_ptr<const Credentials> CredentialStore::find(uint32_t id) const {
  Known& here = known();
  std::lock_guard lock(here.mutex);
  const auto found = here.all.find(id);
  return found == here.all.end() ? nullptr : found->second;
}

}  // namespace hicache
