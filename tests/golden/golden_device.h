// A store in a simulated world with an engine on it, for making and opening golden images.

#ifndef STAGEFS_TESTS_GOLDEN_GOLDEN_DEVICE_H_
#define STAGEFS_TESTS_GOLDEN_GOLDEN_DEVICE_H_

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "core/engine.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"
#include "tests/golden/golden_image.h"

namespace stagefs::golden {

class Device {
 public:
  explicit Device(const sal::SimulatedImage& image = {})
      : environment_(1), store_(environment_, Options(), {.durable = image, .current = image, .unflushed = {}}) {}
  ~Device() {
    if (engine_ != nullptr) Crash();
  }

  absl::Status Open(core::RecoveryReport* report = nullptr) {
    core::EngineOptions options;
    options.cache_bytes = 32 << 20;
    auto engine = core::Engine::Open(store_, environment_, options, report);
    if (!engine.ok()) return engine.status();
    engine_ = *std::move(engine);
    return absl::OkStatus();
  }
  absl::Status Close() {
    const absl::Status status = engine_->Close();
    Forget();
    return status;
  }
  // Power fails: what was not flushed is lost.
  void Crash() {
    store_.CutNow();
    engine_->Abandon();
    Forget();
  }

  core::Engine& engine() { return *engine_; }
  sal::SimulatedStore& store() { return store_; }
  sal::SimulatedEnvironment& environment() { return environment_; }

 private:
  static sal::SimulatedStoreOptions Options() {
    sal::SimulatedStoreOptions options;
    options.size_bytes = kStoreBytes;
    return options;
  }
  void Forget() {
    engine_ = nullptr;
    environment_.RunUntilIdle();
  }

  sal::SimulatedEnvironment environment_;
  sal::SimulatedStore store_;
  std::unique_ptr<core::Engine> engine_;
};

}  // namespace stagefs::golden

#endif  // STAGEFS_TESTS_GOLDEN_GOLDEN_DEVICE_H_
