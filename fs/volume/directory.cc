#include "fs/volume/directory.h"

#include <algorithm>
#include <cerrno>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "fs/volume/errno.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

// The item of a hash, taken apart and put together again. Entries are in order of their slots.
struct Bucket {
  Key key;
  absl::InlinedVector<Entry, 2> entries;  // names refer to `value`
  std::string value;

  Entry* Find(absl::string_view name) {
    const auto it =
        std::find_if(entries.begin(), entries.end(), [&](const Entry& entry) { return entry.name == name; });
    return it == entries.end() ? nullptr : &*it;
  }
};

absl::Status LoadBucket(VolumeState& state, core::Transaction& tx, Ino directory, absl::string_view name,
                        Bucket* bucket) {
  bucket->key = EntryKey(directory, state.HashOf(name));
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, state.tree().Find(tx, bucket->key));
  if (!value.has_value()) return absl::OkStatus();
  bucket->value = std::string(*value);
  absl::string_view rest = bucket->value;
  while (!rest.empty()) {
    ASSIGN_OR_RETURN(const Entry entry, TakeEntry(&rest));
    bucket->entries.push_back(entry);
  }
  return absl::OkStatus();
}

absl::Status StoreBucket(VolumeState& state, core::Transaction& tx, const Bucket& bucket) {
  if (bucket.entries.empty()) return state.Erase(tx, bucket.key);
  std::string value;
  for (const Entry& entry : bucket.entries) AppendEntry(entry, &value);
  return state.tree().Put(tx, bucket.key, value);
}

absl::Status MissingEntry(Ino directory) {
  return absl::DataLossError(absl::StrCat("A name just seen in directory ", directory, " is not there"));
}

}  // namespace

absl::Status CheckName(absl::string_view name) {
  if (name.size() > kMaxNameBytes) return ErrnoStatus(ENAMETOOLONG);
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos || name.find('\0') != name.npos) {
    return ErrnoStatus(EINVAL, "Not a name for a file");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<EntryTarget>> FindEntry(VolumeState& state, core::Transaction& tx, Ino directory,
                                                     absl::string_view name) {
  ASSIGN_OR_RETURN(std::optional<absl::string_view> value,
                   state.tree().Find(tx, EntryKey(directory, state.HashOf(name))));
  if (!value.has_value()) return std::nullopt;
  while (!value->empty()) {
    ASSIGN_OR_RETURN(const Entry entry, TakeEntry(&*value));
    if (entry.name == name) return EntryTarget{.ino = entry.ino, .type = entry.type};
  }
  return std::nullopt;
}

absl::Status AddEntry(VolumeState& state, core::Transaction& tx, Ino directory, Inode* inode, absl::string_view name,
                      EntryTarget target) {
  Bucket bucket;
  RETURN_IF_ERROR(LoadBucket(state, tx, directory, name, &bucket));
  if (bucket.Find(name) != nullptr) return ErrnoStatus(EEXIST);
  // The first slot that is free, which is also the place that keeps the entries in order.
  uint8_t slot = 0;
  while (slot < bucket.entries.size() && bucket.entries[slot].slot == slot) ++slot;
  if (slot >= kMaxEntrySlots || bucket.value.size() + EntryBytes(name) > BTree::kMaxValueBytes) {
    return ErrnoStatus(ENOSPC, absl::StrCat("Too many names of hash ", bucket.key.offset, " in directory ", directory));
  }
  bucket.entries.insert(bucket.entries.begin() + slot,
                        Entry{.ino = target.ino, .type = target.type, .slot = slot, .name = name});
  inode->size_bytes += EntryBytes(name);
  return StoreBucket(state, tx, bucket);
}

absl::Status SetEntry(VolumeState& state, core::Transaction& tx, Ino directory, absl::string_view name,
                      EntryTarget target) {
  Bucket bucket;
  RETURN_IF_ERROR(LoadBucket(state, tx, directory, name, &bucket));
  Entry* const entry = bucket.Find(name);
  if (entry == nullptr) return MissingEntry(directory);
  entry->ino = target.ino;
  entry->type = target.type;
  return StoreBucket(state, tx, bucket);
}

absl::Status RemoveEntry(VolumeState& state, core::Transaction& tx, Ino directory, Inode* inode,
                         absl::string_view name) {
  Bucket bucket;
  RETURN_IF_ERROR(LoadBucket(state, tx, directory, name, &bucket));
  Entry* const entry = bucket.Find(name);
  if (entry == nullptr) return MissingEntry(directory);
  inode->size_bytes -= EntryBytes(name);
  bucket.entries.erase(bucket.entries.begin() + (entry - bucket.entries.data()));
  return StoreBucket(state, tx, bucket);
}

absl::StatusOr<bool> IsEmptyDirectory(VolumeState& state, core::Transaction& tx, Ino directory) {
  const Key first = EntryKey(directory, 0);
  ASSIGN_OR_RETURN(const std::optional<BTree::Item> item, state.tree().AtOrAfter(tx, first));
  return !item.has_value() || item->key.ino != directory || item->key.kind != kKindEntry;
}

absl::Status VisitEntries(VolumeState& state, core::Transaction& tx, Ino directory, uint64_t cookie,
                          absl::FunctionRef<bool(const Entry& entry, uint64_t cookie)> visit) {
  absl::Status status;
  RETURN_IF_ERROR(state.tree().Scan(
      tx, EntryKey(directory, cookie >> kCookieSlotBits), EntryKey(directory, ~uint64_t{0}),
      [&](const BTree::Item& item) {
        absl::string_view rest = item.value;
        while (!rest.empty()) {
          const absl::StatusOr<Entry> entry = TakeEntry(&rest);
          if (!entry.ok()) {
            status = entry.status();
            return false;
          }
          const uint64_t entry_cookie = EntryCookie(item.key.offset, entry->slot);
          if (entry_cookie > cookie && !visit(*entry, entry_cookie)) return false;
        }
        return true;
      }));
  return status;
}

}  // namespace stagefs::volume
