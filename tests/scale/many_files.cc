#include "tests/scale/many_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/engine.h"
#include "fs/volume/volume.h"
#include "sal/open_store.h"
#include "sal/real_environment.h"
#include "sal/status_macros.h"

namespace stagefs::scale {
namespace {

using volume::Attributes;
using volume::Ino;
using volume::Volume;

constexpr uint64_t kFilesPerDirectory = 1000;

class Maker {
 public:
  Maker(sal::Environment& environment, Volume& volume)
      : environment_(environment), volume_(volume), content_(80000, std::byte{'c'}) {}

  absl::Status Make(uint64_t files) {
    Ino above = volume::kRootIno, directory = volume::kRootIno;
    for (uint64_t i = 0; i < files; ++i) {
      if (i % (kFilesPerDirectory * 30) == 0) {
        ASSIGN_OR_RETURN(above, Directory(volume::kRootIno, absl::StrCat("directory ", i)));
      }
      if (i % kFilesPerDirectory == 0) {
        ASSIGN_OR_RETURN(directory, Directory(above, absl::StrCat("directory ", i)));
      }
      RETURN_IF_ERROR(File(directory, i));
    }
    return absl::OkStatus();
  }

 private:
  template <typename T, typename Start>
  absl::StatusOr<T> Wait(Start start) {
    const std::unique_ptr<sal::Event> finished = environment_.NewEvent();
    absl::StatusOr<T> result;
    start([&](absl::StatusOr<T> value) {
      result = std::move(value);
      finished->Set();
    });
    finished->Wait();
    return result;
  }
  absl::StatusOr<Ino> Directory(Ino parent, const std::string& name) {
    ASSIGN_OR_RETURN(const Attributes made, Wait<Attributes>([&](auto done) {
                       volume_.MakeDirectory(parent, name, {.mode = 0755}, std::move(done));
                     }));
    return made.ino;
  }
  absl::Status Write(Ino ino, uint64_t offset, uint64_t length) {
    return Wait<size_t>([&](auto done) {
             volume_.Write(ino, offset, absl::MakeSpan(content_).first(length), false, std::move(done));
           }).status();
  }
  absl::Status Attribute(Ino ino, uint64_t length) {
    const std::unique_ptr<sal::Event> finished = environment_.NewEvent();
    absl::Status result;
    volume_.SetXattr(ino, "user.attribute", std::string(length, 'a'), 0, [&](absl::Status status) {
      result = std::move(status);
      finished->Set();
    });
    finished->Wait();
    return result;
  }
  absl::Status File(Ino directory, uint64_t number) {
    ASSIGN_OR_RETURN(const Attributes made, Wait<Attributes>([&](auto done) {
                       volume_.Create(directory, absl::StrCat("file number ", number), {.mode = S_IFREG | 0644}, false,
                                      std::move(done));
                     }));
    switch (number % 10) {
      case 0:
        return absl::OkStatus();
      case 1:
        return Write(made.ino, 0, 6000);
      case 2:
        return number % 100 == 2 ? Write(made.ino, 200000, 80000) : Write(made.ino, 9000, 6000);
      case 3:
        RETURN_IF_ERROR(Wait<Attributes>([&](auto done) {
                          volume_.Link(made.ino, directory, absl::StrCat("second name of ", number), std::move(done));
                        }).status());
        break;
      case 4:
        RETURN_IF_ERROR(Attribute(made.ino, number % 1000 == 4 ? 5000 : 20));
        break;
      default:
        break;
    }
    return Write(made.ino, 0, 50 + number % 100);
  }

  sal::Environment& environment_;
  Volume& volume_;
  std::vector<std::byte> content_;
};

absl::Status Fill(core::Engine& engine, uint64_t files) {
  RETURN_IF_ERROR(Volume::Format(engine, {}));
  ASSIGN_OR_RETURN(const std::unique_ptr<Volume> volume, Volume::Open(engine));
  const absl::Status made = Maker(engine.environment(), *volume).Make(files);
  volume->Close();
  return made;
}

}  // namespace

absl::Status MakeManyFiles(const std::string& path, uint64_t files) {
  sal::RealEnvironment environment;
  sal::OpenStoreOptions options;
  options.create_bytes = (uint64_t{256} << 20) + files * 5000;
  ASSIGN_OR_RETURN(const std::unique_ptr<sal::BlockStore> store, sal::OpenStore(path, options));
  RETURN_IF_ERROR(core::Engine::Format(*store, environment, {}));
  core::RecoveryReport report;
  ASSIGN_OR_RETURN(const std::unique_ptr<core::Engine> engine, core::Engine::Open(*store, environment, {}, &report));
  const absl::Status filled = Fill(*engine, files);
  const absl::Status closed = engine->Close();
  return filled.ok() ? closed : filled;
}

}  // namespace stagefs::scale
