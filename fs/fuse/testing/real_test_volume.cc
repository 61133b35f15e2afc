#include "fs/fuse/testing/test_volume.h"
#include "fs/volume/testing/memory_engine.h"
#include "fs/volume/volume.h"
#include "sal/check.h"
#include "sal/real_environment.h"

namespace stagefs::fuse::testing {
namespace {

class RealHolder final : public VolumeHolder {
 public:
  RealHolder() : engine_(environment_, EngineOptions()) {
    STAGEFS_CHECK(volume::Volume::Format(engine_, volume::VolumeFormatOptions()).ok());
    absl::StatusOr<std::unique_ptr<volume::Volume>> opened = volume::Volume::Open(engine_);
    STAGEFS_CHECK(opened.ok());
    volume_ = *std::move(opened);
  }

  volume::Volume& volume() override { return *volume_; }
  void Fail() override { engine_.Break(absl::FailedPreconditionError("broken by the test")); }

 private:
  // Answers from other threads than the caller's, with misses in between, as the engine does.
  static volume::testing::MemoryEngine::Options EngineOptions() {
    volume::testing::MemoryEngine::Options options;
    options.capacity_blocks = 64 << 10;
    options.miss_probability = 0.05;
    options.asynchronous = true;
    options.durability = volume::testing::MemoryEngine::Durability::kWhenAsked;
    return options;
  }

  sal::RealEnvironment environment_;
  volume::testing::MemoryEngine engine_;
  std::unique_ptr<volume::Volume> volume_;
};

}  // namespace

std::unique_ptr<VolumeHolder> OpenTestVolume() { return std::make_unique<RealHolder>(); }

}  // namespace stagefs::fuse::testing
