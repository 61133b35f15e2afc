// 64 bytes stored into a mapping and made durable by libpmem: durable_pmem FILE SECONDS. FILE is made.
//
// On a file system without DAX libpmem itself says to use pmem_msync(), which is msync(2) of the page.

#include <libpmem.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "tests/bench/durable_stores/measured.h"

int main(int argc, char** argv) {
  using namespace stagefs::bench;
  const double seconds = SecondsOf(argc, argv);
  close(MakeFile(argv[1]));
  size_t mapped = 0;
  int is_pmem = 0;
  char* const memory = static_cast<char*>(pmem_map_file(argv[1], 0, 0, 0, &mapped, &is_pmem));
  if (memory == nullptr) {
    std::fprintf(stderr, "%s: %s\n", argv[1], pmem_errormsg());
    return 1;
  }
  char bytes[kStoreBytes] = {};
  return Measure(seconds, [&](uint64_t offset) {
    ++bytes[0];
    std::memcpy(memory + offset, bytes, sizeof(bytes));
    if (is_pmem == 0) return pmem_msync(memory + offset, sizeof(bytes)) == 0;
    pmem_persist(memory + offset, sizeof(bytes));
    return true;
  });
}
