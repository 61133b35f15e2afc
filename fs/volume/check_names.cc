// The part of a check that looks at how inodes hang together: what names lead to, link counts, parents, and whether
// every directory is reached from the root.

#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "fs/volume/check_context.h"
#include "fs/volume/header.h"
#include "fs/volume/volume.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Transaction;

constexpr uint8_t kDirectoryType = S_IFDIR >> 12;
constexpr Key kFirstItem = {1, 0, 0};
constexpr Key kLastItem = {~uint64_t{0}, 0xff, ~uint64_t{0}};

std::string InodeName(uint64_t ino) { return absl::StrCat("inode ", ino); }
std::string Quoted(absl::string_view name) { return absl::StrCat("\"", absl::CEscape(name), "\""); }

class NameCheck {
 public:
  explicit NameCheck(CheckContext& context) : context_(context) {}

  absl::Status Run() {
    context_.SetStep(0.6, 0.8);
    RETURN_IF_ERROR(CheckRoot());
    uint64_t first_ino = 1;
    while (true) {
      const uint64_t limit = std::max<uint64_t>(1, context_.options().window_inodes);
      std::optional<uint64_t> next;
      RETURN_IF_ERROR(LoadWindow(first_ino, limit, &next));
      end_ino_ = next.value_or(~uint64_t{0});
      RETURN_IF_ERROR(context_.WalkItems(kFirstItem, kLastItem,
                                         [&](const Key& key, absl::string_view value) -> absl::StatusOr<bool> {
                                           if (key.kind == kKindEntry) RETURN_IF_ERROR(OnEntries(key.ino, value));
                                           return true;
                                         }));
      RETURN_IF_ERROR(SettleStrays());
      for (Known& known : window_) RETURN_IF_ERROR(CheckLinks(known));
      context_.Progress(static_cast<double>(end_ino_) / static_cast<double>(context_.header().next_ino));
      if (!next.has_value()) return absl::OkStatus();
      first_ino = *next;
    }
  }

 private:
  // An inode of the window, and what names lead to it.
  struct Known {
    uint64_t ino;
    uint64_t parent;  // directories
    uint32_t nlink;
    uint32_t names;  // directories: names in the parent alone
    uint8_t type;
  };
  // A name of a directory that is not in the parent the directory knows.
  struct Stray {
    uint64_t directory;
    std::string name;
    uint64_t ino;
  };
  static constexpr size_t kMaxStrays = 10000;

  absl::Status CheckRoot() {
    ASSIGN_OR_RETURN(const std::optional<Inode> root, context_.FindInode(kRootIno));
    if (!root.has_value()) {
      context_.Report(ProblemKind::kInode, InodeName(kRootIno), "the root directory does not exist");
      if (!context_.may_fix_items()) return absl::OkStatus();
      return context_.Fix([&](Transaction& tx) -> absl::Status {
        Inode inode = context_.NewInode(S_IFDIR | 0755, 2);
        inode.parent = kRootIno;
        RETURN_IF_ERROR(context_.PutInode(tx, kRootIno, inode));
        return UpdateHeader(tx, [](VolumeHeader& header) { ++header.inode_count; });
      });
    }
    if (root->parent == kRootIno) return absl::OkStatus();
    context_.Report(ProblemKind::kLinks, InodeName(kRootIno), "the root's parent is not itself");
    return SetParent(kRootIno, kRootIno);
  }

  absl::Status SetParent(uint64_t ino, uint64_t parent) {
    if (!context_.may_fix_items()) return absl::OkStatus();
    return context_.Fix([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(std::optional<Inode> inode, context_.GetInode(tx, ino));
      if (!inode.has_value()) return absl::NotFoundError("the inode is gone");
      inode->parent = parent;
      return context_.PutInode(tx, ino, *inode);
    });
  }

  // Inodes from `first_ino` on, at most `limit`. `next`: the first behind them.
  absl::Status LoadWindow(uint64_t first_ino, uint64_t limit, std::optional<uint64_t>* next) {
    window_.clear();
    strays_.clear();
    first_ino_ = first_ino;
    return context_.WalkItems(
        Key{first_ino, 0, 0}, kLastItem, [&](const Key& key, absl::string_view value) -> absl::StatusOr<bool> {
          if (key.kind != kKindInode) return true;
          if (window_.size() == limit) {
            *next = key.ino;
            return false;
          }
          const absl::StatusOr<Inode> inode = DecodeInode(value);
          if (inode.ok()) {
            window_.push_back(
                {key.ino, inode->parent, inode->nlink, 0, static_cast<uint8_t>((inode->mode & S_IFMT) >> 12)});
          }
          return true;
        });
  }

  Known* Find(uint64_t ino) {
    const auto found = std::lower_bound(window_.begin(), window_.end(), ino,
                                        [](const Known& known, uint64_t value) { return known.ino < value; });
    return found != window_.end() && found->ino == ino ? &*found : nullptr;
  }

  absl::Status RemoveName(uint64_t directory, absl::string_view name) {
    if (!context_.may_fix_items()) return absl::OkStatus();
    return context_.Fix([&](Transaction& tx) { return context_.RemoveName(tx, directory, name); });
  }

  absl::Status OnEntries(uint64_t directory, absl::string_view rest) {
    while (!rest.empty()) {
      const absl::StatusOr<Entry> entry = TakeEntry(&rest);
      if (!entry.ok()) return absl::OkStatus();  // reported with the inode
      if (entry->ino >= first_ino_ && entry->ino < end_ino_) RETURN_IF_ERROR(OnEntry(directory, *entry));
    }
    return absl::OkStatus();
  }

  absl::Status OnEntry(uint64_t directory, const Entry& entry) {
    Known* known = Find(entry.ino);
    if (known == nullptr) {
      context_.Report(ProblemKind::kEntry, InodeName(directory),
                      absl::StrCat("its name ", Quoted(entry.name), " leads to inode ", entry.ino,
                                   ", which is not there"));
      return RemoveName(directory, entry.name);
    }
    if (entry.type != known->type) {
      context_.Report(ProblemKind::kEntry, InodeName(directory),
                      absl::StrCat("its name ", Quoted(entry.name), " says type ", entry.type, ", inode ", entry.ino,
                                   " has ", known->type));
      if (context_.may_fix_items()) {
        RETURN_IF_ERROR(context_.Fix(
            [&](Transaction& tx) { return context_.SetNameType(tx, directory, entry.name, known->type); }));
      }
    }
    if (known->type != kDirectoryType) {
      ++known->names;
    } else if (known->ino == kRootIno || (directory == known->parent && known->names > 0)) {
      context_.Report(ProblemKind::kEntry, InodeName(directory),
                      absl::StrCat("its name ", Quoted(entry.name), " is a second one of directory ", entry.ino));
      return RemoveName(directory, entry.name);
    } else if (directory == known->parent) {
      ++known->names;
    } else if (strays_.size() < kMaxStrays) {
      strays_.push_back({directory, std::string(entry.name), entry.ino});
    }
    return absl::OkStatus();
  }

  // A directory has one name, in its parent. If the parent it knows has none for it, the first that has one is it.
  absl::Status SettleStrays() {
    for (const Stray& stray : strays_) {
      Known* known = Find(stray.ino);
      if (known->names > 0) {
        context_.Report(ProblemKind::kEntry, InodeName(stray.directory),
                        absl::StrCat("its name ", Quoted(stray.name), " is a second one of directory ", stray.ino));
        RETURN_IF_ERROR(RemoveName(stray.directory, stray.name));
        continue;
      }
      context_.Report(ProblemKind::kLinks, InodeName(stray.ino),
                      absl::StrCat("its parent is said to be inode ", known->parent, ", but its name is in inode ",
                                   stray.directory));
      known->names = 1;
      known->parent = stray.directory;
      RETURN_IF_ERROR(SetParent(stray.ino, stray.directory));
    }
    return absl::OkStatus();
  }

  absl::Status CheckLinks(const Known& known) {
    if (known.ino == kRootIno) return absl::OkStatus();
    if (known.names == 0 && known.nlink > 0) {
      context_.Report(ProblemKind::kLinks, InodeName(known.ino), "no name leads to it");
      if (!context_.may_fix_items()) return absl::OkStatus();
      return context_.Fix([&](Transaction& tx) { return context_.MoveToLostFound(tx, known.ino); });
    }
    if (known.names == 0) return CheckOrphan(known.ino);
    const bool directory = known.type == kDirectoryType;
    if (directory ? known.nlink > 0 : known.nlink == known.names) return absl::OkStatus();
    context_.Report(ProblemKind::kLinks, InodeName(known.ino),
                    absl::StrCat("its link count is ", known.nlink, ", but it has ", known.names, " names"));
    if (!context_.may_fix_items()) return absl::OkStatus();
    return context_.Fix([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(std::optional<Inode> inode, context_.GetInode(tx, known.ino));
      if (!inode.has_value()) return absl::NotFoundError("the inode is gone");
      // What a directory has of its own, the next round counts.
      inode->nlink = directory ? 2 : known.names;
      RETURN_IF_ERROR(context_.PutInode(tx, known.ino, *inode));
      // It is not to be removed; a truncation to be finished is listed again by the next round.
      return context_.EraseItem(tx, OrphanKey(known.ino));
    });
  }

  // No links, no name: it waits to be removed.
  absl::Status CheckOrphan(uint64_t ino) {
    ASSIGN_OR_RETURN(const std::optional<std::string> orphan, context_.Find(OrphanKey(ino)));
    if (orphan.has_value()) return absl::OkStatus();
    context_.Report(ProblemKind::kOrphan, InodeName(ino), "it has no links, but is not listed for removal");
    if (!context_.may_fix_items()) return absl::OkStatus();
    return context_.Fix([&](Transaction& tx) {
      return context_.PutOrphan(tx, ino, {.what = Orphan::What::kInode, .from_block = 0});
    });
  }

  CheckContext& context_;
  std::vector<Known> window_;  // ascending
  std::vector<Stray> strays_;
  uint64_t first_ino_ = 0, end_ino_ = 0;
};

class ReachabilityCheck {
 public:
  explicit ReachabilityCheck(CheckContext& context)
      : context_(context), reached_(std::min(context.header().next_ino, kMaxRemembered)) {}

  absl::Status Run() {
    context_.SetStep(0.8, 0.9);
    return context_.WalkItems(kFirstItem, kLastItem,
                              [&](const Key& key, absl::string_view value) -> absl::StatusOr<bool> {
      if (key.kind != kKindInode) return true;
      const absl::StatusOr<Inode> inode = DecodeInode(value);
      if (inode.ok() && S_ISDIR(inode->mode) && inode->nlink > 0) RETURN_IF_ERROR(Climb(key.ino, inode->parent));
      context_.Progress(static_cast<double>(key.ino) / static_cast<double>(context_.header().next_ino));
      return true;
    });
  }

 private:
  static constexpr uint64_t kMaxRemembered = uint64_t{1} << 29;  // bits: 64 MiB

  bool Reached(uint64_t ino) const { return ino == kRootIno || (ino < reached_.size() && reached_[ino]); }

  // Follows parents up to the root, or to what is known to lead there.
  absl::Status Climb(uint64_t ino, uint64_t parent) {
    std::vector<uint64_t> way = {ino};
    absl::flat_hash_set<uint64_t> seen = {ino};
    while (!Reached(way.back())) {
      ASSIGN_OR_RETURN(const std::optional<Inode> above, context_.FindInode(parent));
      if (!above.has_value() || !S_ISDIR(above->mode)) return absl::OkStatus();  // reported with its names
      if (!seen.insert(parent).second) return BreakCycle(way.back(), parent);
      way.push_back(parent);
      parent = above->parent;
    }
    for (const uint64_t reached : way) {
      if (reached < reached_.size()) reached_[reached] = true;
    }
    return absl::OkStatus();
  }

  // `parent` is below `ino` and above it. Once in /lost+found, what hangs below is reached.
  absl::Status BreakCycle(uint64_t ino, uint64_t parent) {
    context_.Report(ProblemKind::kLinks, InodeName(ino), "the directories above it form a circle");
    if (!context_.may_fix_items()) return absl::OkStatus();
    std::optional<std::string> name;
    RETURN_IF_ERROR(context_.WalkItems(EntryKey(parent, 0), EntryKey(parent, ~uint64_t{0}),
                                       [&](const Key&, absl::string_view rest) -> absl::StatusOr<bool> {
                                         while (!rest.empty()) {
                                           const absl::StatusOr<Entry> entry = TakeEntry(&rest);
                                           if (!entry.ok()) break;
                                           if (entry->ino == ino) name = std::string(entry->name);
                                         }
                                         return !name.has_value();
                                       }));
    return context_.Fix([&](Transaction& tx) -> absl::Status {
      if (name.has_value()) RETURN_IF_ERROR(context_.RemoveName(tx, parent, *name));
      return context_.MoveToLostFound(tx, ino);
    });
  }

  CheckContext& context_;
  std::vector<bool> reached_;
};

}  // namespace

absl::Status CheckNames(CheckContext& context) { return NameCheck(context).Run(); }

absl::Status CheckReachability(CheckContext& context) { return ReachabilityCheck(context).Run(); }

}  // namespace stagefs::volume
