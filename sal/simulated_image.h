// SimulatedImage: the content of a simulated disk. Sparse, and cheap to copy: copies share their pages until one
// of them changes a page, so that a sweep can start thousands of runs from one formatted image.
//
// Not thread-safe. Copies may be used on different threads.

#ifndef STAGEFS_SAL_SIMULATED_IMAGE_H_
#define STAGEFS_SAL_SIMULATED_IMAGE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

namespace stagefs::sal {

class SimulatedImage {
 public:
  // Any offset and length; what was never written reads as zeros.
  void Read(uint64_t offset_bytes, uint64_t length_bytes, void* destination) const;
  void Write(uint64_t offset_bytes, uint64_t length_bytes, const void* source);
  void Zero(uint64_t offset_bytes, uint64_t length_bytes);

  // Calls visit(number, kPageBytes bytes) for every page that may be other than zeros, in ascending order.
  template <typename Visit>
  void ForEachPage(Visit visit) const {
    for (const auto& [number, chunk] : chunks_) {
      for (uint64_t i = 0; i < kChunkPages; ++i) {
        if ((*chunk)[i] != nullptr) visit(number * kChunkPages + i, (*chunk)[i]->data());
      }
    }
  }

  // Whether all of the range lies in pages that hold something else than zeros.
  bool Holds(uint64_t offset_bytes, uint64_t length_bytes) const;

  static constexpr uint64_t kPageBytes = 4096;
  static constexpr uint64_t kChunkPages = 256;

 private:
  using Page = std::array<std::byte, kPageBytes>;
  using Chunk = std::array<std::shared_ptr<Page>, kChunkPages>;

  // The page's place, in a chunk that belongs to this image alone.
  std::shared_ptr<Page>& MutableSlot(uint64_t page);

  // By number; no chunk and no page mean zeros.
  std::map<uint64_t, std::shared_ptr<Chunk>> chunks_;
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_SIMULATED_IMAGE_H_
