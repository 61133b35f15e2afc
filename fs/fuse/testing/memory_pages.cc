#include "fs/fuse/testing/memory_pages.h"

#include <string.h>

#include <algorithm>

namespace stagefs::fuse::testing {

template <typename DoPiece>
void MemoryPages::ForEachPiece(uint64_t offset, uint64_t size, DoPiece do_piece) {
  for (uint64_t done = 0; done < size;) {
    const uint64_t at = offset + done, in_chunk = at % kChunkBytes;
    const uint64_t count = std::min(kChunkBytes - in_chunk, size - done);
    do_piece(at / kChunkBytes, in_chunk, count, done);
    done += count;
  }
}

MemoryPages::Chunk& MemoryPages::ChunkAt(uint64_t index) {
  std::unique_ptr<Chunk>& chunk = chunks_[index];
  if (chunk == nullptr) chunk.reset(new Chunk);  // not value-initialized: pages are cleared when first used
  return *chunk;
}

void MemoryPages::Touch(Chunk& chunk, uint64_t page_in_chunk) {
  if (chunk.present[page_in_chunk]) return;
  chunk.present[page_in_chunk] = true;
  ++page_count_;
  memset(chunk.bytes.data() + page_in_chunk * kPageBytes, 0, kPageBytes);
}

void MemoryPages::Read(uint64_t offset, absl::Span<std::byte> destination) const {
  ForEachPiece(offset, destination.size(), [&](uint64_t index, uint64_t in_chunk, uint64_t count, uint64_t done) {
    std::byte* const to = destination.data() + done;
    const auto found = chunks_.find(index);
    if (found == chunks_.end()) {
      memset(to, 0, count);
    } else if (found->second->present.all()) {
      memcpy(to, found->second->bytes.data() + in_chunk, count);
    } else {
      for (uint64_t at = in_chunk; at < in_chunk + count;) {
        const uint64_t piece = std::min(kPageBytes - at % kPageBytes, in_chunk + count - at);
        if (found->second->present[at / kPageBytes]) {
          memcpy(to + (at - in_chunk), found->second->bytes.data() + at, piece);
        } else {
          memset(to + (at - in_chunk), 0, piece);
        }
        at += piece;
      }
    }
  });
}

void MemoryPages::Write(uint64_t offset, absl::Span<const std::byte> bytes) {
  ForEachPiece(offset, bytes.size(), [&](uint64_t index, uint64_t in_chunk, uint64_t count, uint64_t done) {
    Chunk& chunk = ChunkAt(index);
    const uint64_t end = in_chunk + count;
    for (uint64_t page = in_chunk / kPageBytes; page * kPageBytes < end; ++page) {
      if (chunk.present[page]) continue;
      if (in_chunk <= page * kPageBytes && (page + 1) * kPageBytes <= end) {
        chunk.present[page] = true;  // all of it is written below
        ++page_count_;
      } else {
        Touch(chunk, page);
      }
    }
    memcpy(chunk.bytes.data() + in_chunk, bytes.data() + done, count);
  });
}

void MemoryPages::Zero(uint64_t begin, uint64_t end) {
  for (auto chunk = chunks_.lower_bound(begin / kChunkBytes);
       chunk != chunks_.end() && chunk->first * kChunkBytes < end;) {
    const uint64_t start = chunk->first * kChunkBytes;
    for (uint64_t page = 0; page < kChunkPages; ++page) {
      const uint64_t from = std::max(begin, start + page * kPageBytes), to = std::min(end, start + (page + 1) * kPageBytes);
      if (from >= to || !chunk->second->present[page]) continue;
      memset(chunk->second->bytes.data() + (from - start), 0, to - from);
      if (to - from < kPageBytes) continue;
      chunk->second->present[page] = false;
      --page_count_;
    }
    chunk = chunk->second->present.none() ? chunks_.erase(chunk) : std::next(chunk);
  }
}

void MemoryPages::Fill(uint64_t begin, uint64_t end) {
  for (uint64_t page = begin / kPageBytes; page * kPageBytes < end; ++page) {
    Touch(ChunkAt(page / kChunkPages), page % kChunkPages);
  }
}

bool MemoryPages::IsPresent(uint64_t page) const {
  const auto chunk = chunks_.find(page / kChunkPages);
  return chunk != chunks_.end() && chunk->second->present[page % kChunkPages];
}

std::optional<uint64_t> MemoryPages::FindData(uint64_t offset) const {
  for (auto chunk = chunks_.lower_bound(offset / kChunkBytes); chunk != chunks_.end(); ++chunk) {
    for (uint64_t page = chunk->first * kChunkPages; page < (chunk->first + 1) * kChunkPages; ++page) {
      if (page >= offset / kPageBytes && IsPresent(page)) return std::max(offset, page * kPageBytes);
    }
  }
  return std::nullopt;
}

uint64_t MemoryPages::FindHole(uint64_t offset) const {
  uint64_t page = offset / kPageBytes;
  while (IsPresent(page)) ++page;
  return std::max(offset, page * kPageBytes);
}

}  // namespace stagefs::fuse::testing
