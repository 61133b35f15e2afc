// Disk images in files, sparse as they are, into memory and out of it.

#ifndef STAGEFS_TESTS_REPLAY_IMAGE_FILE_H_
#define STAGEFS_TESTS_REPLAY_IMAGE_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sal/simulated_image.h"

namespace stagefs::replay {

// Errors: NotFound, Internal.
absl::StatusOr<sal::SimulatedImage> LoadImage(const std::string& path);
// Writes a new file of `size_bytes`; one that is there already is replaced. Not flushed. Errors: Internal.
absl::Status SaveImage(const sal::SimulatedImage& image, uint64_t size_bytes, const std::string& path);

}  // namespace stagefs::replay

#endif  // STAGEFS_TESTS_REPLAY_IMAGE_FILE_H_
