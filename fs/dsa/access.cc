#include "fs/dsa/access.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/string_view.h"
#include "fs/dsa/protocol.h"
#include "fs/volume/errno.h"

namespace stagefs::dsa {
namespace {

using volume::Attributes;
using volume::ErrnoStatus;
using volume::Ino;

constexpr size_t kMaxPathBytes = 4095;  // of open(2)
constexpr int kMaxLinks = 40;
// How often a walk begins anew because somebody removed or made what it had just looked at.
constexpr int kMaxTries = 16;

// What open(2) takes and what has a meaning here, or can do no harm.
constexpr uint32_t kKnownOpenFlags = O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC |
                                     O_NOCTTY | O_DIRECT | kShared | 0100000;  // the last: the kernel's O_LARGEFILE

bool IsType(const Attributes& attributes, uint32_t type) { return (attributes.mode & S_IFMT) == type; }

// One opening: deletes itself when it is done.
class PathOpening {
 public:
  PathOpening(volume::Volume& volume, volume::Sharing& sharing, Executor executor, OpenPathRequest request,
              volume::Callback<OpenedFile> done)
      : volume_(volume),
        sharing_(sharing),
        executor_(std::move(executor)),
        request_(std::move(request)),
        done_(std::move(done)) {}

  void Start() {
    if (absl::Status status = CheckRequest(); !status.ok()) {
      executor_([this, status = std::move(status)]() mutable { Finish(std::move(status)); });
      return;
    }
    Walk();
  }

 private:
  bool Has(uint32_t flag) const { return (request_.flags & flag) == flag; }
  bool reads() const { return (request_.flags & O_ACCMODE) != O_WRONLY; }
  bool writes() const { return (request_.flags & O_ACCMODE) != O_RDONLY; }
  bool read_only() const { return request_.read_only || request_.identity.read_only; }
  volume::Sharing::Opener opener() const {
    return {.door = volume::Sharing::Door::kDirect, .writes = writes(), .shared = Has(kShared)};
  }

  absl::Status CheckRequest() const {
    if ((request_.flags & ~kKnownOpenFlags) != 0) return ErrnoStatus(EINVAL, "unknown flags");
    if ((request_.flags & O_ACCMODE) == O_ACCMODE) return ErrnoStatus(EINVAL, "neither read nor write is asked for");
    if (Has(O_TRUNC) && !writes()) return ErrnoStatus(EINVAL, "O_TRUNC without writing");
    if (Has(O_CREAT) && Has(O_DIRECTORY)) return ErrnoStatus(EINVAL, "O_CREAT makes no directories");
    if ((request_.mode & ~07777u) != 0) return ErrnoStatus(EINVAL, "mode has bits that are no permissions");
    if (request_.path.empty()) return ErrnoStatus(ENOENT, "the path is empty");
    if (request_.path.size() > kMaxPathBytes) return ErrnoStatus(ENAMETOOLONG, "the path is too long");
    if (request_.path.find('\0') != std::string::npos) return ErrnoStatus(EINVAL, "NUL in the path");
    return absl::OkStatus();
  }

  // Gives the volume's answer to `then`, on the executor: never inside the call, so that no path, however deep, makes a
  // deep stack.
  template <typename Result>
  auto Answer(void (PathOpening::*then)(Result)) {
    return [this, then](Result result) {
      executor_([this, then, result = std::move(result)]() mutable { (this->*then)(std::move(result)); });
    };
  }
  volume::Sharing::Done Told(void (PathOpening::*then)()) {
    return [this, then] { executor_([this, then] { (this->*then)(); }); };
  }

  // --- The walk ---

  void Walk() {
    rest_ = request_.path;
    links_ = 0;
    volume_.GetAttributes(volume::kRootIno, Answer(&PathOpening::EnterDirectory));
  }
  void WalkAgain(absl::Status why) {
    if (++tries_ == kMaxTries) return Finish(std::move(why));
    Walk();
  }

  void EnterDirectory(absl::StatusOr<Attributes> directory) {
    if (!directory.ok()) return Failed(directory.status());
    directory_ = *std::move(directory);
    NextName();
  }

  // `rest_` is what is left of the path, below `directory_`.
  void NextName() {
    const size_t begin = rest_.find_first_not_of('/');
    if (begin == std::string::npos) return FoundDirectory();
    const size_t end = std::min(rest_.find('/', begin), rest_.size());
    name_ = rest_.substr(begin, end - begin);
    rest_.erase(0, end);
    if (!MayAccess(request_.identity, directory_, kMaySearch)) {
      return Finish(ErrnoStatus(EACCES, "a directory of the path may not be searched"));
    }
    if (name_ == ".." && directory_.ino == volume::kRootIno) {
      return Finish(ErrnoStatus(EXDEV, "the path leads out of the volume"));
    }
    if (name_.size() > volume::kMaxNameBytes) return Finish(ErrnoStatus(ENAMETOOLONG, "a name is too long"));
    volume_.Lookup(directory_.ino, name_, Answer(&PathOpening::Found));
  }

  bool IsLast() const { return rest_.find_first_not_of('/') == std::string::npos; }
  bool MustBeDirectory() const { return !rest_.empty(); }

  void Found(absl::StatusOr<Attributes> found) {
    if (!found.ok()) {
      if (volume::ToErrno(found.status()) == ENOENT && IsLast() && Has(O_CREAT)) return Create();
      return Failed(found.status());
    }
    if (IsType(*found, S_IFLNK)) return FoundLink(found->ino);
    if (IsType(*found, S_IFDIR)) {
      directory_ = *std::move(found);
      return NextName();
    }
    if (MustBeDirectory()) return Finish(ErrnoStatus(ENOTDIR, "part of the path is not a directory"));
    FoundFile(*found);
  }

  void FoundDirectory() {
    if (Has(O_CREAT) && Has(O_EXCL)) return Finish(ErrnoStatus(EEXIST, "it exists"));
    Finish(ErrnoStatus(EISDIR, "it is a directory"));
  }

  void FoundLink(Ino link) {
    if (!MustBeDirectory()) {
      if (Has(O_CREAT) && Has(O_EXCL)) return Finish(ErrnoStatus(EEXIST, "it exists"));
      if (Has(O_NOFOLLOW)) return Finish(ErrnoStatus(ELOOP, "it is a symbolic link"));
    }
    if (++links_ > kMaxLinks) return Finish(ErrnoStatus(ELOOP, "too many symbolic links"));
    volume_.ReadSymlink(link, Answer(&PathOpening::FollowLink));
  }

  void FollowLink(absl::StatusOr<std::string> target) {
    if (!target.ok()) return Failed(target.status());
    if (target->empty()) return Finish(ErrnoStatus(ENOENT, "a symbolic link is empty"));
    if (target->front() == '/') return Finish(ErrnoStatus(EXDEV, "a symbolic link leads out of the volume"));
    rest_ = *target + rest_;
    NextName();
  }

  // --- The file ---

  void FoundFile(const Attributes& file) {
    if (Has(O_CREAT) && Has(O_EXCL)) return Finish(ErrnoStatus(EEXIST, "it exists"));
    if (Has(O_DIRECTORY)) return Finish(ErrnoStatus(ENOTDIR, "it is not a directory"));
    if (!IsType(file, S_IFREG)) return Finish(ErrnoStatus(EINVAL, "it is not a regular file"));
    if (writes() && read_only()) return Finish(ErrnoStatus(EROFS, "nothing may be changed here"));
    const uint32_t wanted = (reads() ? kMayLook : 0) | (writes() ? kMayChange : 0);
    if (!MayAccess(request_.identity, file, wanted)) return Finish(ErrnoStatus(EACCES, "the file's permissions"));
    if (absl::Status status = sharing_.Open(file.ino, opener()); !status.ok()) return Finish(std::move(status));
    opening_ = file.ino;
    volume_.Open(file.ino, Has(O_TRUNC), Answer(&PathOpening::Opened));
  }

  void Opened(absl::StatusOr<Attributes> file) {
    if (!file.ok()) {
      sharing_.Close(opening_, opener());
      // It was removed since it was looked up: its name may be another file's by now.
      if (volume::ToErrno(file.status()) == ENOENT) return WalkAgain(file.status());
      return Failed(file.status());
    }
    Hold(*file);
    truncated_ = Has(O_TRUNC);
    BeginWriting();
  }

  // From here on the destructor of OpenFile takes back what was opened.
  void Hold(const Attributes& file) {
    opened_ = {std::make_shared<OpenFile>(volume_, sharing_, file.ino, reads(), opener()), file};
  }

  void BeginWriting() {
    if (!writes()) return Finish(std::move(opened_));
    sharing_.DirectWritingBegins(opened_.attributes.ino, Told(&PathOpening::WritingBegun));
  }
  // A program that somebody else may now write must not keep what its file's capabilities give it. (Set-id bits go with
  // the write itself.)
  void WritingBegun() {
    volume_.RemoveXattr(opened_.attributes.ino, "security.capability", Answer(&PathOpening::CapabilitiesGone));
  }
  void CapabilitiesGone(absl::Status status) {
    if (!status.ok() && volume::ToErrno(status) != ENODATA) return Finish(std::move(status));
    if (!truncated_) return Finish(std::move(opened_));
    sharing_.Changed(opened_.attributes.ino, 0, 0, volume::Sharing::Door::kDirect, Told(&PathOpening::Complete));
  }
  void Complete() { Finish(std::move(opened_)); }

  // --- A new file ---

  void Create() {
    if (MustBeDirectory()) return Finish(ErrnoStatus(EISDIR, "O_CREAT makes no directories"));
    if (read_only()) return Finish(ErrnoStatus(EROFS, "nothing may be changed here"));
    if (!MayAccess(request_.identity, directory_, kMayChange | kMaySearch)) {
      return Finish(ErrnoStatus(EACCES, "the directory's permissions"));
    }
    const Identity& owner = request_.identity;
    const volume::NewFile file = {.mode = S_IFREG | NewMode(), .uid = owner.uid, .gid = owner.gid};
    volume_.Create(directory_.ino, name_, file, /*open=*/true, Answer(&PathOpening::Created));
  }

  // As the kernel does (mode_strip_sgid): nobody makes a program that runs with a group which is not theirs.
  uint32_t NewMode() const {
    constexpr uint32_t kRunsAsGroup = S_ISGID | S_IXGRP;
    const bool strips = (request_.mode & kRunsAsGroup) == kRunsAsGroup && (directory_.mode & S_ISGID) != 0 &&
                        request_.identity.uid != 0 && !request_.identity.InGroup(directory_.gid);
    return strips ? request_.mode & ~uint32_t{S_ISGID} : request_.mode;
  }

  void Created(absl::StatusOr<Attributes> file) {
    if (!file.ok()) {
      const bool raced = volume::ToErrno(file.status()) == EEXIST && !Has(O_EXCL);
      return raced ? WalkAgain(file.status()) : Failed(file.status());
    }
    opening_ = file->ino;
    if (absl::Status status = sharing_.Open(opening_, opener()); status.ok()) {
      Hold(*file);
    } else {
      volume_.Release(opening_);
      busy_ = std::move(status);
    }
    sharing_.NameChanged(directory_.ino, name_, volume::Sharing::Door::kDirect, Told(&PathOpening::NameKnown));
  }
  void NameKnown() {
    if (!busy_.ok()) return Finish(std::move(busy_));  // somebody at the mount opened it first
    BeginWriting();
  }

  // --- The end ---

  // ESTALE: a directory was removed while the walk was in it.
  void Failed(absl::Status status) {
    if (volume::ToErrno(status) == ESTALE) return WalkAgain(std::move(status));
    Finish(std::move(status));
  }
  void Finish(absl::StatusOr<OpenedFile> result) {
    volume::Callback<OpenedFile> done = std::move(done_);
    delete this;
    std::move(done)(std::move(result));
  }

  volume::Volume& volume_;
  volume::Sharing& sharing_;
  const Executor executor_;
  const OpenPathRequest request_;
  volume::Callback<OpenedFile> done_;

  // Used on the executor alone.
  int tries_ = 0;
  int links_ = 0;
  std::string rest_;
  std::string name_;
  Attributes directory_;
  Ino opening_ = 0;
  bool truncated_ = false;
  absl::Status busy_;
  OpenedFile opened_;
};

}  // namespace

bool Identity::InGroup(uint32_t group) const {
  return gid == group || std::find(groups.begin(), groups.end(), group) != groups.end();
}

bool MayAccess(const Identity& identity, const volume::Attributes& attributes, uint32_t wanted) {
  if (identity.uid == 0) return true;
  const int shift = identity.uid == attributes.uid ? 6 : identity.InGroup(attributes.gid) ? 3 : 0;
  return (attributes.mode >> shift & wanted) == wanted;
}

void OpenPath(volume::Volume& volume, volume::Sharing& sharing, Executor executor, OpenPathRequest request,
              volume::Callback<OpenedFile> done) {
  auto* const opening =
      new PathOpening(volume, sharing, std::move(executor), std::move(request), std::move(done));
  opening->Start();
}

}  // namespace stagefs::dsa
