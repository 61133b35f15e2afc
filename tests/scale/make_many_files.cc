// make_many_files IMAGE COUNT: an image for measuring `stagefs fsck` by hand.

#include <cstdio>
#include <cstdlib>

#include "tests/scale/many_files.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: make_many_files IMAGE COUNT\n");
    return 2;
  }
  const absl::Status status = stagefs::scale::MakeManyFiles(argv[1], std::strtoull(argv[2], nullptr, 10));
  if (!status.ok()) std::fprintf(stderr, "make_many_files: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
