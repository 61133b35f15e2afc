#include "fs/dsa/testing/served_volume.h"

#include <stdlib.h>
#include <unistd.h>

#include "absl/strings/string_view.h"
#include "fs/dsa/mapped_files_service.h"
#include "fs/dsa/server.h"
#include "fs/volume/sharing.h"
#include "fs/volume/testing/memory_engine.h"
#include "fs/volume/volume.h"
#include "sal/check.h"
#include "sal/real_environment.h"

namespace stagefs::dsa::testing {
namespace {

std::string MakeDirectory() {
  std::string directory = "/tmp/stagefs-served.XXXXXX";
  STAGEFS_CHECK(mkdtemp(directory.data()) != nullptr);
  return directory;
}

volume::testing::MemoryEngine::Options EngineOptions() {
  volume::testing::MemoryEngine::Options options;
  options.capacity_blocks = 64 << 10;
  options.asynchronous = true;
  return options;
}

}  // namespace

struct ServedVolume::Parts {
  Parts() : directory(MakeDirectory()), address(directory + "/dsa"), engine(environment, EngineOptions()) {}

  const std::string directory;
  const std::string address;
  sal::RealEnvironment environment;
  volume::testing::MemoryEngine engine;
  volume::Sharing sharing;
  std::unique_ptr<volume::Volume> volume;
  std::unique_ptr<MappedFilesService> mappings;
  std::unique_ptr<DsaServer> server;
};

ServedVolume::ServedVolume() : parts_(std::make_unique<Parts>()) {
  Parts& parts = *parts_;
  STAGEFS_CHECK(volume::Volume::Format(parts.engine, {}).ok());
  parts.volume = *volume::Volume::Open(parts.engine);
  parts.mappings = std::make_unique<MappedFilesService>(*parts.volume, parts.sharing);
  DsaServerOptions options;
  options.addresses = {parts.address};
  parts.server =
      *DsaServer::Start(*parts.volume, parts.sharing, parts.mappings.get(), options, [](absl::string_view) {});
}

ServedVolume::~ServedVolume() {
  parts_->server.reset();
  parts_->mappings.reset();
  parts_->volume->Close();
  rmdir(parts_->directory.c_str());
}

std::string ServedVolume::address() const { return parts_->address; }

}  // namespace stagefs::dsa::testing
