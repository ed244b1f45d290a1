// An agent of NIXL's with one backend: what a session is made of, whatever it moves.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "plugins/nixl/nixl_api.h"

namespace hicache::nixl {

class AgentOfOne {
 public:
  AgentOfOne(const Api& api, std::string name) : api(api), name(std::move(name)) {}
  // Whoever has called the library for it from another thread has come back, or has set `agent` to nullptr.
  ~AgentOfOne();
  AgentOfOne(const AgentOfOne&) = delete;
  AgentOfOne& operator=(const AgentOfOne&) = delete;

  // Makes it. False with a refusal, also where the plugin does not move `storage` (a memory type) to and from memory of the host.
  bool open(const std::string& plugin, const std::map<std::string, std::string>& parameters, int storage, Refusal&);
  bool moves(int memory_type) const;

  const Api& api;
  const std::string name;
  Agent* agent = nullptr;
  OptArgs* opt = nullptr;

 private:
  Backend* backend_ = nullptr;
  std::vector<int> memory_types_;
};

// hicache-PID-NUMBER, no two the same in a process.
std::string next_agent_name();
// What a plugin needs beyond NIXL, and where its own words are to be found: for remedies.
std::string plugin_remedy(const std::string& plugin);

}  // namespace hicache::nixl
