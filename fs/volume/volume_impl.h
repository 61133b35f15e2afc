// VolumeImpl: the Volume over an engine. Wires the bodies of the operations (directory_operations.h, file_*.h, xattr.h)
// to the engine, one Operation each.

#ifndef STAGEFS_FS_VOLUME_VOLUME_IMPL_H_
#define STAGEFS_FS_VOLUME_VOLUME_IMPL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fs/volume/group_plan.h"
#include "fs/volume/orphans.h"
#include "fs/volume/staging_turn.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"
#include "sal/environment.h"
#include "sal/mutex.h"

namespace stagefs::volume {

class VolumeImpl : public Volume {
 public:
  // Volume::Open() for those who know more. `hash_mask` is and-ed to the hashes of names: all ones, except in tests
  // that want names to collide; it must be the same whenever a volume is opened.
  static absl::StatusOr<std::unique_ptr<VolumeImpl>> Open(core::Engine& engine, uint64_t hash_mask,
                                                          std::vector<std::string>* warnings = nullptr);
  ~VolumeImpl() override;

  void Close() override;

  void Lookup(Ino directory, absl::string_view name, Callback<Attributes> done) override;
  void Create(Ino directory, absl::string_view name, const NewFile& file, bool open,
              Callback<Attributes> done) override;
  void MakeDirectory(Ino directory, absl::string_view name, const NewFile& file, Callback<Attributes> done) override;
  void MakeSymlink(Ino directory, absl::string_view name, absl::string_view target, const NewFile& file,
                   Callback<Attributes> done) override;
  void CreateUnnamed(const NewFile& file, Callback<Attributes> done) override;
  void Link(Ino ino, Ino directory, absl::string_view name, Callback<Attributes> done) override;
  void Unlink(Ino directory, absl::string_view name, StatusCallback done) override;
  void RemoveDirectory(Ino directory, absl::string_view name, StatusCallback done) override;
  void Rename(Ino directory, absl::string_view name, Ino new_directory, absl::string_view new_name, uint32_t flags,
              StatusCallback done) override;
  void ReadSymlink(Ino ino, Callback<std::string> done) override;
  void ReadDirectory(Ino directory, uint64_t cookie, uint32_t max_entries, bool with_attributes,
                     Callback<std::vector<DirectoryEntry>> done) override;

  void GetAttributes(Ino ino, Callback<Attributes> done) override;
  void SetAttributes(Ino ino, const AttributeChange& change, Callback<Attributes> done) override;
  void Open(Ino ino, bool truncate, Callback<Attributes> done) override;
  void Release(Ino ino) override;

  void Read(Ino ino, uint64_t offset, absl::Span<std::byte> destination, Callback<size_t> done) override;
  void Write(Ino ino, uint64_t offset, absl::Span<const std::byte> bytes, bool append, Callback<size_t> done) override;
  void WriteGroup(std::vector<ContentChange> parts, Callback<GroupResult> done) override;
  void Allocate(Ino ino, int mode, uint64_t offset, uint64_t length, StatusCallback done) override;
  void Seek(Ino ino, uint64_t offset, int whence, Callback<uint64_t> done) override;

  void SetXattr(Ino ino, absl::string_view name, absl::string_view value, int flags, StatusCallback done) override;
  void GetXattr(Ino ino, absl::string_view name, Callback<std::string> done) override;
  void ListXattrs(Ino ino, Callback<std::string> done) override;
  void RemoveXattr(Ino ino, absl::string_view name, StatusCallback done) override;

  void GetStatFs(Callback<StatFs> done) override;
  void Sync(StatusCallback done) override;
  core::Engine& engine() override { return state_.engine(); }

 private:
  VolumeImpl(core::Engine& engine, const VolumeHeader& header, core::Block header_block, uint64_t hash_mask);

  // Runs the part of Allocate() that begins at `offset`, then the rest.
  void AllocateFrom(Ino ino, int mode, uint64_t offset, uint64_t end, StatusCallback done);

  VolumeState state_;
  Remover remover_;
  StagingTurn staging_turn_;
  const GroupLimits group_limits_;

  // Release() has no callback that its caller could wait for, so Close() does.
  Mutex mutex_;
  uint64_t releases_ ABSL_GUARDED_BY(mutex_) = 0;  // in progress
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  const std::unique_ptr<sal::Event> released_;  // set when closing and none is in progress
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_VOLUME_IMPL_H_
