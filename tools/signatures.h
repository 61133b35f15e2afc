// What already lies on a store, so that mkfs does not overwrite somebody's data unasked.

#ifndef STAGEFS_TOOLS_SIGNATURES_H_
#define STAGEFS_TOOLS_SIGNATURES_H_

#include <cstddef>
#include <string>

#include "absl/types/span.h"

namespace stagefs::tools {

// How many bytes from the start of a store FindSignature() looks at.
inline constexpr size_t kSignatureBytes = 128 << 10;

// The file system, swap area or partition table whose signature is in `start` (at most kSignatureBytes are looked at,
// a shorter store may give fewer), in words for a message, such as "an ext4 file system"; empty if none is known.
// stagefs itself is not among them: core::Engine::Inspect() knows better.
std::string FindSignature(absl::Span<const std::byte> start);

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_SIGNATURES_H_
