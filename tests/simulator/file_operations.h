// FileOperations: random operations on a volume, chosen so that they often make sense on what is there, and often meet
// each other.

#ifndef STAGEFS_TESTS_SIMULATOR_FILE_OPERATIONS_H_
#define STAGEFS_TESTS_SIMULATOR_FILE_OPERATIONS_H_

#include <cstdint>
#include <string>

#include "sal/random.h"
#include "tests/simulator/file_tree.h"

namespace stagefs::simulator {

struct FileOperationsOptions {
  uint64_t names = 12;               // how many different ones a directory can have
  uint64_t directories = 8;          // more are not made
  uint64_t largest_write = 64 << 10;  // at most volume::kMaxWriteBytes
  uint64_t largest_file = 1 << 20;   // writes begin below it
  bool sparse = false;               // and sometimes far behind it
};

class FileOperations {
 public:
  FileOperations(const FileOperationsOptions& options, uint64_t seed) : options_(options), random_(seed) {}

  FileOp Next(const FileTree& tree);

 private:
  Ino AnyInode(const FileTree& tree);
  Ino AnyFile(const FileTree& tree);
  Ino AnyDirectory(const FileTree& tree);
  std::string AnyName();
  void ChooseRange(const FileTree& tree, uint64_t largest, FileOp* op);
  void ChooseChange(const FileTree& tree, FileOp* op);

  const FileOperationsOptions options_;
  sal::Random64 random_;
  uint64_t serial_ = 0;
  uint64_t mood_ = 0;       // what is done more often just now
  uint64_t mood_left_ = 0;  // operations until it changes
};

}  // namespace stagefs::simulator

#endif  // STAGEFS_TESTS_SIMULATOR_FILE_OPERATIONS_H_
