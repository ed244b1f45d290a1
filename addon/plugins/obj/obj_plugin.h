// Pages as objects of an S3-compatible store.
#pragma once

#include <memory>

#include "agent/completion_queue.h"
#include "plugins/obj/curl_api.h"
#include "plugins/obj/object_endpoint.h"
#include "plugins/plugin.h"

namespace hicache {

// nullptr with a refusal where there is no libcurl. Throws std::system_error.
std::unique_ptr<Plugin> try_create_obj_plugin(const ObjectOptions& options, Refusal& refusal);

}  // namespace hicache
