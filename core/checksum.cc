#include "core/checksum.h"

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // the widest vectors that this CPU has; the same values
#else
#include <xxhash.h>
#endif

namespace stagefs::core {

uint64_t Hash(const void* data, size_t size_bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(data, size_bytes, seed);
}

uint64_t ContentHash(const std::byte* block_data) { return XXH3_64bits(block_data, kBlockBytes); }

uint64_t TableEntry(uint64_t content_hash, Block block, uint64_t volume_salt) {
  // The finalizer of MurmurHash3 spreads neighbouring block numbers over all 64 bits.
  uint64_t mixed = block ^ volume_salt;
  mixed = (mixed ^ (mixed >> 33)) * 0xff51afd7ed558ccdull;
  mixed = (mixed ^ (mixed >> 33)) * 0xc4ceb9fe1a85ec53ull;
  mixed ^= mixed >> 33;
  const uint64_t entry = content_hash ^ mixed;
  return entry < kFirstChecksum ? entry + kFirstChecksum : entry;
}

}  // namespace stagefs::core
