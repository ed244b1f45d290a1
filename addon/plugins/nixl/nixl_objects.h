// Pages as objects that NIXL moves: its plugin OBJ, or another one of its plugins for objects.
//
// NIXL writes objects whole, reads ranges of them, and tells whether they are there. It neither deletes nor lists them, knows no conditions, no sizes and no metadata. So an object is what a page
// file is: the payload, zeros, and a record block, which a read checks (docs/formats.md). Nothing that the library says is believed: a slot is filled before a read, so that what a short read did
// not bring is known; an error means that there is nothing only where the library says so when it is asked; after any other error the agent is thrown away and the page tried once more; after a
// deadline the agent is given up, with the slots that it may still write to. A write that it calls a success and that stored nothing, or something else, is a miss of a later read.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "plugins/nixl/nixl_api.h"
#include "plugins/obj/obj_plugin.h"

namespace hicache::nixl {

struct ObjectsOptions {
  std::string plugin = "OBJ";
  std::map<std::string, std::string> parameters;
  unsigned depth = 256;         // transfers in flight in an agent; 1 to 256, brought into that range
  int64_t timeout_ms = 30'000;  // of one transfer, and of one call of the library
};

// `beside`: what deletes, and says what a page is (a check with flag::force); nullptr: nobody deletes, and such a check reads. nullptr with a refusal. Loads the library and makes an agent: for
// threads that may wait. Throws std::system_error.
std::unique_ptr<Plugin> try_create_objects_plugin(const ObjectsOptions&, std::unique_ptr<ObjectPlugin> beside, Refusal&);

}  // namespace hicache::nixl
