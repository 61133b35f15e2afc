// Fuzzes the decoding of superblocks. An input says whether to begin with a superblock or with zeros, whether to make
// the checksum right in the end, and what to change in between.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/format.h"
#include "sal/check.h"
#include "tests/fuzz/input.h"

namespace stagefs::core {
namespace {

// A volume of 64 MiB, as docs/format.md has it.
Superblock Example() {
  Superblock s = {};
  s.version_major = kVersionMajor;
  s.size_blocks = 16384;
  s.log_start = kLogStart;
  s.log_blocks = 1024;
  s.table_start = 1056;
  s.table_blocks = 31;
  s.home_start = 1087;
  s.home_blocks = 15297;
  s.window_blocks = 704;
  return s;
}

// What DecodeSuperblock() promises to all who compute with the layout.
void CheckLayout(const Superblock& s) {
  STAGEFS_CHECK(s.log_start >= kLogStart && s.log_blocks >= kMinLogBlocks);
  STAGEFS_CHECK(s.log_start + s.log_blocks <= s.table_start);
  STAGEFS_CHECK(s.table_start + s.table_blocks <= s.home_start);
  STAGEFS_CHECK(s.home_start + s.home_blocks <= s.size_blocks);
  STAGEFS_CHECK(s.table_blocks * kEntriesPerTableBlock >= s.home_blocks);
  STAGEFS_CHECK(s.window_blocks >= kMinWindowBlocks && s.window_blocks <= std::min(s.log_blocks, kMaxWindowBlocks));
  STAGEFS_CHECK(s.size_blocks * kBlockBytes / kBlockBytes == s.size_blocks);
}

void Fuzz(fuzz::Input input) {
  const uint8_t how = input.Byte();
  const uint32_t slot = how & 1;
  const bool from_zeros = (how & 2) != 0, leave_checksum = (how & 4) != 0;
  std::vector<std::byte> block(kBlockBytes);
  if (!from_zeros) EncodeSuperblock(Example(), slot, block.data());
  while (!input.empty()) fuzz::Patch(input, absl::MakeSpan(block));
  if (!leave_checksum) EncodeSuperblock(Load<Superblock>(block.data()), slot, block.data());

  const absl::StatusOr<Superblock> decoded = DecodeSuperblock(block.data(), slot);
  if (!decoded.ok()) {
    STAGEFS_CHECK(absl::IsInvalidArgument(decoded.status()) || absl::IsDataLoss(decoded.status()) ||
                  absl::IsFailedPrecondition(decoded.status()));
    return;
  }
  CheckLayout(*decoded);
  STAGEFS_CHECK(ToVolumeInfo(*decoded).capacity_bytes < uint64_t{1} << 63);
  std::vector<std::byte> again(kBlockBytes);
  EncodeSuperblock(*decoded, slot, again.data());
  STAGEFS_CHECK(block == again);
  STAGEFS_CHECK(!DecodeSuperblock(block.data(), 1 - slot).ok());
}

}  // namespace
}  // namespace stagefs::core

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::core::Fuzz({data, size});
  return 0;
}
