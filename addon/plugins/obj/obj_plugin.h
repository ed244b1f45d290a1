// Pages as objects of an S3-compatible store.
#pragma once

#include <memory>
#include <vector>

#include "agent/completion_queue.h"
#include "plugins/obj/curl_api.h"
#include "plugins/obj/object_endpoint.h"
#include "plugins/plugin.h"

namespace hicache {

class ObjectPlugin : public Plugin {
 public:
  // Some operations of a batch. `kept` is set, and has to stay as long as the batch.
  virtual void start_these(const std::vector<Operation*>& operations, std::shared_ptr<void>& kept) = 0;
};

// nullptr with a refusal where there is no libcurl. Throws std::system_error.
std::unique_ptr<ObjectPlugin> try_create_obj_plugin(const ObjectOptions& options, Refusal& refusal);

}  // namespace hicache
