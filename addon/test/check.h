// What the native test programs need of a framework: a check that says where and what, and ends the program.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

// What the program is at, for the message of a failed check.
inline std::string& test_context() {
  static std::string context;
  return context;
}

inline void check_failed(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s [%s]\n", file, line, what.c_str(), test_context().c_str());
  std::exit(1);
}

#define CHECK(condition)                                             \
  do {                                                               \
    if (!(condition)) check_failed(__FILE__, __LINE__, #condition);  \
  } while (false)

#define CHECK_EQ(left, right)                                                            \
  do {                                                                                   \
    const auto left_value = (left);                                                      \
    const auto right_value = (right);                                                    \
    if (!(left_value == right_value)) {                                                  \
      std::ostringstream text;                                                           \
      text << #left << " == " << #right << ": " << left_value << " is not " << right_value; \
      check_failed(__FILE__, __LINE__, text.str());                                      \
    }                                                                                    \
  } while (false)
