// The part of a check that looks at inodes, each by itself: its item, its content, its names, its attributes; and at
// orphans.

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "fs/volume/check_context.h"
#include "fs/volume/header.h"
#include "fs/volume/volume.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::kBlockBytes;
using core::Transaction;

constexpr uint8_t kDirectoryType = S_IFDIR >> 12;

bool IsValidType(uint32_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
      return true;
    default:
      return false;
  }
}

std::string InodeName(uint64_t ino) { return absl::StrCat("inode ", ino); }

class InodeCheck {
 public:
  explicit InodeCheck(CheckContext& context) : context_(context) {}

  absl::Status Run() {
    context_.SetStep(0.4, 0.6);
    RETURN_IF_ERROR(context_.WalkItems(Key{}, Key{~uint64_t{0}, 0xff, ~uint64_t{0}},
                                       [&](const Key& key, absl::string_view value) -> absl::StatusOr<bool> {
                                         RETURN_IF_ERROR(key.ino == 0 ? OnVolumeItem(key, value) : OnItem(key, value));
                                         return true;
                                       }));
    RETURN_IF_ERROR(Finish());
    return CheckHeaderCounts();
  }

 private:
  // What the items of one inode said.
  struct Current {
    uint64_t ino = 0;
    std::optional<Inode> inode;
    std::string damage = "it has items but no inode";
    bool spotless = true;  // no byte of the inode that means nothing is set
    std::optional<uint64_t> inline_bytes;
    uint64_t extents = 0, blocks = 0, end_block = 0;
    uint64_t entries = 0, entry_bytes = 0, subdirectories = 0;
    struct Value {
      uint64_t bucket = 0;  // the hash of its item
      uint64_t bytes = 0, found_bytes = 0;
    };
    absl::flat_hash_map<uint32_t, Value> values;  // by id
    uint32_t max_value_id = 0;
    std::vector<Key> keys;  // the first kMaxKeys
  };
  static constexpr size_t kMaxKeys = 1000;

  absl::Status EraseIfAllowed(const Key& key) {
    if (!context_.may_fix_items()) return absl::OkStatus();
    return context_.Fix([&](Transaction& tx) { return context_.EraseItem(tx, key); });
  }

  absl::Status BadItem(ProblemKind kind, const Key& key, absl::string_view why) {
    context_.Report(kind, InodeName(key.ino), absl::StrCat("item of kind ", key.kind, " at ", key.offset, ": ", why));
    return EraseIfAllowed(key);
  }

  absl::Status OnVolumeItem(const Key& key, absl::string_view value) {
    if (key.kind != kKindOrphan) return BadItem(ProblemKind::kItem, key, "nobody knows this kind");
    const uint64_t ino = key.offset;
    const absl::StatusOr<Orphan> orphan = DecodeOrphan(value);
    if (!orphan.ok()) return BadItem(ProblemKind::kOrphan, key, orphan.status().message());
    ASSIGN_OR_RETURN(const std::optional<Inode> inode, context_.FindInode(ino));
    const bool pending = inode.has_value() && (inode->flags & kInodeTruncatePending) != 0;
    if (!inode.has_value() || (inode->nlink > 0 && !pending)) {
      context_.Report(ProblemKind::kOrphan, InodeName(ino),
                      inode.has_value() ? "it is listed for removal, but nothing of it is to be removed"
                                        : "it is listed for removal, but does not exist");
      return EraseIfAllowed(key);
    }
    const std::string expected = ExpectedOrphan(*inode);
    if (value == expected) return absl::OkStatus();
    context_.Report(ProblemKind::kOrphan, InodeName(ino),
                    absl::StrCat("it is listed for removal as ", static_cast<int>(orphan->what), " from block ",
                                 orphan->from_block, ", which does not fit its links, its size or its flags"));
    if (!context_.may_fix_items()) return absl::OkStatus();
    return context_.Fix([&](Transaction& tx) { return context_.tree().Put(tx, key, expected); });
  }

  static std::string ExpectedOrphan(const Inode& inode) {
    const bool pending = (inode.flags & kInodeTruncatePending) != 0;
    std::string bytes(kOrphanBytes, '\0');
    EncodeOrphan({.what = inode.nlink == 0 ? Orphan::What::kInode : Orphan::What::kTruncate,
                  .from_block = pending ? (inode.size_bytes + kBlockBytes - 1) / kBlockBytes : 0},
                 bytes.data());
    return bytes;
  }

  absl::Status OnItem(const Key& key, absl::string_view value) {
    if (key.ino >= kMaxIno) return BadItem(ProblemKind::kItem, key, "no inode has such a number");
    if (key.ino != current_.ino) {
      RETURN_IF_ERROR(Finish());
      current_ = {};
      current_.ino = key.ino;
      context_.Progress(static_cast<double>(key.ino) / static_cast<double>(context_.header().next_ino));
    }
    if (current_.keys.size() < kMaxKeys) current_.keys.push_back(key);
    switch (key.kind) {
      case kKindInode: {
        if (key.offset != 0) return BadItem(ProblemKind::kItem, key, "an inode's item is at 0");
        const absl::StatusOr<Inode> inode = DecodeInode(value);
        current_.inode = SalvageInode(value);
        if (!inode.ok()) current_.damage = std::string(inode.status().message());
        if (current_.inode.has_value()) {
          std::string encoded(kInodeBytes, '\0');
          EncodeInode(*current_.inode, encoded.data());
          current_.spotless = encoded == value;
        }
        return absl::OkStatus();
      }
      case kKindInline:
        if (key.offset != 0 || value.empty()) {
          return BadItem(ProblemKind::kItem, key, "inline content is at 0, and not empty");
        }
        current_.inline_bytes = value.size();
        return absl::OkStatus();
      case kKindEntry:
        return OnEntries(key, value);
      case kKindExtent: {
        const absl::StatusOr<Extent> extent = DecodeExtent(value);
        if (!extent.ok()) return absl::OkStatus();  // reported with the other extents
        ++current_.extents;
        current_.blocks += extent->count;
        current_.end_block = key.offset + extent->count;
        return absl::OkStatus();
      }
      case kKindXattr:
        return OnAttributes(key, value);
      case kKindXattrChunk: {
        const auto found = current_.values.find(static_cast<uint32_t>(key.offset >> 8));
        const uint64_t start = (key.offset & 0xff) * kXattrChunkBytes;
        if (key.offset >> 8 > ~uint32_t{0} || found == current_.values.end() || start >= found->second.bytes) {
          return BadItem(ProblemKind::kXattr, key, "a piece of no attribute");
        }
        if (value.size() == std::min(kXattrChunkBytes, found->second.bytes - start)) {
          found->second.found_bytes += value.size();
        }
        return absl::OkStatus();
      }
      default:
        return BadItem(ProblemKind::kItem, key, "nobody knows this kind");
    }
  }

  static bool IsValidName(absl::string_view name) {
    return name != "." && name != ".." && name.find('/') == name.npos && name.find('\0') == name.npos;
  }

  // The names of one hash.
  absl::Status OnEntries(const Key& key, absl::string_view value) {
    std::vector<Entry> good, moved;
    std::string why;
    absl::string_view rest = value;
    int last_slot = -1;
    while (!rest.empty()) {
      const absl::StatusOr<Entry> entry = TakeEntry(&rest);
      if (!entry.ok()) {
        why = std::string(entry.status().message());
        break;
      }
      const bool again = std::any_of(good.begin(), good.end(), [&](const Entry& e) { return e.name == entry->name; });
      if (entry->slot <= last_slot || again || !IsValidName(entry->name)) {
        why = "names that are double, out of order or not allowed";
        continue;
      }
      if (context_.HashOf(entry->name) != key.offset) {
        why = "a name of another hash";
        moved.push_back(*entry);
        continue;
      }
      last_slot = entry->slot;
      good.push_back(*entry);
    }
    if (value.empty()) why = "no name";
    for (const Entry& entry : good) {
      ++current_.entries;
      current_.entry_bytes += EntryBytes(entry.name);
      if (entry.type == kDirectoryType) ++current_.subdirectories;
    }
    context_.report().entries += good.size();
    if (why.empty()) return absl::OkStatus();
    context_.Report(ProblemKind::kEntry, InodeName(key.ino), absl::StrCat("its names at hash ", key.offset, ": ", why));
    if (!context_.may_fix_items()) return absl::OkStatus();
    RETURN_IF_ERROR(context_.Fix([&](Transaction& tx) {
      std::string kept;
      for (const Entry& entry : good) AppendEntry(entry, &kept);
      return kept.empty() ? context_.EraseItem(tx, key) : context_.tree().Put(tx, key, kept);
    }));
    for (const Entry& entry : moved) {
      RETURN_IF_ERROR(context_.Fix(
          [&](Transaction& tx) { return context_.AddName(tx, key.ino, entry.name, entry.ino, entry.type); }));
    }
    return absl::OkStatus();
  }

  absl::Status OnAttributes(const Key& key, absl::string_view value) {
    std::string kept;
    std::string why;
    absl::string_view rest = value;
    while (!rest.empty()) {
      const absl::StatusOr<XattrEntry> entry = TakeXattrEntry(&rest);
      if (!entry.ok()) {
        why = std::string(entry.status().message());
        break;
      }
      if (context_.HashOf(entry->name) != key.offset || entry->value_bytes > kMaxXattrBytes ||
          (entry->value_id != 0 && current_.values.contains(entry->value_id))) {
        why = "a name of another hash, a value too long, or one used twice";
        continue;
      }
      if (entry->value_id != 0) {
        current_.values[entry->value_id] = {.bucket = key.offset, .bytes = entry->value_bytes, .found_bytes = 0};
        current_.max_value_id = std::max(current_.max_value_id, entry->value_id);
      }
      AppendXattrEntry(*entry, &kept);
    }
    if (value.empty()) why = "no attribute";
    if (why.empty()) return absl::OkStatus();
    context_.Report(ProblemKind::kXattr, InodeName(key.ino),
                    absl::StrCat("its attributes at hash ", key.offset, ": ", why));
    if (!context_.may_fix_items()) return absl::OkStatus();
    return context_.Fix([&](Transaction& tx) {
      return kept.empty() ? context_.EraseItem(tx, key) : context_.tree().Put(tx, key, kept);
    });
  }

  // Takes attribute value `id` out of its item.
  absl::Status RemoveAttribute(Transaction& tx, uint64_t ino, uint64_t bucket, uint32_t id) {
    const Key key = XattrKey(ino, bucket);
    ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, context_.tree().Find(tx, key));
    std::string kept;
    absl::string_view rest = value.value_or("");
    while (!rest.empty()) {
      ASSIGN_OR_RETURN(const XattrEntry entry, TakeXattrEntry(&rest));
      if (entry.value_id != id) AppendXattrEntry(entry, &kept);
    }
    return kept.empty() ? context_.EraseItem(tx, key) : context_.tree().Put(tx, key, kept);
  }

  // What can be told of an inode whose own item is gone from what is still there.
  Inode Rebuilt(const Current& part) {
    const bool directory = part.entries > 0;
    Inode inode = directory ? context_.NewInode(S_IFDIR | 0700, 2 + static_cast<uint32_t>(part.subdirectories))
                            : context_.NewInode(S_IFREG | 0600, 1);
    inode.blocks = part.blocks;
    inode.next_xattr_id = part.max_value_id;
    if (directory) {
      inode.size_bytes = part.entry_bytes;
      inode.parent = kRootIno;
    } else if (part.extents > 0) {
      inode.size_bytes = part.end_block * kBlockBytes;
    } else {
      inode.size_bytes = part.inline_bytes.value_or(0);
      inode.flags = kInodeInline;
    }
    return inode;
  }

  absl::Status FinishWithoutInode() {
    const uint64_t ino = current_.ino;
    context_.Report(ProblemKind::kInode, InodeName(ino), current_.damage);
    if (!context_.may_fix_items()) return absl::OkStatus();
    const bool content = current_.entries > 0 || current_.extents > 0 || current_.inline_bytes.has_value();
    if (!content) {
      for (const Key& key : current_.keys) RETURN_IF_ERROR(EraseIfAllowed(key));
      return absl::OkStatus();
    }
    return context_.Fix([&](Transaction& tx) { return context_.PutInode(tx, ino, Rebuilt(current_)); });
  }

  // What the inode's type must be for its items to make sense, as far as they are of one kind; else what it is.
  uint32_t FittingType(const Inode& inode) const {
    const bool content = current_.extents > 0 || current_.inline_bytes.has_value();
    if (current_.entries > 0 && !content) return S_IFDIR;
    // A symbolic link is its content.
    const bool no_target =
        S_ISLNK(inode.mode) && (!content || inode.size_bytes == 0 || inode.size_bytes > kMaxSymlinkBytes);
    const bool may_have_content = S_ISREG(inode.mode) || (S_ISLNK(inode.mode) && !no_target);
    if (current_.entries == 0 && (content || no_target) && !may_have_content && current_.ino != kRootIno) {
      return S_IFREG;
    }
    if (current_.ino == kRootIno) return S_IFDIR;
    if (!IsValidType(inode.mode)) return S_IFREG;
    return inode.mode & S_IFMT;
  }

  // Compares the inode with what its items said. Fills `fixed`; each message tells one thing that is wrong.
  std::vector<std::string> Compare(const Inode& inode, Inode* fixed) {
    std::vector<std::string> wrong;
    const bool content = current_.extents > 0 || current_.inline_bytes.has_value();
    const auto set = [&](auto Inode::*field, auto value, absl::string_view what) {
      if (inode.*field == value) return;
      wrong.push_back(absl::StrCat(what, " is ", inode.*field, ", not ", value));
      fixed->*field = value;
    };
    const uint32_t type = FittingType(inode);
    if (!current_.spotless) wrong.push_back("its flags or reserved bytes hold what means nothing");
    set(&Inode::mode, type | (inode.mode & 07777), "its mode");
    if (type != S_IFCHR && type != S_IFBLK) set(&Inode::rdev, uint64_t{0}, "its device number");
    if (type != S_IFDIR) set(&Inode::parent, uint64_t{0}, "its parent");
    set(&Inode::blocks, current_.blocks, "the number of its blocks");
    if (current_.max_value_id > inode.next_xattr_id) {
      set(&Inode::next_xattr_id, current_.max_value_id, "its last attribute");
    }
    if (type == S_IFDIR) {
      set(&Inode::size_bytes, current_.entry_bytes, "its size");
      // One without links waits to be removed, and has no names.
      if (inode.nlink > 0 || current_.entries > 0 || current_.ino == kRootIno) {
        set(&Inode::nlink, static_cast<uint32_t>(2 + current_.subdirectories), "its link count");
      }
      if (!content) set(&Inode::flags, uint32_t{0}, "the word of its flags");
      return wrong;
    }
    if (current_.entries > 0) return wrong;
    if (current_.inline_bytes.has_value() && current_.extents == 0) {
      set(&Inode::flags, kInodeInline, "the word of its flags");
      set(&Inode::size_bytes, *current_.inline_bytes, "its size");
    } else if (!current_.inline_bytes.has_value()) {
      set(&Inode::flags, type == S_IFREG ? inode.flags & ~kInodeInline : 0, "the word of its flags");
      const bool lost_content = (inode.flags & kInodeInline) != 0 || inode.size_bytes > kMaxFileBytes ||
                                (type != S_IFREG && type != S_IFLNK) || (S_ISLNK(inode.mode) && type == S_IFREG);
      const uint64_t mapped = current_.end_block * kBlockBytes;
      if (lost_content && inode.size_bytes != mapped) set(&Inode::size_bytes, mapped, "its size");
    }
    return wrong;
  }

  // Content of two sorts cannot be all of one inode's: what does not fit its type, or its flags, goes to an inode of
  // its own, which the names' check then moves to /lost+found. True: there was such a thing.
  absl::StatusOr<bool> Separate(const Inode& inode) {
    const uint64_t ino = current_.ino;
    const bool content = current_.extents > 0 || current_.inline_bytes.has_value();
    const auto separate = [&](absl::string_view what, absl::string_view part,
                              std::vector<uint8_t> kinds) -> absl::StatusOr<bool> {
      context_.Report(ProblemKind::kInode, InodeName(ino),
                      absl::StrCat("it has both ", what, ": the ", part, " becomes an inode of its own"));
      if (context_.may_fix_items()) RETURN_IF_ERROR(MoveItems(inode, kinds));
      return true;
    };
    if (content && current_.entries > 0) {
      const bool file = (S_ISREG(inode.mode) || S_ISLNK(inode.mode)) && ino != kRootIno;
      if (file) return separate("names and content", "directory", {kKindEntry});
      return separate("names and content", "content", {kKindInline, kKindExtent});
    }
    if (content && ino == kRootIno) {
      return separate("the root's number and content", "content", {kKindInline, kKindExtent});
    }
    if (current_.extents > 0 && current_.inline_bytes.has_value()) {
      const bool keep_inline = (inode.flags & kInodeInline) != 0;
      return separate("inline content and extents", keep_inline ? "content of the extents" : "inline content",
                      {keep_inline ? kKindExtent : kKindInline});
    }
    const uint64_t most = S_ISLNK(inode.mode) ? kMaxInlineSymlinkBytes : kMaxInlineFileBytes;
    if (current_.inline_bytes.value_or(0) <= most) return false;
    context_.Report(ProblemKind::kInode, InodeName(ino),
                    absl::StrCat("it has ", *current_.inline_bytes, " bytes of inline content, at most ", most,
                                 " are allowed"));
    if (!context_.may_fix_items()) return true;
    RETURN_IF_ERROR(context_.Fix([&](Transaction& tx) { return MoveInlineToBlock(tx, ino, inode); }));
    return true;
  }

  absl::Status MoveInlineToBlock(Transaction& tx, uint64_t ino, Inode inode) {
    ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, context_.tree().Find(tx, InlineKey(ino)));
    if (!value.has_value()) return absl::NotFoundError("the content is gone");
    const std::string content(*value);
    ASSIGN_OR_RETURN(const core::BlockRange home, context_.AllocateData(tx, 1));
    ASSIGN_OR_RETURN(std::byte* bytes, tx.Fresh(home.first));
    std::memcpy(bytes, content.data(), content.size());
    char extent[kExtentBytes];
    EncodeExtent({.home = home.first, .count = 1}, extent);
    RETURN_IF_ERROR(context_.EraseItem(tx, InlineKey(ino)));
    RETURN_IF_ERROR(context_.tree().Put(tx, ExtentKey(ino, 0), absl::string_view(extent, sizeof(extent))));
    inode.flags &= ~kInodeInline;
    inode.blocks = 1;
    inode.size_bytes = content.size();
    return context_.PutInode(tx, ino, inode);
  }

  // Moves the items of some kinds to a new inode, some in one change. Cut in between, both have something, and the next
  // repair moves the rest to one more inode.
  absl::Status MoveItems(const Inode& inode, const std::vector<uint8_t>& kinds) {
    constexpr size_t kItemsPerChange = 64;
    const uint64_t ino = current_.ino;
    uint64_t to = 0;
    RETURN_IF_ERROR(context_.Fix([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(to, context_.TakeInodeNumber(tx));
      Current part;
      if (kinds.front() == kKindEntry) {
        part.entries = current_.entries;
        part.entry_bytes = current_.entry_bytes;
        part.subdirectories = current_.subdirectories;
      } else {
        part.extents = kinds.back() == kKindExtent ? current_.extents : 0;
        part.blocks = part.extents > 0 ? current_.blocks : 0;
        part.end_block = current_.end_block;
        if (kinds.front() == kKindInline) part.inline_bytes = current_.inline_bytes;
      }
      Inode made = Rebuilt(part);
      made.uid = inode.uid;
      made.gid = inode.gid;
      return context_.PutInode(tx, to, made);
    }));
    for (bool more = to != 0; more;) {
      const uint64_t before = context_.fixes();
      RETURN_IF_ERROR(context_.Fix([&](Transaction& tx) -> absl::Status {
        std::vector<std::pair<Key, std::string>> items;
        for (const uint8_t kind : kinds) {
          RETURN_IF_ERROR(context_.tree().Scan(tx, Key{ino, kind, 0}, Key{ino, kind, ~uint64_t{0}},
                                               [&](const BTree::Item& item) {
                                                 items.emplace_back(item.key, item.value);
                                                 return items.size() < kItemsPerChange;
                                               }));
        }
        more = items.size() >= kItemsPerChange;
        for (const auto& [key, value] : items) {
          RETURN_IF_ERROR(context_.EraseItem(tx, key));
          RETURN_IF_ERROR(context_.tree().Put(tx, Key{to, key.kind, key.offset}, value));
        }
        return absl::OkStatus();
      }));
      more = more && context_.fixes() > before;
    }
    return absl::OkStatus();
  }

  absl::Status Finish() {
    if (current_.ino == 0) return absl::OkStatus();
    const uint64_t ino = current_.ino;
    max_ino_ = std::max(max_ino_, ino);
    if (!current_.inode.has_value()) return FinishWithoutInode();
    const Inode& inode = *current_.inode;
    ++context_.report().inodes;
    if (S_ISDIR(inode.mode)) ++context_.report().directories;
    ASSIGN_OR_RETURN(const bool separated, Separate(inode));
    if (separated) return absl::OkStatus();  // the next round looks at the rest
    Inode fixed = inode;
    const std::vector<std::string> wrong = Compare(inode, &fixed);
    for (const std::string& what : wrong) context_.Report(ProblemKind::kInode, InodeName(ino), what);
    if (!wrong.empty() && context_.may_fix_items()) {
      RETURN_IF_ERROR(context_.Fix([&](Transaction& tx) { return context_.PutInode(tx, ino, fixed); }));
    }
    for (const auto& [id, value] : current_.values) {
      if (value.found_bytes == value.bytes) continue;
      context_.Report(ProblemKind::kXattr, InodeName(ino),
                      absl::StrCat("an attribute of ", value.bytes, " bytes has ", value.found_bytes));
      if (!context_.may_fix_items()) continue;
      const uint64_t bucket = value.bucket;
      const uint32_t value_id = id;
      RETURN_IF_ERROR(
          context_.Fix([&](Transaction& tx) { return RemoveAttribute(tx, ino, bucket, value_id); }));
    }
    if ((fixed.flags & kInodeTruncatePending) == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::optional<std::string> orphan, context_.Find(OrphanKey(ino)));
    if (orphan.has_value()) return absl::OkStatus();
    context_.Report(ProblemKind::kOrphan, InodeName(ino), "a truncation is to be finished, but not listed");
    if (!context_.may_fix_items()) return absl::OkStatus();
    return context_.Fix(
        [&](Transaction& tx) { return context_.tree().Put(tx, OrphanKey(ino), ExpectedOrphan(fixed)); });
  }

  absl::Status CheckHeaderCounts() {
    if (context_.header_block() != kHeaderBlock) return absl::OkStatus();  // reported with the header
    VolumeHeader header;
    RETURN_IF_ERROR(context_.Run([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(header, ReadHeader(tx));
      return absl::OkStatus();
    }));
    const uint64_t inodes = context_.report().inodes;
    bool wrong = false;
    if (header.next_ino <= max_ino_) {
      wrong = true;
      context_.Report(ProblemKind::kHeader, "volume",
                      absl::StrCat("its next inode is ", header.next_ino, ", but there is inode ", max_ino_));
    }
    if (header.inode_count != inodes) {
      wrong = true;
      context_.Report(ProblemKind::kHeader, "volume",
                      absl::StrCat("it counts ", header.inode_count, " inodes, there are ", inodes));
    }
    if (!wrong || !context_.may_fix_items()) return absl::OkStatus();
    return context_.Fix([&](Transaction& tx) {
      return UpdateHeader(tx, [&](VolumeHeader& fixed) {
        fixed.next_ino = std::max(fixed.next_ino, max_ino_ + 1);
        fixed.inode_count = inodes;
      });
    });
  }

  CheckContext& context_;
  Current current_;
  uint64_t max_ino_ = 0;
};

}  // namespace

absl::Status CheckInodes(CheckContext& context) { return InodeCheck(context).Run(); }

}  // namespace stagefs::volume
