#include "fs/volume/xattr.h"

#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "fs/volume/errno.h"
#include "fs/volume/inode.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

uint32_t ChunksFor(uint32_t value_bytes) {
  return static_cast<uint32_t>((value_bytes + kXattrChunkBytes - 1) / kXattrChunkBytes);
}

// The item of a hash, taken apart.
struct Bucket {
  Key key;
  absl::InlinedVector<XattrEntry, 2> entries;  // names and values refer to `value`
  std::string value;

  XattrEntry* Find(absl::string_view name) {
    const auto it =
        std::find_if(entries.begin(), entries.end(), [&](const XattrEntry& entry) { return entry.name == name; });
    return it == entries.end() ? nullptr : &*it;
  }
  void Remove(XattrEntry* entry) { entries.erase(entries.begin() + (entry - entries.data())); }
};

absl::Status LoadBucket(VolumeState& state, core::Transaction& tx, Ino ino, absl::string_view name, Bucket* bucket) {
  bucket->key = XattrKey(ino, state.HashOf(name));
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, state.tree().Find(tx, bucket->key));
  if (!value.has_value()) return absl::OkStatus();
  bucket->value = std::string(*value);
  absl::string_view rest = bucket->value;
  while (!rest.empty()) {
    ASSIGN_OR_RETURN(const XattrEntry entry, TakeXattrEntry(&rest));
    bucket->entries.push_back(entry);
  }
  return absl::OkStatus();
}

absl::Status StoreBucket(VolumeState& state, core::Transaction& tx, const Bucket& bucket) {
  if (bucket.entries.empty()) return state.Erase(tx, bucket.key);
  std::string value;
  for (const XattrEntry& entry : bucket.entries) AppendXattrEntry(entry, &value);
  if (value.size() > BTree::kMaxValueBytes) {
    return ErrnoStatus(ENOSPC, "Too many attributes of one hash");
  }
  return state.tree().Put(tx, bucket.key, value);
}

absl::Status EraseChunks(VolumeState& state, core::Transaction& tx, Ino ino, const XattrEntry& entry) {
  if (entry.value_id == 0) return absl::OkStatus();
  for (uint32_t i = 0; i < ChunksFor(entry.value_bytes); ++i) {
    RETURN_IF_ERROR(state.Erase(tx, XattrChunkKey(ino, entry.value_id, i)));
  }
  return absl::OkStatus();
}

absl::Status PutChunks(VolumeState& state, core::Transaction& tx, Ino ino, uint32_t id, absl::string_view value) {
  for (uint32_t i = 0; i < ChunksFor(static_cast<uint32_t>(value.size())); ++i) {
    const absl::string_view chunk = value.substr(i * kXattrChunkBytes, kXattrChunkBytes);
    RETURN_IF_ERROR(state.tree().Put(tx, XattrChunkKey(ino, id, i), chunk));
  }
  return absl::OkStatus();
}

absl::Status CheckXattrName(absl::string_view name) {
  if (name.size() > kMaxNameBytes) return ErrnoStatus(ERANGE);
  if (name.empty() || name.find('\0') != name.npos) return ErrnoStatus(EINVAL, "Not a name for an attribute");
  return absl::OkStatus();
}

}  // namespace

absl::Status SetXattrValue(VolumeState& state, Change& change, Ino ino, absl::string_view name,
                           absl::string_view value, int flags) {
  core::Transaction& tx = change.tx;
  RETURN_IF_ERROR(CheckXattrName(name));
  if (value.size() > kMaxXattrBytes) return ErrnoStatus(E2BIG);
  if (flags != 0 && flags != XATTR_CREATE && flags != XATTR_REPLACE) return ErrnoStatus(EINVAL);
  ASSIGN_OR_RETURN(Inode inode, GetInode(state, tx, ino, ESTALE));
  Bucket bucket;
  RETURN_IF_ERROR(LoadBucket(state, tx, ino, name, &bucket));
  if (XattrEntry* const old = bucket.Find(name); old != nullptr) {
    if (flags == XATTR_CREATE) return ErrnoStatus(EEXIST);
    RETURN_IF_ERROR(EraseChunks(state, tx, ino, *old));
    bucket.Remove(old);
  } else if (flags == XATTR_REPLACE) {
    return ErrnoStatus(ENODATA);
  }
  uint64_t others = 0;
  for (const XattrEntry& entry : bucket.entries) {
    others += kXattrOverheadBytes + entry.name.size() + entry.inline_value.size();
  }
  XattrEntry entry = {
      .value_id = 0, .value_bytes = static_cast<uint32_t>(value.size()), .name = name, .inline_value = value};
  if (value.size() > kMaxInlineXattrBytes ||
      others + kXattrOverheadBytes + name.size() + value.size() > BTree::kMaxValueBytes) {
    entry.value_id = ++inode.next_xattr_id;
    entry.inline_value = {};
    RETURN_IF_ERROR(PutChunks(state, tx, ino, entry.value_id, value));
  }
  bucket.entries.push_back(entry);
  RETURN_IF_ERROR(StoreBucket(state, tx, bucket));
  TouchInode(change, &inode);
  return PutInode(state, tx, ino, inode);
}

absl::Status GetXattrValue(VolumeState& state, Change& change, Ino ino, absl::string_view name, std::string* result) {
  core::Transaction& tx = change.tx;
  RETURN_IF_ERROR(CheckXattrName(name));
  RETURN_IF_ERROR(GetInode(state, tx, ino, ESTALE).status());
  Bucket bucket;
  RETURN_IF_ERROR(LoadBucket(state, tx, ino, name, &bucket));
  const XattrEntry* const entry = bucket.Find(name);
  if (entry == nullptr) return ErrnoStatus(ENODATA);
  if (entry->value_id == 0) {
    result->assign(entry->inline_value.data(), entry->inline_value.size());
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(state.tree().Scan(tx, XattrChunkKey(ino, entry->value_id, 0),
                                    XattrChunkKey(ino, entry->value_id, 0xff), [&](const BTree::Item& item) {
                                      result->append(item.value.data(), item.value.size());
                                      return true;
                                    }));
  if (result->size() != entry->value_bytes) {
    return absl::DataLossError(absl::StrCat("An attribute of inode ", ino, " has ", result->size(), " of ",
                                            entry->value_bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status ListXattrNames(VolumeState& state, Change& change, Ino ino, std::string* result) {
  core::Transaction& tx = change.tx;
  RETURN_IF_ERROR(GetInode(state, tx, ino, ESTALE).status());
  absl::Status status;
  RETURN_IF_ERROR(state.tree().Scan(tx, XattrKey(ino, 0), XattrKey(ino, ~uint64_t{0}), [&](const BTree::Item& item) {
    absl::string_view rest = item.value;
    while (!rest.empty()) {
      const absl::StatusOr<XattrEntry> entry = TakeXattrEntry(&rest);
      if (!entry.ok()) {
        status = entry.status();
        return false;
      }
      result->append(entry->name.data(), entry->name.size());
      result->push_back('\0');
    }
    return true;
  }));
  return status;
}

absl::Status RemoveXattrValue(VolumeState& state, Change& change, Ino ino, absl::string_view name) {
  core::Transaction& tx = change.tx;
  state.SetNodeUse(SpaceUse::kFreeing);
  RETURN_IF_ERROR(CheckXattrName(name));
  ASSIGN_OR_RETURN(Inode inode, GetInode(state, tx, ino, ESTALE));
  Bucket bucket;
  RETURN_IF_ERROR(LoadBucket(state, tx, ino, name, &bucket));
  XattrEntry* const entry = bucket.Find(name);
  if (entry == nullptr) return ErrnoStatus(ENODATA);
  RETURN_IF_ERROR(EraseChunks(state, tx, ino, *entry));
  bucket.Remove(entry);
  RETURN_IF_ERROR(StoreBucket(state, tx, bucket));
  TouchInode(change, &inode);
  return PutInode(state, tx, ino, inode);
}

}  // namespace stagefs::volume
