// MemoryPages: a file's content in memory: pages that have been written, and holes between them that read as zeros.
//
// Not thread-safe.

#ifndef STAGEFS_FS_FUSE_TESTING_MEMORY_PAGES_H_
#define STAGEFS_FS_FUSE_TESTING_MEMORY_PAGES_H_

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "absl/types/span.h"

namespace stagefs::fuse::testing {

class MemoryPages {
 public:
  static constexpr uint64_t kPageBytes = 4096;

  void Read(uint64_t offset, absl::Span<std::byte> destination) const;
  void Write(uint64_t offset, absl::Span<const std::byte> bytes);
  // Bytes [begin, end) become zeros. Whole pages become holes.
  void Zero(uint64_t begin, uint64_t end);
  // No holes are left in [begin, end).
  void Fill(uint64_t begin, uint64_t end);

  // The first offset from `offset` that lies in a page, or in a hole.
  std::optional<uint64_t> FindData(uint64_t offset) const;
  uint64_t FindHole(uint64_t offset) const;
  uint64_t allocated_bytes() const { return page_count_ * kPageBytes; }

 private:
  // Several pages, so that large files need few of them; memory that was never written is never touched.
  static constexpr uint64_t kChunkPages = 16;
  static constexpr uint64_t kChunkBytes = kChunkPages * kPageBytes;
  struct Chunk {
    std::bitset<kChunkPages> present;
    std::array<std::byte, kChunkBytes> bytes;
  };

  // Calls do_piece(chunk index, offset in the chunk, size, bytes before this piece) for each chunk's part.
  template <typename DoPiece>
  static void ForEachPiece(uint64_t offset, uint64_t size, DoPiece do_piece);
  bool IsPresent(uint64_t page) const;
  // Its page of `chunk` is there afterwards, with zeros if it was not.
  void Touch(Chunk& chunk, uint64_t page_in_chunk);
  Chunk& ChunkAt(uint64_t index);

  std::map<uint64_t, std::unique_ptr<Chunk>> chunks_;
  uint64_t page_count_ = 0;
};

}  // namespace stagefs::fuse::testing

#endif  // STAGEFS_FS_FUSE_TESTING_MEMORY_PAGES_H_
