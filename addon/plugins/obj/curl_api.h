// libcurl, loaded when it is first needed. Its headers are not: what is declared here is the part of its stable interface that we use.
#pragma once

#include <cstddef>
#include <string>

#include "util/shared_library.h"

namespace hicache::curl {

struct Easy;
struct Multi;
// As in curl.h; libcurl only reads it, so that lists can lie in memory of ours.
struct Slist {
  char* data;
  Slist* next;
};
struct Message {
  int kind;  // 1: done
  Easy* easy;
  union {
    void* whatever;
    int result;
  } data;
};

// CURLcode.
enum Code : int {
  ok = 0, url_malformat = 3, couldnt_connect = 7, partial_file = 18, write_error = 23, read_error = 26,
  out_of_memory = 27, timed_out = 28, aborted_by_callback = 42, got_nothing = 52, send_error = 55, recv_error = 56, ssl_certproblem = 58, peer_failed_verification = 60,
  ssl_cacert_badfile = 77, again = 81, ssl_issuer_error = 83
};

namespace option {
inline constexpr int buffer_size = 98, ca_info = 10065, connect_only = 141, connect_timeout_ms = 156, error_buffer = 10010, http_header = 10023, http_version = 84,
                     in_file_size_large = 30115, no_body = 44, no_proxy = 10177, no_signal = 99, private_data = 10103, proxy = 10004, quick_exit = 322, read_data = 10009,
                     read_function = 20012, tcp_keepalive = 213, tcp_nodelay = 121, upload = 46, upload_buffer_size = 280, url = 10002, write_data = 10001, write_function = 20011;
}
namespace multi_option {
inline constexpr int max_connects = 6, pipelining = 3, socket_data = 10002, socket_function = 20001, timer_data = 10005, timer_function = 20004;
}
namespace info {
inline constexpr int active_socket = 0x500000 + 44, os_errno = 0x200000 + 25, private_data = 0x100000 + 21, response_code = 0x200000 + 2;
}
namespace poll {
inline constexpr int none = 0, in = 1, out = 2, remove = 4;
}
inline constexpr int http_version_1_1 = 2, select_in = 1, select_out = 2, select_error = 4, socket_timeout = -1, message_done = 1;
inline constexpr size_t error_text_bytes = 256;

// The functions. One instance for the process; never unloaded, because its threads (name resolution) may outlive whoever used it.
struct Api {
  std::string path;     // what was loaded
  std::string version;  // its own words

  Easy* (*easy_init)() = nullptr;
  void (*easy_cleanup)(Easy*) = nullptr;
  void (*easy_reset)(Easy*) = nullptr;
  int (*easy_setopt)(Easy*, int, ...) = nullptr;
  int (*easy_getinfo)(Easy*, int, ...) = nullptr;
  const char* (*easy_strerror)(int) = nullptr;
  int (*easy_send)(Easy*, const void*, size_t, size_t*) = nullptr;
  int (*easy_recv)(Easy*, void*, size_t, size_t*) = nullptr;
  Multi* (*multi_init)() = nullptr;
  int (*multi_cleanup)(Multi*) = nullptr;
  int (*multi_add_handle)(Multi*, Easy*) = nullptr;
  int (*multi_remove_handle)(Multi*, Easy*) = nullptr;
  int (*multi_socket_action)(Multi*, int, int, int*) = nullptr;
  int (*multi_assign)(Multi*, int, void*) = nullptr;
  int (*multi_setopt)(Multi*, int, ...) = nullptr;
  Message* (*multi_info_read)(Multi*, int*) = nullptr;
  // Of the bench alone.
  int (*multi_perform)(Multi*, int*) = nullptr;
  int (*multi_poll)(Multi*, void*, unsigned, int, int*) = nullptr;
};

// nullptr, with the refusal, where it cannot be had; asked again it is tried again. May read files: for threads that may wait.
const Api* load(Refusal&);

}  // namespace hicache::curl
