// The stand-in of usrbio as an older version of the library: without iorcreate4.
#define NO_IORCREATE4
#include "usrbio.cc"
