#include "plugins/gds/cufile_threads_engine.h"

namespace hicache::cufile {

std::unique_ptr<Engine> try_create_cufile_threads(const CufileThreadsOptions& options, std::string& reason, std::string& remedy) {
  auto engine = std::make_unique<CufileThreadsEngine>(options);
  if (!engine->open(reason, remedy)) return nullptr;
  return engine;
}

}  // namespace hicache::cufile
