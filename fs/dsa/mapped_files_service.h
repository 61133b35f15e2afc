// MappedFilesService: MappedFiles as sessions use them.

#ifndef STAGEFS_FS_DSA_MAPPED_FILES_SERVICE_H_
#define STAGEFS_FS_DSA_MAPPED_FILES_SERVICE_H_

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "fs/dsa/mapped_files.h"
#include "fs/dsa/mapping_service.h"
#include "fs/dsa/sharing_registry.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"

namespace stagefs::dsa {

// `volume` and `sharing` outlive it. Its end waits for reads under way; no call may come any more.
class MappedFilesService final : public MappingService {
 public:
  MappedFilesService(volume::Volume& volume, volume::Sharing& sharing)
      : registry_(sharing), files_(volume, registry_, MappedFiles::Options()) {}

  absl::StatusOr<int> Map(volume::Ino ino, uint32_t user, uint64_t offset, uint64_t length) override {
    return files_.Map(ino, user, offset, length);
  }
  void Unmap(volume::Ino ino, uint32_t user) override { files_.Unmap(ino, user); }
  void Populate(volume::Ino ino, uint32_t user, uint64_t offset, uint64_t length,
                volume::StatusCallback done) override {
    files_.Populate(ino, user, offset, length, std::move(done));
  }

 private:
  SharingRegistry registry_;
  MappedFiles files_;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_MAPPED_FILES_SERVICE_H_
