#include "fs/fuse/testing/memory_volume.h"
#include "fs/fuse/testing/test_volume.h"

namespace stagefs::fuse::testing {
namespace {

class MemoryHolder final : public VolumeHolder {
 public:
  volume::Volume& volume() override { return volume_; }
  void Fail() override { volume_.Fail(); }

 private:
  MemoryVolume volume_;
};

}  // namespace

std::unique_ptr<VolumeHolder> OpenTestVolume() { return std::make_unique<MemoryHolder>(); }

}  // namespace stagefs::fuse::testing
