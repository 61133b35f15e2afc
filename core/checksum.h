// Checksums: XXH3 (64 bit), the one checksum of everything that leaves memory.
//
// It is not cryptographic: it finds what decays, tears, or lands elsewhere, not what an enemy forges.

#ifndef STAGEFS_CORE_CHECKSUM_H_
#define STAGEFS_CORE_CHECKSUM_H_

#include <cstddef>
#include <cstdint>

#include "core/types.h"

namespace stagefs::core {

// XXH3-64 of `size_bytes` bytes with `seed`.
uint64_t Hash(const void* data, size_t size_bytes, uint64_t seed);

// The hash of a block's content, whatever block it is.
uint64_t ContentHash(const std::byte* block_data);

// Entries of the checksum table. Values below kFirstChecksum are states, not checksums.
inline constexpr uint64_t kNeverWritten = 0;  // reads as zeros, without I/O
inline constexpr uint64_t kPoisoned = 1;      // content lost; DataLoss until the whole block is overwritten
inline constexpr uint64_t kFirstChecksum = 16;

// The table entry for home block `block` of a volume with `volume_salt` whose content hashes to `content_hash`. Mixing
// in the address makes a block that was written to, or read from, another place fail its check.
uint64_t TableEntry(uint64_t content_hash, Block block, uint64_t volume_salt);

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_CHECKSUM_H_
