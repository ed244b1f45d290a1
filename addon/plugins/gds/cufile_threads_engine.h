// GDS_MT: threads that call cuFileRead and cuFileWrite, one call each.
#pragma once

#include <string>

#include "plugins/gds/cufile_engine.h"

namespace hicache::cufile {

class CufileThreadsEngine final : public CufileEngine {
 public:
  explicit CufileThreadsEngine(const CufileThreadsOptions& options) : CufileEngine(options.max_request_size, false), threads_(options.thread_count) {}
  ~CufileThreadsEngine() override { stop_threads(); }

  const char* name() const override { return "cufile_threads"; }
  bool open(std::string& reason, std::string& remedy) { return CufileEngine::open(threads_ == 0 ? 1 : threads_, reason, remedy); }

 private:
  const unsigned threads_;
};

}  // namespace hicache::cufile
