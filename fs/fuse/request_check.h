// CheckRequest(): whether a request holds what its kind must hold. The library, and the handlers, read what they expect
// to find, whether or not it is there.

#ifndef STAGEFS_FS_FUSE_REQUEST_CHECK_H_
#define STAGEFS_FS_FUSE_REQUEST_CHECK_H_

#include <cstddef>

#include "absl/types/span.h"

namespace stagefs::fuse {

// 0 if `request`, a fuse_in_header and what follows it, is of a known opcode, has the whole of that opcode's structure,
// names that end, and as many bytes of data as it announces. Otherwise the error to answer: ENOSYS for an opcode that
// nobody here knows, else EIO. Cheap: looks at nothing but lengths and names.
int CheckRequest(absl::Span<const std::byte> request);

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_REQUEST_CHECK_H_
