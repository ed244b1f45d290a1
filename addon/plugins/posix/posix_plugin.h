// Files of local and mounted file systems, and the files whose bytes another system moves. Whatever can block in a file system runs on the directory's pool; the data of reads moves through the
// directory's engine where it has one (O_DIRECT on a local file system), else on the pool too.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "engine/engine.h"
#include "plugins/plugin.h"
#include "pool/directory_pool.h"
#include "util/shared_library.h"

namespace hicache {

struct PosixDirectoryOptions {
  std::string path;
  bool direct = false;
  bool engine = false;
  // Kept as a duplicate, and registered with an io_uring (EngineOptions::hold_fd), until the last operation has ended. -1 = none.
  int hold_fd = -1;
};
// Makes an engine of another system's, which moves the bytes of files that this plugin opens. nullptr with a refusal.
using EngineFactory = std::function<std::unique_ptr<Engine>(Refusal&)>;

struct PosixOptions {
  std::string engine;
  // Of a system with a data path of its own (3FS, NIXL): it moves all bytes, with O_DIRECT or without, those of new files too. Empty: `engine`, where a directory says so.
  EngineFactory data_path;
  // Makes a file that was opened known to that system, for as long as the answer lives, which ends before the file is closed. May block. Empty: there is no need.
  std::function<std::shared_ptr<void>(int fd)> register_file;
  // Moves what lies in a GPU's memory (cuFile). Empty: nothing does.
  EngineFactory device_path;
  std::vector<PosixDirectoryOptions> directories;
  unsigned queue_depth = 64;
  unsigned threads = 8;
};

// nullptr with a refusal when the system lacks it, or the name is not known.
std::unique_ptr<Engine> try_create_engine(const std::string& name, const EngineOptions&, Refusal&);

// nullptr with a refusal when the engine that was asked for cannot be had. Throws std::system_error when a hold_fd cannot be duplicated.
std::unique_ptr<Plugin> try_create_posix_plugin(const PosixOptions&, const std::shared_ptr<CompletionQueue>&, Refusal&);

}  // namespace hicache
