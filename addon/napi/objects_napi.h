// Options of object stores, for the agent and for `objects`.
#pragma once

#include <string>

#include "napi/support_napi.h"
#include "plugins/obj/object_endpoint.h"

namespace hicache {

// False, with an exception pending, when something is wrong with them.
bool object_options_of(Napi::Object options, ObjectOptions& out);

}  // namespace hicache
