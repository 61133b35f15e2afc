// 64 bytes by pwrite(2) and fdatasync(2): durable_pwrite FILE SECONDS. FILE is made.

#include <unistd.h>

#include <cstdint>

#include "tests/bench/durable_stores/measured.h"

int main(int argc, char** argv) {
  using namespace stagefs::bench;
  const double seconds = SecondsOf(argc, argv);
  const int fd = MakeFile(argv[1]);
  char bytes[kStoreBytes] = {};
  return Measure(seconds, [&](uint64_t offset) {
    ++bytes[0];
    return pwrite(fd, bytes, sizeof(bytes), offset) == static_cast<ssize_t>(sizeof(bytes)) && fdatasync(fd) == 0;
  });
}
