// What the speed of hicache-nixl with the memory of a GPU is compared with: loops over cuFile and over POSIX, with nothing of ours in between. Run by scripts/try-gpu.mjs, which compiles it:
//   g++ -std=c++20 -O2 -o gpu-loops scripts/gpu-loops.cc -ldl -lpthread
//   gpu-loops threads|batch|posix PAGE-BYTES WIDTH FILE...     each file is a page; WIDTH: threads, or requests in a batch
// Prints one line of JSON: bytes, seconds, and of the first page a checksum. Files are opened, and registered with cuFile, within the time that is taken: so does a store
// whose pages are files. The declarations are ours, from the facts of the interfaces; the libraries are loaded when it runs.
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Error {
  int32_t code, cuda;
};
struct Description {
  int32_t type;
  int32_t padding;
  union {
    int fd;
    void* whole;
  };
  const void* operations;
};
static_assert(sizeof(Description) == 24);
struct Entry {
  int32_t mode;
  void* base;
  off_t file_offset, buffer_offset;
  size_t size;
  void* handle;
  int32_t operation;
  void* cookie;
};
static_assert(sizeof(Entry) == 64);
struct Event {
  void* cookie;
  int32_t status;
  size_t count;
};
static_assert(sizeof(Event) == 24);
constexpr int32_t complete = 0x10;
constexpr size_t openers = 8;  // threads that open files for the batches

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "gpu-loops: %s\n", what.c_str());
  std::exit(1);
}
void* library(const char* variable, std::initializer_list<const char*> names) {
  const char* const named = std::getenv(variable);
  std::string why;
  if (named != nullptr && *named != '\0') {
    if (void* const found = ::dlopen(named, RTLD_NOW | RTLD_GLOBAL)) return found;
    fail(::dlerror());
  }
  for (const char* name : names) {
    if (void* const found = ::dlopen(name, RTLD_NOW | RTLD_GLOBAL)) return found;
    why = ::dlerror();
  }
  fail(why);
}
template <typename Function>
Function* find(void* from, const char* name) {
  void* const symbol = ::dlsym(from, name);
  if (symbol == nullptr) fail(std::string("no ") + name);
  return reinterpret_cast<Function*>(symbol);
}
void cuda(int result, const char* what) {
  if (result != 0) fail(std::string(what) + ": CUDA error " + std::to_string(result));
}
void cufile(Error error, const char* what) {
  if (error.code != 0) fail(std::string(what) + ": cuFile error " + std::to_string(error.code) + ", CUDA error " + std::to_string(error.cuda));
}
uint64_t checksum(const uint8_t* bytes, size_t length) {
  uint64_t sum = 1469598103934665603u;
  for (size_t i = 0; i < length; i++) sum = (sum ^ bytes[i]) * 1099511628211u;
  return sum;
}

struct Page {
  int fd = -1;
  void* handle = nullptr;
};

// Every page once, by `width` threads; `move` answers bytes.
template <typename Begin, typename Move>
void in_threads(size_t width, size_t pages, Begin begin, Move move) {
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (size_t i = 0; i < width; i++) {
    threads.emplace_back([&] {
      begin();
      for (size_t page; (page = next.fetch_add(1)) < pages;) move(page);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

}  // namespace

int main(int count, char** arguments) {
  if (count < 5) fail("gpu-loops threads|batch|posix PAGE-BYTES WIDTH FILE...");
  const std::string arm = arguments[1];
  const size_t bytes = std::strtoull(arguments[2], nullptr, 10), width = std::strtoull(arguments[3], nullptr, 10), pages = static_cast<size_t>(count) - 4;
  if (bytes == 0 || width == 0 || (arm != "threads" && arm != "batch" && arm != "posix")) fail("an argument is wrong");
  const auto open = [&](size_t page) {
    // Some file systems have no O_DIRECT; the page cache is a worse ceiling than none.
    int fd = ::open(arguments[page + 4], O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd < 0 && errno == EINVAL) fd = ::open(arguments[page + 4], O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(std::string(arguments[page + 4]) + ": " + std::strerror(errno));
    return fd;
  };
  double seconds = 0;
  uint64_t sum = 0;

  if (arm == "posix") {
    std::vector<uint8_t*> memory(pages);
    for (uint8_t*& part : memory) {
      part = static_cast<uint8_t*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
      if (part == nullptr) fail("no memory");
      std::memset(part, 0, bytes);
    }
    const auto start = std::chrono::steady_clock::now();
    in_threads(width, pages, [] {}, [&](size_t page) {
      const int file = open(page);
      for (size_t at = 0; at < bytes;) {
        const ssize_t part = ::pread(file, memory[page] + at, bytes - at, static_cast<off_t>(at));
        if (part <= 0) fail("pread: " + std::string(part < 0 ? std::strerror(errno) : "the file is short"));
        at += static_cast<size_t>(part);
      }
      ::close(file);
    });
    seconds = seconds_since(start);
    sum = checksum(memory[0], bytes);
  } else {
    void* const driver = library("HICACHE_NIXL_CUDA_PATH", {"libcuda.so.1"});
    void* const gds = library("HICACHE_NIXL_CUFILE_PATH", {"libcufile.so.0", "libcufile.so"});
    void* context = nullptr;
    int device = 0;
    uint64_t address = 0;
    cuda(find<int(unsigned)>(driver, "cuInit")(0), "cuInit");
    cuda(find<int(int*, int)>(driver, "cuDeviceGet")(&device, 0), "cuDeviceGet");
    cuda(find<int(void**, int)>(driver, "cuDevicePrimaryCtxRetain")(&context, device), "cuDevicePrimaryCtxRetain");
    const auto current = find<int(void*)>(driver, "cuCtxSetCurrent");
    cuda(current(context), "cuCtxSetCurrent");
    cuda(find<int(uint64_t*, size_t)>(driver, "cuMemAlloc_v2")(&address, bytes * pages), "cuMemAlloc");
    cufile(find<Error()>(gds, "cuFileDriverOpen")(), "cuFileDriverOpen");
    cufile(find<Error(const void*, size_t, int)>(gds, "cuFileBufRegister")(reinterpret_cast<void*>(address), bytes * pages, 0), "cuFileBufRegister");
    const auto enter = find<Error(void**, const Description*)>(gds, "cuFileHandleRegister");
    std::vector<Page> files(pages);
    const auto prepare = [&](size_t i) {
      files[i].fd = open(i);
      Description description{};
      description.whole = nullptr;
      description.type = 1;
      description.fd = files[i].fd;
      cufile(enter(&files[i].handle, &description), "cuFileHandleRegister");
    };
    const auto place = [&](size_t page) { return reinterpret_cast<void*>(address + page * bytes); };
    if (arm == "threads") {
      const auto read = find<ssize_t(void*, void*, size_t, off_t, off_t)>(gds, "cuFileRead");
      const auto start = std::chrono::steady_clock::now();
      in_threads(width, pages, [&] { cuda(current(context), "cuCtxSetCurrent"); }, [&](size_t page) {
        prepare(page);
        const ssize_t moved = read(files[page].handle, place(page), bytes, 0, 0);
        if (moved != static_cast<ssize_t>(bytes)) fail("cuFileRead: " + std::to_string(moved) + (moved == -1 ? std::string(" ") + std::strerror(errno) : ""));
      });
      seconds = seconds_since(start);
    } else {
      const auto submit = find<Error(void*, unsigned, Entry*, unsigned)>(gds, "cuFileBatchIOSubmit");
      const auto status = find<Error(void*, unsigned, unsigned*, Event*, timespec*)>(gds, "cuFileBatchIOGetStatus");
      void* batch = nullptr;
      cufile(find<Error(void**, unsigned)>(gds, "cuFileBatchIOSetUp")(&batch, static_cast<unsigned>(width)), "cuFileBatchIOSetUp");
      std::vector<Event> events(width);
      const auto start = std::chrono::steady_clock::now();
      in_threads(openers, pages, [&] { cuda(current(context), "cuCtxSetCurrent"); }, prepare);
      for (size_t first = 0; first < pages; first += width) {
        const size_t many = std::min(width, pages - first);
        std::vector<Entry> entries(many);
        for (size_t i = 0; i < many; i++) {
          entries[i] = {};
          entries[i].mode = 1;
          entries[i].base = place(first + i);
          entries[i].size = bytes;
          entries[i].handle = files[first + i].handle;
          entries[i].cookie = reinterpret_cast<void*>(first + i + 1);
        }
        cufile(submit(batch, static_cast<unsigned>(many), entries.data(), 0), "cuFileBatchIOSubmit");
        for (size_t left = many; left > 0;) {
          unsigned told = static_cast<unsigned>(left);
          timespec limit{1, 0};
          cufile(status(batch, 1, &told, events.data(), &limit), "cuFileBatchIOGetStatus");
          for (unsigned i = 0; i < told; i++) {
            if (events[i].status < complete && events[i].status != 4 && events[i].status != 8) continue;
            if (events[i].status != complete || events[i].count != bytes) fail("a batch's entry ended with status " + std::to_string(events[i].status));
            left--;
          }
        }
      }
      seconds = seconds_since(start);
      find<void(void*)>(gds, "cuFileBatchIODestroy")(batch);
    }
    std::vector<uint8_t> first(bytes);
    cuda(find<int(void*, uint64_t, size_t)>(driver, "cuMemcpyDtoH_v2")(first.data(), address, bytes), "cuMemcpyDtoH");
    sum = checksum(first.data(), bytes);
    for (const Page& page : files) {
      find<void(void*)>(gds, "cuFileHandleDeregister")(page.handle);
      ::close(page.fd);
    }
    cufile(find<Error(const void*)>(gds, "cuFileBufDeregister")(reinterpret_cast<void*>(address)), "cuFileBufDeregister");
    cuda(find<int(uint64_t)>(driver, "cuMemFree_v2")(address), "cuMemFree");
    cufile(find<Error()>(gds, "cuFileDriverClose_v2")(), "cuFileDriverClose");
  }
  std::printf("{\"bytes\":%zu,\"seconds\":%.6f,\"sum\":\"%016llx\"}\n", bytes * pages, seconds, static_cast<unsigned long long>(sum));
  return 0;
}
