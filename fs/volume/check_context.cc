#include "fs/volume/check_context.h"

#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/volume/allocator_bitmap.h"
#include "fs/volume/check_tree.h"
#include "fs/volume/header.h"
#include "fs/volume/volume.h"
#include "sal/status_macros.h"

namespace stagefs::volume {

absl::Status RunBody(core::Engine& engine, core::Engine::Body body) {
  // Shared with the callback, which may still be returning from Set() when Wait() is over.
  struct Waiter {
    std::unique_ptr<sal::Event> event;
    absl::Status status;
  };
  auto waiter = std::make_shared<Waiter>();
  waiter->event = engine.environment().NewEvent();
  engine.Run(std::move(body), [waiter](absl::StatusOr<core::Lsn> lsn) {
    waiter->status = lsn.status();
    waiter->event->Set();
  });
  waiter->event->Wait();
  return waiter->status;
}

CheckContext::CheckContext(core::Engine& engine, const CheckOptions& options, const VolumeHeader& header,
                           core::Block header_block, bool may_fix)
    : engine_(engine),
      options_(options),
      header_(header),
      header_block_(header_block),
      may_fix_(may_fix),
      allocator_(header.capacity_blocks),
      tree_(this, header.capacity_blocks) {}

void CheckContext::Report(ProblemKind kind, std::string object, std::string message) {
  ++report_.problem_count;
  if (report_.problems.size() >= CheckReport::kMaxProblems) return;
  report_.problems.push_back({kind, std::move(object), std::move(message), false});
}

absl::Status CheckContext::Fix(core::Engine::Body body) {
  const absl::Status status = Run(std::move(body));
  if (status.ok()) ++fixes_;
  return absl::IsFailedPrecondition(status) ? status : absl::OkStatus();
}

uint64_t CheckContext::window_groups() const {
  return std::max<uint64_t>(1, options_.window_blocks / AllocationLayout::kGroupBlocks);
}

void CheckContext::SetStep(double from, double to) {
  step_from_ = from;
  step_to_ = to;
  Progress(0);
}

void CheckContext::Progress(double part) {
  if (options_.progress) options_.progress(step_from_ + (step_to_ - step_from_) * std::clamp(part, 0.0, 1.0));
}

absl::Status CheckContext::WalkBatches(const Key& first,
                                       absl::FunctionRef<absl::StatusOr<bool>(const WalkBatch&)> visit) {
  WalkBatch batch(layout(), header_.hash_seed);
  Key cursor = first;
  while (true) {
    RETURN_IF_ERROR(Run([&](core::Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(const Root root, GetRoot(tx));
      return batch.Read(tx, root, cursor);
    }));
    ASSIGN_OR_RETURN(const bool more, visit(batch));
    if (!more || !batch.next().has_value()) return absl::OkStatus();
    if (*batch.next() <= cursor) return absl::InternalError("a walk over the tree does not move on");
    cursor = *batch.next();
  }
}

absl::Status CheckContext::WalkItems(const Key& first, const Key& last, Visit visit) {
  return WalkBatches(first, [&](const WalkBatch& batch) -> absl::StatusOr<bool> {
    for (size_t i = 0; i < batch.item_count(); ++i) {
      if (batch.key(i) < first) continue;
      if (batch.key(i) > last) return false;
      ASSIGN_OR_RETURN(const bool more, visit(batch.key(i), batch.value(i)));
      if (!more) return false;
    }
    return true;
  });
}

absl::StatusOr<std::optional<std::string>> CheckContext::Find(const Key& key) {
  std::optional<std::string> result;
  const absl::Status status = Run([&](core::Transaction& tx) -> absl::Status {
    ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, tree_.Find(tx, key));
    result = value.has_value() ? std::optional<std::string>(*value) : std::nullopt;
    return absl::OkStatus();
  });
  // In a damaged node: as good as not there.
  if (absl::IsDataLoss(status)) return std::nullopt;
  RETURN_IF_ERROR(status);
  return result;
}

absl::StatusOr<std::optional<Inode>> CheckContext::FindInode(uint64_t ino) {
  ASSIGN_OR_RETURN(const std::optional<std::string> value, Find(InodeKey(ino)));
  if (!value.has_value()) return std::nullopt;
  const absl::StatusOr<Inode> inode = DecodeInode(*value);
  if (!inode.ok()) return std::nullopt;
  return *inode;
}

absl::StatusOr<BTreeStorage::Root> CheckContext::GetRoot(core::Transaction& tx) {
  ASSIGN_OR_RETURN(const VolumeHeader header, ReadHeader(tx, header_block_));
  return Root{header.root_block, header.root_height};
}

absl::Status CheckContext::SetRoot(core::Transaction& tx, Root root) {
  return UpdateHeader(tx, [&](VolumeHeader& header) {
    header.root_block = root.block;
    header.root_height = root.height;
  });
}

absl::StatusOr<core::Block> CheckContext::AllocateNode(core::Transaction& tx, core::Block near) {
  while (true) {
    ASSIGN_OR_RETURN(const core::BlockRange range, allocator_.Allocate(tx, 1, 1, near, SpaceUse::kFreeing));
    const absl::StatusOr<const std::byte*> bytes = tx.Read(range.first);
    if (absl::IsDataLoss(bytes.status())) return range.first;
    RETURN_IF_ERROR(bytes.status());
    // What is free never looks like a node. One that does was free by mistake: it stays in use, to be found.
    if (!IsNodeOf(*bytes, range.first, header_.hash_seed)) return range.first;
  }
}

absl::Status CheckContext::FreeNode(core::Transaction& tx, core::Block block) {
  RETURN_IF_ERROR(tx.Zero(block * core::kBlockBytes, core::kBlockBytes));
  return allocator_.Free(tx, {block, 1});
}

absl::StatusOr<core::BlockRange> CheckContext::AllocateData(core::Transaction& tx, uint64_t wanted) {
  return allocator_.Allocate(tx, wanted, 1, 0, SpaceUse::kMetadata);
}

absl::Status CheckContext::FreeNodeIfInUse(core::Transaction& tx, core::Block block) {
  const uint64_t group = AllocationLayout::GroupOf(block);
  const absl::StatusOr<const std::byte*> bits = tx.Read(AllocationLayout::BitmapBlock(group));
  if (absl::IsDataLoss(bits.status())) return absl::OkStatus();
  RETURN_IF_ERROR(bits.status());
  const AllocatorBitmap bitmap(*bits, group, layout().BlocksIn(group));
  return bitmap.Bit(block % AllocationLayout::kGroupBlocks) ? FreeNode(tx, block) : absl::OkStatus();
}

absl::StatusOr<uint64_t> CheckContext::TakeInodeNumber(core::Transaction& tx) {
  uint64_t ino = 0;
  RETURN_IF_ERROR(UpdateHeader(tx, [&](VolumeHeader& header) {
    ino = header.next_ino++;
    ++header.inode_count;
  }));
  return ino;
}

absl::StatusOr<std::optional<Inode>> CheckContext::GetInode(core::Transaction& tx, uint64_t ino) {
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, tree_.Find(tx, InodeKey(ino)));
  if (!value.has_value()) return std::nullopt;
  ASSIGN_OR_RETURN(const Inode inode, DecodeInode(*value));
  return inode;
}

absl::Status CheckContext::PutInode(core::Transaction& tx, uint64_t ino, const Inode& inode) {
  char bytes[kInodeBytes];
  EncodeInode(inode, bytes);
  return tree_.Put(tx, InodeKey(ino), absl::string_view(bytes, sizeof(bytes)));
}

absl::Status CheckContext::EraseItem(core::Transaction& tx, const Key& key) {
  const absl::Status status = tree_.Erase(tx, key);
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::Status CheckContext::PutOrphan(core::Transaction& tx, uint64_t ino, const Orphan& orphan) {
  char bytes[kOrphanBytes];
  EncodeOrphan(orphan, bytes);
  return tree_.Put(tx, OrphanKey(ino), absl::string_view(bytes, sizeof(bytes)));
}

Inode CheckContext::NewInode(uint32_t mode, uint32_t nlink) {
  Inode inode;
  inode.mode = mode;
  inode.nlink = nlink;
  inode.atime_ns = inode.mtime_ns = inode.ctime_ns = inode.btime_ns = engine_.environment().WallNs();
  return inode;
}

// The entries of a bucket, each encoded.
absl::StatusOr<std::vector<std::string>> CheckContext::LoadBucket(core::Transaction& tx, const Key& key) {
  std::vector<std::string> entries;
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, tree_.Find(tx, key));
  absl::string_view rest = value.value_or("");
  while (!rest.empty()) {
    const absl::string_view before = rest;
    RETURN_IF_ERROR(TakeEntry(&rest).status());
    entries.emplace_back(before.substr(0, before.size() - rest.size()));
  }
  return entries;
}

namespace {

Entry EntryOf(const std::string& encoded) {
  absl::string_view rest = encoded;
  return *TakeEntry(&rest);  // it was decoded before
}

}  // namespace

absl::Status CheckContext::AddName(core::Transaction& tx, uint64_t directory, absl::string_view name, uint64_t ino,
                                   uint8_t type) {
  const Key key = EntryKey(directory, HashOf(name));
  ASSIGN_OR_RETURN(std::vector<std::string> entries, LoadBucket(tx, key));
  uint8_t slot = 0;
  for (const std::string& entry : entries) {
    if (EntryOf(entry).name == name) return absl::AlreadyExistsError("the name is taken");
    if (EntryOf(entry).slot == slot) ++slot;
  }
  std::string added;
  AppendEntry({.ino = ino, .type = type, .slot = slot, .name = name}, &added);
  entries.insert(entries.begin() + slot, added);
  std::string value;
  for (const std::string& entry : entries) value += entry;
  if (slot >= kMaxEntrySlots || value.size() > BTree::kMaxValueBytes) {
    return absl::ResourceExhaustedError("too many names of one hash");
  }
  RETURN_IF_ERROR(tree_.Put(tx, key, value));
  ASSIGN_OR_RETURN(std::optional<Inode> inode, GetInode(tx, directory));
  if (!inode.has_value()) return absl::DataLossError("the directory is not there");
  inode->size_bytes += EntryBytes(name);
  if (type == S_IFDIR >> 12) ++inode->nlink;
  return PutInode(tx, directory, *inode);
}

absl::Status CheckContext::RemoveName(core::Transaction& tx, uint64_t directory, absl::string_view name) {
  const Key key = EntryKey(directory, HashOf(name));
  ASSIGN_OR_RETURN(const std::vector<std::string> entries, LoadBucket(tx, key));
  std::string value;
  uint8_t type = 0;
  for (const std::string& entry : entries) {
    if (EntryOf(entry).name == name) {
      type = EntryOf(entry).type;
    } else {
      value += entry;
    }
  }
  RETURN_IF_ERROR(value.empty() ? EraseItem(tx, key) : tree_.Put(tx, key, value));
  ASSIGN_OR_RETURN(std::optional<Inode> inode, GetInode(tx, directory));
  if (!inode.has_value()) return absl::OkStatus();
  inode->size_bytes -= std::min(inode->size_bytes, EntryBytes(name));
  if (type == S_IFDIR >> 12 && inode->nlink > 2) --inode->nlink;
  return PutInode(tx, directory, *inode);
}

absl::Status CheckContext::SetNameType(core::Transaction& tx, uint64_t directory, absl::string_view name,
                                       uint8_t type) {
  const Key key = EntryKey(directory, HashOf(name));
  ASSIGN_OR_RETURN(const std::vector<std::string> entries, LoadBucket(tx, key));
  std::string value;
  for (const std::string& encoded : entries) {
    Entry entry = EntryOf(encoded);
    if (entry.name == name) entry.type = type;
    AppendEntry(entry, &value);
  }
  return value.empty() ? absl::OkStatus() : tree_.Put(tx, key, value);
}

absl::StatusOr<uint64_t> CheckContext::LostFound(core::Transaction& tx) {
  // A file of that name stays what it is; the directory then gets another one.
  for (int i = 0; i < 100; ++i) {
    const std::string name = i == 0 ? "lost+found" : absl::StrCat("lost+found.", i);
    ASSIGN_OR_RETURN(const std::vector<std::string> entries, LoadBucket(tx, EntryKey(kRootIno, HashOf(name))));
    const auto entry = std::find_if(entries.begin(), entries.end(),
                                    [&](const std::string& encoded) { return EntryOf(encoded).name == name; });
    if (entry != entries.end()) {
      ASSIGN_OR_RETURN(const std::optional<Inode> found, GetInode(tx, EntryOf(*entry).ino));
      if (found.has_value() && S_ISDIR(found->mode)) return EntryOf(*entry).ino;
      continue;
    }
    ASSIGN_OR_RETURN(const uint64_t ino, TakeInodeNumber(tx));
    Inode inode = NewInode(S_IFDIR | 0700, 2);
    inode.parent = kRootIno;
    RETURN_IF_ERROR(PutInode(tx, ino, inode));
    RETURN_IF_ERROR(AddName(tx, kRootIno, name, ino, S_IFDIR >> 12));
    return ino;
  }
  return absl::AlreadyExistsError("all names for /lost+found are taken");
}

absl::Status CheckContext::MoveToLostFound(core::Transaction& tx, uint64_t ino) {
  ASSIGN_OR_RETURN(const uint64_t directory, LostFound(tx));
  ASSIGN_OR_RETURN(std::optional<Inode> inode, GetInode(tx, ino));
  if (!inode.has_value() || ino == directory) return absl::NotFoundError("nothing to move");
  std::string name = absl::StrCat("#", ino);
  absl::Status added = AddName(tx, directory, name, ino, static_cast<uint8_t>((inode->mode & S_IFMT) >> 12));
  for (int i = 1; absl::IsAlreadyExists(added) && i < 100; ++i) {
    name = absl::StrCat("#", ino, ".", i);
    added = AddName(tx, directory, name, ino, static_cast<uint8_t>((inode->mode & S_IFMT) >> 12));
  }
  RETURN_IF_ERROR(added);
  if (S_ISDIR(inode->mode)) {
    inode->parent = directory;
  } else {
    inode->nlink = 1;
  }
  return PutInode(tx, ino, *inode);
}

}  // namespace stagefs::volume
