// Errno and absl::Status: the one place in fs/ that turns one into the other.

#ifndef STAGEFS_FS_VOLUME_ERRNO_H_
#define STAGEFS_FS_VOLUME_ERRNO_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace stagefs::volume {

// A status that ToErrno() turns back into exactly `error` (ENOENT, ENOTEMPTY, ...). For ENOSPC its code is
// ResourceExhausted, so that the engine looks for pending releases before it is believed.
absl::Status ErrnoStatus(int error, absl::string_view message = "");

// 0 for OK; what ErrnoStatus() was given; else by code: ResourceExhausted ENOSPC, DataLoss and Unavailable EIO,
// FailedPrecondition (the volume is read-only after a failure) EROFS, InvalidArgument EINVAL, anything else EIO.
int ToErrno(const absl::Status& status);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_ERRNO_H_
