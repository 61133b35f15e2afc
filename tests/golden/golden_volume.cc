#include "tests/golden/golden_volume.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/checksum.h"
#include "sal/status_macros.h"
#include "tests/fuzz/volume_calls.h"

namespace stagefs::golden {
namespace {

using volume::Attributes;
using volume::Ino;
using volume::kRootIno;
using volume::Volume;

// Bytes that depend on their place alone.
std::vector<std::byte> Pattern(uint64_t offset, size_t length) {
  std::vector<std::byte> bytes(length);
  for (size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>((offset + i) * 7 % 251 + 1);
  return bytes;
}

class Filler {
 public:
  explicit Filler(Volume& volume) : volume_(volume) {}

  absl::StatusOr<Ino> Make(Ino directory, absl::string_view name, uint32_t mode, uint64_t rdev = 0) {
    ASSIGN_OR_RETURN(const Attributes made, fuzz::WaitFor<Attributes>(volume_, [&](auto done) {
                       volume::NewFile file = {.mode = mode, .uid = 1000, .gid = 100, .rdev = rdev};
                       if (S_ISDIR(mode)) return volume_.MakeDirectory(directory, name, file, std::move(done));
                       volume_.Create(directory, name, file, false, std::move(done));
                     }));
    return made.ino;
  }
  absl::Status Symlink(Ino directory, absl::string_view name, const std::string& target) {
    return fuzz::WaitFor<Attributes>(volume_, [&](auto done) {
             volume_.MakeSymlink(directory, name, target, {.mode = S_IFLNK | 0777}, std::move(done));
           }).status();
  }
  absl::Status Link(Ino ino, Ino directory, absl::string_view name) {
    return fuzz::WaitFor<Attributes>(volume_, [&](auto done) {
             volume_.Link(ino, directory, name, std::move(done));
           }).status();
  }
  absl::Status Write(Ino ino, uint64_t offset, size_t length) {
    const std::vector<std::byte> bytes = Pattern(offset, length);
    return fuzz::WaitFor<size_t>(volume_, [&](auto done) {
             volume_.Write(ino, offset, bytes, false, std::move(done));
           }).status();
  }
  absl::Status SetXattr(Ino ino, absl::string_view name, size_t length) {
    return fuzz::WaitForStatus(volume_, [&](auto done) {
      volume_.SetXattr(ino, name, std::string(length, 'x'), 0, std::move(done));
    });
  }
  absl::Status OpenAndUnlink(Ino ino, absl::string_view name) {
    RETURN_IF_ERROR(fuzz::WaitFor<Attributes>(volume_, [&](auto done) {
                      volume_.Open(ino, false, std::move(done));
                    }).status());
    return fuzz::WaitForStatus(volume_, [&](auto done) { volume_.Unlink(kRootIno, name, std::move(done)); });
  }
  absl::Status Sync() {
    return fuzz::WaitForStatus(volume_, [&](auto done) { volume_.Sync(std::move(done)); });
  }

 private:
  Volume& volume_;
};

// The line of one name, without those below it.
std::string DescribeOne(Volume& volume, const std::string& path, Ino ino) {
  const auto attributes =
      fuzz::WaitFor<Attributes>(volume, [&](auto done) { volume.GetAttributes(ino, std::move(done)); });
  if (!attributes.ok()) return absl::StrCat(path, ": ", attributes.status().ToString(), "\n");
  std::string line = absl::StrFormat("%s: mode %o, links %d, owner %d:%d, size %d", path, attributes->mode,
                                     attributes->nlink, attributes->uid, attributes->gid,
                                     S_ISDIR(attributes->mode) ? 0 : attributes->size_bytes);
  if (attributes->rdev != 0) absl::StrAppend(&line, ", device ", attributes->rdev);
  if (S_ISLNK(attributes->mode)) {
    const auto target = fuzz::WaitFor<std::string>(volume, [&](auto done) { volume.ReadSymlink(ino, std::move(done)); });
    absl::StrAppend(&line, ", to ", target.ok() ? absl::StrCat(core::Hash(target->data(), target->size(), 0))
                                                : target.status().ToString());
  }
  if (S_ISREG(attributes->mode)) {
    std::vector<std::byte> content(attributes->size_bytes);
    const auto read = fuzz::WaitFor<size_t>(
        volume, [&](auto done) { volume.Read(ino, 0, absl::MakeSpan(content), std::move(done)); });
    absl::StrAppend(&line, ", content ", read.ok() ? absl::StrCat(core::Hash(content.data(), *read, 0))
                                                   : read.status().ToString());
  }
  const auto names = fuzz::WaitFor<std::string>(volume, [&](auto done) { volume.ListXattrs(ino, std::move(done)); });
  std::vector<std::string> sorted = absl::StrSplit(names.value_or(""), '\0', absl::SkipEmpty());
  std::sort(sorted.begin(), sorted.end());
  for (const std::string& name : sorted) {
    const auto value =
        fuzz::WaitFor<std::string>(volume, [&](auto done) { volume.GetXattr(ino, name, std::move(done)); });
    absl::StrAppend(&line, ", ", name, "=", value.ok() ? absl::StrCat(value->size()) : value.status().ToString());
  }
  return line + "\n";
}

void DescribeBelow(Volume& volume, const std::string& path, Ino directory, std::string* text) {
  auto entries = fuzz::WaitFor<std::vector<volume::DirectoryEntry>>(
      volume, [&](auto done) { volume.ReadDirectory(directory, 0, 1000, false, std::move(done)); });
  if (!entries.ok()) {
    absl::StrAppend(text, path, ": ", entries.status().ToString(), "\n");
    return;
  }
  std::sort(entries->begin(), entries->end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (const volume::DirectoryEntry& entry : *entries) {
    if (entry.name == "." || entry.name == "..") continue;
    const std::string below = absl::StrCat(path, "/", entry.name);
    absl::StrAppend(text, DescribeOne(volume, below, entry.ino));
    if (S_ISDIR(entry.type)) DescribeBelow(volume, below, entry.ino, text);
  }
}

}  // namespace

absl::Status Fill(Volume& volume) {
  Filler filler(volume);
  ASSIGN_OR_RETURN(const Ino directory, filler.Make(kRootIno, "directory", S_IFDIR | 02755));
  ASSIGN_OR_RETURN(const Ino deeper, filler.Make(directory, "deeper", S_IFDIR | 0700));
  ASSIGN_OR_RETURN(const Ino empty, filler.Make(kRootIno, "empty", S_IFREG | 0600));
  ASSIGN_OR_RETURN(const Ino small, filler.Make(kRootIno, "inline", S_IFREG | 0644));
  RETURN_IF_ERROR(filler.Write(small, 0, 100));
  ASSIGN_OR_RETURN(const Ino large, filler.Make(directory, "extents and holes", S_IFREG | 04755));
  RETURN_IF_ERROR(filler.Write(large, 0, 70'000));
  RETURN_IF_ERROR(filler.Write(large, 300'000, 5000));
  ASSIGN_OR_RETURN(const Ino linked, filler.Make(deeper, "linked", S_IFREG | 0640));
  RETURN_IF_ERROR(filler.Write(linked, 3000, 5000));
  RETURN_IF_ERROR(filler.Link(linked, kRootIno, "another name of linked"));
  RETURN_IF_ERROR(filler.Symlink(kRootIno, "short symlink", "directory/deeper"));
  RETURN_IF_ERROR(filler.Symlink(kRootIno, "long symlink", std::string(3000, 's')));
  RETURN_IF_ERROR(filler.Make(kRootIno, "fifo", S_IFIFO | 0600).status());
  RETURN_IF_ERROR(filler.Make(kRootIno, "device", S_IFBLK | 0600, 0x801).status());
  RETURN_IF_ERROR(filler.Make(kRootIno, std::string(255, 'n'), S_IFREG | 0644).status());
  RETURN_IF_ERROR(filler.SetXattr(empty, "user.small", 10));
  RETURN_IF_ERROR(filler.SetXattr(empty, "user.large", 5000));
  RETURN_IF_ERROR(filler.SetXattr(directory, "user.of a directory", 1));
  // Enough names for a tree of more than one level.
  for (int i = 0; i < 40; ++i) {
    RETURN_IF_ERROR(filler.Make(deeper, absl::StrCat("one of many names that fill nodes ", i), S_IFREG | 0644).status());
  }
  RETURN_IF_ERROR(filler.Sync());
  // An orphan: nothing of it is to be seen.
  ASSIGN_OR_RETURN(const Ino orphan, filler.Make(kRootIno, "unlinked while open", S_IFREG | 0600));
  RETURN_IF_ERROR(filler.Write(orphan, 0, 20'000));
  RETURN_IF_ERROR(filler.OpenAndUnlink(orphan, "unlinked while open"));
  return filler.Sync();
}

std::string Describe(Volume& volume) {
  std::string text = DescribeOne(volume, "", kRootIno);
  DescribeBelow(volume, "", kRootIno, &text);
  return text;
}

}  // namespace stagefs::golden
