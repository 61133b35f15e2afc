// Golden images: small volumes as some version of stagefs wrote them, kept for ever. Their files hold what is not zero
// of a store:
//
//   u64 magic "GOLDEN01" | u64 size of the store in bytes | {u64 offset | u64 length | bytes}...
//
// all little-endian, offsets ascending. Runs of zeros shorter than 16 bytes are not left out.

#ifndef STAGEFS_TESTS_GOLDEN_GOLDEN_IMAGE_H_
#define STAGEFS_TESTS_GOLDEN_GOLDEN_IMAGE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sal/simulated_image.h"

namespace stagefs::golden {

// Every golden image is of a store of this size.
inline constexpr uint64_t kStoreBytes = 16 << 20;

std::string Encode(const sal::SimulatedImage& image);
// Errors: InvalidArgument (no golden image, or cut short).
absl::StatusOr<sal::SimulatedImage> Decode(absl::string_view bytes);

}  // namespace stagefs::golden

#endif  // STAGEFS_TESTS_GOLDEN_GOLDEN_IMAGE_H_
