// What golden images hold: written by make_golden, expected by golden_test. contents.txt says it in words; all of it must
// stay as it is, since the images do.

#ifndef STAGEFS_TESTS_GOLDEN_GOLDEN_VOLUME_H_
#define STAGEFS_TESTS_GOLDEN_GOLDEN_VOLUME_H_

#include <string>

#include "absl/status/status.h"
#include "fs/volume/volume.h"

namespace stagefs::golden {

// Makes all that a volume can hold: files of every size and kind, links, attributes, holes, an orphan that is still
// open. Durable on return.
absl::Status Fill(volume::Volume& volume);
// Everything that a user can see, as text: names, attributes, contents (their hashes), extended attributes.
std::string Describe(volume::Volume& volume);
}  // namespace stagefs::golden

#endif  // STAGEFS_TESTS_GOLDEN_GOLDEN_VOLUME_H_
