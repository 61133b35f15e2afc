// SharingRegistry: volume::Sharing as what MappedFiles reports to, in a server that has both.

#ifndef STAGEFS_FS_DSA_SHARING_REGISTRY_H_
#define STAGEFS_FS_DSA_SHARING_REGISTRY_H_

#include "fs/dsa/mapped_files.h"
#include "fs/volume/sharing.h"

namespace stagefs::dsa {

// Thread-safe.
class SharingRegistry final : public MappedFiles::Registry {
 public:
  // `sharing` must outlive this.
  explicit SharingRegistry(volume::Sharing& sharing) : sharing_(sharing) {}

  void AddViewer(volume::Ino ino, volume::Sharing::Viewer* viewer) override { sharing_.AddViewer(ino, viewer); }
  void RemoveViewer(volume::Ino ino, volume::Sharing::Viewer* viewer) override { sharing_.RemoveViewer(ino, viewer); }

 private:
  volume::Sharing& sharing_;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_SHARING_REGISTRY_H_
