// OpenFile: opens and locks an image file or a block device, and finds out what it is like. The I/O is FileStore's.

#ifndef STAGEFS_SAL_OPENED_FILE_H_
#define STAGEFS_SAL_OPENED_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "sal/block_store.h"
#include "sal/open_store.h"

namespace stagefs::sal {

// Owns `fd` and closes it, and with it ends the lock, unless it was moved out (set to -1).
class OpenedFile {
 public:
  OpenedFile() = default;
  OpenedFile(OpenedFile&& other) noexcept;
  OpenedFile& operator=(OpenedFile&& other) = delete;
  ~OpenedFile();

  int fd = -1;
  Geometry geometry;
  bool block_device = false;
  bool read_only = false;
  std::string note;  // what the user should know, or empty
};

// Errors as OpenStore(); `name` is the URL, for messages.
absl::StatusOr<OpenedFile> OpenFile(const std::string& name, const std::string& path, const OpenStoreOptions& options);

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_OPENED_FILE_H_
