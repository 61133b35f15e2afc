#include "core/loader.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/checksum.h"

namespace stagefs::core {
namespace {

// Neighbours are read along when the block before is in memory, as it is for sequential access.
constexpr uint64_t kTableReadAhead = 8;

}  // namespace

struct Loader::Read {
  uint64_t first = 0;             // table index or home block
  std::vector<ImageRef> images;   // of consecutive blocks
  uint64_t expected = 0;          // the home block's table entry when the read began
  sal::Request request;

  void Prepare(uint64_t offset_bytes) {
    request.op = sal::Request::Op::kRead;
    request.offset_bytes = offset_bytes;
    request.length_bytes = images.size() * kBlockBytes;
    for (const ImageRef& image : images) request.buffers.push_back({image.data(), kBlockBytes});
  }
};

void Loader::Load(OperationRef operation, Outbox& outbox) {
  if (!operation->fatal.ok()) return on_ready_(std::move(operation), outbox);  // what failed is not read again
  absl::btree_set<uint64_t> indices = operation->wanted.table_blocks;
  for (const Block block : operation->wanted.blocks) indices.insert(ChecksumTable::IndexOf(block));

  bool no_room = false;
  for (const uint64_t index : indices) {
    if (!state_->table.Has(index) && !StartTable(index, operation, outbox)) no_room = true;
  }
  if (operation->loads_left > 0) return;
  if (no_room) return on_no_room_(std::move(operation), outbox);
  for (const uint64_t index : indices) {
    state_->table.Pin(index);
    operation->table_pins.push_back(index);
  }
  for (const Block block : operation->wanted.blocks) {
    if (operation->failed.contains(block) || state_->cache.Find(block) != nullptr) continue;
    // What needs no I/O is left to the body.
    if (state_->table.Get(block) == kNeverWritten || state_->extents.Find(block) != nullptr) continue;
    if (!StartBlock(block, operation, outbox)) no_room = true;
  }
  if (operation->loads_left > 0) return;
  if (no_room) return on_no_room_(std::move(operation), outbox);
  for (const Block block : operation->wanted.blocks) {
    BlockCache::Entry* const entry = state_->cache.Find(block);
    if (entry == nullptr) continue;
    state_->cache.Pin(entry);
    operation->block_pins.emplace_back(block, entry->incarnation);
  }
  operation->wanted = Misses();
  on_ready_(std::move(operation), outbox);
}

void Loader::Unpin(Operation& operation) {
  for (const auto& [block, incarnation] : operation.block_pins) state_->cache.Unpin(block, incarnation);
  for (const uint64_t index : operation.table_pins) state_->table.Unpin(index);
  operation.block_pins.clear();
  operation.table_pins.clear();
}

void Loader::Arrived(OperationRef operation, Outbox& outbox) {
  if (--operation->loads_left == 0) Load(std::move(operation), outbox);
}

bool Loader::StartTable(uint64_t index, const OperationRef& operation, Outbox& outbox) {
  if (const auto it = tables_.find(index); it != tables_.end()) {
    it->second.push_back(operation);
    ++operation->loads_left;
    return true;
  }
  auto read = std::make_unique<Read>();
  read->first = index;
  const uint64_t most = index > 0 && state_->table.Has(index - 1) ? kTableReadAhead : 1;
  for (uint64_t i = index; i < index + most && i < state_->superblock.table_blocks; ++i) {
    if (i > index && (state_->table.Has(i) || tables_.contains(i))) break;
    ImageRef image = state_->table.AllocateForLoad();
    if (!image) break;
    read->images.push_back(std::move(image));
  }
  if (read->images.empty()) return false;
  for (uint64_t i = 0; i < read->images.size(); ++i) tables_[index + i];
  tables_[index].push_back(operation);
  ++operation->loads_left;
  read->Prepare(state_->TableOffset(index));
  state_->stats.bytes_read += read->request.length_bytes;
  Read* const raw = read.get();
  outbox.Submit(&raw->request, [this, read = std::move(read)](absl::Status status) {
    state_->monitor.Run([&](Outbox& inner) { TableLoaded(*read, status, inner); });
  });
  return true;
}

void Loader::TableLoaded(Read& read, const absl::Status& status, Outbox& outbox) {
  Waiters waiters;
  for (uint64_t i = 0; i < read.images.size(); ++i) {
    const uint64_t index = read.first + i;
    auto node = tables_.extract(index);
    waiters.insert(waiters.end(), node.mapped().begin(), node.mapped().end());
    if (!status.ok()) continue;
    const int bad = CheckTableBlock(read.images[i].data(), index, state_->volume_salt);
    if (bad > 0) {
      state_->stats.checksum_errors += bad;
      state_->monitor.environment().Log(absl::StrCat(
          "stagefs: ", state_->monitor.store().name(), ": ", bad, " bad sectors in block ", index,
          " of the checksum table: home blocks among ", index * kEntriesPerTableBlock, " to ",
          (index + 1) * kEntriesPerTableBlock - 1, " cannot be verified and are not served; run fsck"));
    }
    state_->table.Insert(index, std::move(read.images[i]));
  }
  if (!status.ok()) {
    for (const OperationRef& operation : waiters) operation->fatal = status;
  }
  for (OperationRef& operation : waiters) Arrived(std::move(operation), outbox);
}

bool Loader::StartBlock(Block block, const OperationRef& operation, Outbox& outbox) {
  if (const auto it = blocks_.find(block); it != blocks_.end()) {
    it->second.push_back(operation);
    ++operation->loads_left;
    return true;
  }
  const uint64_t expected = state_->table.Get(block);
  if (expected == kPoisoned) {
    operation->failed[block] = absl::DataLossError(absl::StrCat("home block ", block, " was lost"));
    return true;
  }
  auto read = std::make_unique<Read>();
  read->first = block;
  read->expected = expected;
  ImageRef image = state_->cache.Allocate();
  if (!image) return false;
  read->images.push_back(std::move(image));
  blocks_[block].push_back(operation);
  ++operation->loads_left;
  read->Prepare(state_->HomeOffset(block));
  state_->stats.bytes_read += kBlockBytes;
  Read* const raw = read.get();
  outbox.Submit(&raw->request, [this, read = std::move(read)](absl::Status status) {
    state_->monitor.Run([&](Outbox& inner) { BlockLoaded(*read, status, inner); });
  });
  return true;
}

void Loader::BlockLoaded(Read& read, const absl::Status& status, Outbox& outbox) {
  const Block block = read.first;
  Waiters waiters = std::move(blocks_.extract(block).mapped());
  // The block may have got new content meanwhile; then what was read is of no use, and the body will look again.
  const bool table_known = state_->table.Has(ChecksumTable::IndexOf(block));
  const bool current = state_->cache.Find(block) == nullptr && table_known &&
                       state_->table.Get(block) == read.expected && state_->extents.Find(block) == nullptr;
  if (current) {
    absl::Status error = status;
    if (status.ok()) {
      const uint64_t found = TableEntry(ContentHash(read.images[0].data()), block, state_->volume_salt);
      if (found != read.expected) {
        ++state_->stats.checksum_errors;
        error = absl::DataLossError(absl::StrCat("home block ", block, ": checksum ", absl::Hex(found), ", expected ",
                                                 absl::Hex(read.expected)));
      }
    }
    if (error.ok()) {
      state_->cache.InsertClean(block, std::move(read.images[0]), /*never_written=*/false);
    } else {
      state_->monitor.environment().Log(
          absl::StrCat("stagefs: ", state_->monitor.store().name(), ": ", error.ToString()));
      for (const OperationRef& operation : waiters) operation->failed[block] = error;
    }
  }
  for (OperationRef& operation : waiters) Arrived(std::move(operation), outbox);
}

}  // namespace stagefs::core
