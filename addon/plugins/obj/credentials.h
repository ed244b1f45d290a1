// Keys that requests are signed with, known to JavaScript only by a number. Those of one number may be replaced at any time: the next signature has the new ones.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace hicache {

struct Credentials {
  std::string access_key, secret_key, session_token;
};

// Any thread.
class CredentialStore {
 public:
  static CredentialStore& instance();

  // 0: a new number. Answers the number; 0 when `id` is not known.
  uint32_t set(uint32_t id, Credentials credentials);
  bool remove(uint32_t id);
  // nullptr: not known (any more).
  std::shared_ptr<const Credentials> find(uint32_t id) const;
};

}  // namespace hicache
