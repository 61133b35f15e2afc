// MemoryVolume: a Volume of maps, gone with the process. For testing and measuring the front end by itself.
//
// Callbacks run inside the calls. Fail() makes changes and Sync() fail as after a failure of the engine.

#ifndef STAGEFS_FS_FUSE_TESTING_MEMORY_VOLUME_H_
#define STAGEFS_FS_FUSE_TESTING_MEMORY_VOLUME_H_

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "fs/volume/volume.h"
#include "sal/mutex.h"

namespace stagefs::fuse::testing {

// Thread-safe.
class MemoryVolume : public volume::Volume {
 public:
  MemoryVolume();
  ~MemoryVolume() override;

  void Close() override {}
  // From now on nothing can be changed, and Sync() fails.
  void Fail() { failed_.store(true); }
  uint64_t sync_count() const { return sync_count_.load(); }

  void Lookup(volume::Ino directory, absl::string_view name, volume::Callback<volume::Attributes> done) override;
  void Create(volume::Ino directory, absl::string_view name, const volume::NewFile& file, bool open,
              volume::Callback<volume::Attributes> done) override;
  void MakeDirectory(volume::Ino directory, absl::string_view name, const volume::NewFile& file,
                     volume::Callback<volume::Attributes> done) override;
  void MakeSymlink(volume::Ino directory, absl::string_view name, absl::string_view target,
                   const volume::NewFile& file, volume::Callback<volume::Attributes> done) override;
  void CreateUnnamed(const volume::NewFile& file, volume::Callback<volume::Attributes> done) override;
  void Link(volume::Ino ino, volume::Ino directory, absl::string_view name,
            volume::Callback<volume::Attributes> done) override;
  void Unlink(volume::Ino directory, absl::string_view name, volume::StatusCallback done) override;
  void RemoveDirectory(volume::Ino directory, absl::string_view name, volume::StatusCallback done) override;
  void Rename(volume::Ino directory, absl::string_view name, volume::Ino new_directory, absl::string_view new_name,
              uint32_t flags, volume::StatusCallback done) override;
  void ReadSymlink(volume::Ino ino, volume::Callback<std::string> done) override;
  void ReadDirectory(volume::Ino directory, uint64_t cookie, uint32_t max_entries, bool with_attributes,
                     volume::Callback<std::vector<volume::DirectoryEntry>> done) override;
  void GetAttributes(volume::Ino ino, volume::Callback<volume::Attributes> done) override;
  void SetAttributes(volume::Ino ino, const volume::AttributeChange& change,
                     volume::Callback<volume::Attributes> done) override;
  void Open(volume::Ino ino, bool truncate, volume::Callback<volume::Attributes> done) override;
  void Release(volume::Ino ino) override;
  void Read(volume::Ino ino, uint64_t offset, absl::Span<std::byte> destination,
            volume::Callback<size_t> done) override;
  void Write(volume::Ino ino, uint64_t offset, absl::Span<const std::byte> bytes, bool append,
             volume::Callback<size_t> done) override;
  void Allocate(volume::Ino ino, int mode, uint64_t offset, uint64_t length, volume::StatusCallback done) override;
  void WriteGroup(std::vector<volume::ContentChange> parts, volume::Callback<volume::GroupResult> done) override;
  void Seek(volume::Ino ino, uint64_t offset, int whence, volume::Callback<uint64_t> done) override;
  void SetXattr(volume::Ino ino, absl::string_view name, absl::string_view value, int flags,
                volume::StatusCallback done) override;
  void GetXattr(volume::Ino ino, absl::string_view name, volume::Callback<std::string> done) override;
  void ListXattrs(volume::Ino ino, volume::Callback<std::string> done) override;
  void RemoveXattr(volume::Ino ino, absl::string_view name, volume::StatusCallback done) override;
  void GetStatFs(volume::Callback<volume::StatFs> done) override;
  void Sync(volume::StatusCallback done) override;
  // There is none: calling this ends the process.
  core::Engine& engine() override;

 private:
  struct Inode;
  using InodeRef = std::shared_ptr<Inode>;

  absl::StatusOr<InodeRef> Find(volume::Ino ino);
  absl::StatusOr<InodeRef> FindLocked(volume::Ino ino) ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mutex_);
  absl::StatusOr<InodeRef> FindEntryLocked(const InodeRef& directory, absl::string_view name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mutex_);
  absl::StatusOr<volume::Attributes> Make(volume::Ino directory, absl::string_view name, const volume::NewFile& file,
                                          absl::string_view target, bool open);
  absl::StatusOr<volume::Attributes> LinkNow(volume::Ino ino, volume::Ino directory, absl::string_view name);
  absl::Status Remove(volume::Ino directory, absl::string_view name, bool is_directory);
  absl::Status RenameNow(volume::Ino directory, absl::string_view name, volume::Ino new_directory,
                         absl::string_view new_name, uint32_t flags);
  void AddEntryLocked(const InodeRef& directory, absl::string_view name, const InodeRef& inode)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mutex_);
  void TakeEntryLocked(const InodeRef& directory, absl::string_view name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mutex_);
  void DropIfUnusedLocked(const InodeRef& inode) ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mutex_);
  absl::Status CheckWritable() const;

  std::atomic<bool> failed_ = false;
  std::atomic<uint64_t> sync_count_ = 0;

  // Guards the table, all directories, and the link and opener counts. Before any Inode::mutex.
  Mutex names_mutex_;
  std::unordered_map<volume::Ino, InodeRef> inodes_ ABSL_GUARDED_BY(names_mutex_);
  volume::Ino next_ino_ ABSL_GUARDED_BY(names_mutex_) = volume::kRootIno;
};

}  // namespace stagefs::fuse::testing

#endif  // STAGEFS_FS_FUSE_TESTING_MEMORY_VOLUME_H_
