#include "sal/simulated_image.h"

#include <algorithm>
#include <cstring>

namespace stagefs::sal {

namespace {

bool AllZero(const std::byte* bytes, uint64_t length) {
  return bytes[0] == std::byte{0} && std::memcmp(bytes, bytes + 1, length - 1) == 0;
}

}  // namespace

void SimulatedImage::Read(uint64_t offset_bytes, uint64_t length_bytes, void* destination) const {
  std::byte* out = static_cast<std::byte*>(destination);
  while (length_bytes > 0) {
    const uint64_t page = offset_bytes / kPageBytes, start = offset_bytes % kPageBytes;
    const uint64_t length = std::min(length_bytes, kPageBytes - start);
    const auto chunk = chunks_.find(page / kChunkPages);
    const Page* source = chunk == chunks_.end() ? nullptr : (*chunk->second)[page % kChunkPages].get();
    if (source != nullptr) {
      std::memcpy(out, source->data() + start, length);
    } else {
      std::memset(out, 0, length);
    }
    out += length;
    offset_bytes += length;
    length_bytes -= length;
  }
}

std::shared_ptr<SimulatedImage::Page>& SimulatedImage::MutableSlot(uint64_t page) {
  std::shared_ptr<Chunk>& chunk = chunks_[page / kChunkPages];
  if (chunk == nullptr) {
    chunk = std::make_shared<Chunk>();
  } else if (chunk.use_count() > 1) {
    chunk = std::make_shared<Chunk>(*chunk);
  }
  return (*chunk)[page % kChunkPages];
}

void SimulatedImage::Write(uint64_t offset_bytes, uint64_t length_bytes, const void* source) {
  const std::byte* in = static_cast<const std::byte*>(source);
  while (length_bytes > 0) {
    const uint64_t page = offset_bytes / kPageBytes, start = offset_bytes % kPageBytes;
    const uint64_t length = std::min(length_bytes, kPageBytes - start);
    std::shared_ptr<Page>& slot = MutableSlot(page);
    if (length == kPageBytes && AllZero(in, length)) {
      slot.reset();
    } else {
      if (slot == nullptr) {
        slot = std::make_shared<Page>();
      } else if (slot.use_count() > 1) {
        slot = std::make_shared<Page>(*slot);
      }
      std::memcpy(slot->data() + start, in, length);
    }
    in += length;
    offset_bytes += length;
    length_bytes -= length;
  }
}

bool SimulatedImage::Holds(uint64_t offset_bytes, uint64_t length_bytes) const {
  for (uint64_t page = offset_bytes / kPageBytes; page * kPageBytes < offset_bytes + length_bytes; ++page) {
    const auto chunk = chunks_.find(page / kChunkPages);
    if (chunk == chunks_.end() || (*chunk->second)[page % kChunkPages] == nullptr) return false;
  }
  return true;
}

void SimulatedImage::Zero(uint64_t offset_bytes, uint64_t length_bytes) {
  static constexpr Page kZeros = {};
  static constexpr uint64_t kChunkBytes = kPageBytes * kChunkPages;
  const uint64_t end = offset_bytes + length_bytes;
  // Only chunks that exist need anything done: a range may be as large as the disk.
  auto chunk = chunks_.lower_bound(offset_bytes / kChunkBytes);
  while (chunk != chunks_.end() && chunk->first * kChunkBytes < end) {
    const uint64_t chunk_start = chunk->first * kChunkBytes, chunk_end = chunk_start + kChunkBytes;
    if (offset_bytes <= chunk_start && chunk_end <= end) {
      chunk = chunks_.erase(chunk);
      continue;
    }
    uint64_t position = std::max(offset_bytes, chunk_start);
    const uint64_t stop = std::min(end, chunk_end);
    ++chunk;
    while (position < stop) {
      const uint64_t length = std::min(stop - position, kPageBytes - position % kPageBytes);
      Write(position, length, kZeros.data());
      position += length;
    }
  }
}

}  // namespace stagefs::sal
