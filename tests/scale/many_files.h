// Makes a volume with very many files, through the volume's own operations, as fast as one thread can.
//
// A tree of directories of a thousand files each. Of ten files one is empty, seven hold some 100 bytes (in the tree),
// and two hold 6000 bytes in blocks, one of them behind a hole; one in a hundred holds 80000. One in ten has a second name,
// one in ten an attribute, one in a thousand an attribute of 5000 bytes.

#ifndef STAGEFS_TESTS_SCALE_MANY_FILES_H_
#define STAGEFS_TESTS_SCALE_MANY_FILES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace stagefs::scale {

// Makes an image at `path`, which must not exist, of a size that fits. Blocks; all is on the store on return.
absl::Status MakeManyFiles(const std::string& path, uint64_t files);

}  // namespace stagefs::scale

#endif  // STAGEFS_TESTS_SCALE_MANY_FILES_H_
