// VolumeTester: a volume on a MemoryEngine in a simulated environment, with calls that wait and give errnos.

#ifndef STAGEFS_FS_VOLUME_VOLUME_TESTER_H_
#define STAGEFS_FS_VOLUME_VOLUME_TESTER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fs/volume/errno.h"
#include "fs/volume/testing/memory_engine.h"
#include "fs/volume/volume.h"
#include "sal/simulated_environment.h"

namespace stagefs::volume::testing {

class VolumeTester {
 public:
  struct Options {
    MemoryEngine::Options engine = Misses(1);
    uint64_t hash_mask = ~uint64_t{0};
  };

  // Engine options under which bodies are run again now and then.
  static MemoryEngine::Options Misses(uint64_t seed, uint64_t capacity_blocks = 65536);
  static Options NoMisses(uint64_t capacity_blocks);

  VolumeTester() : VolumeTester(Options()) {}
  explicit VolumeTester(const Options& options);
  ~VolumeTester();

  Volume& volume() { return *volume_; }
  MemoryEngine& engine() { return *engine_; }
  sal::SimulatedEnvironment& environment() { return environment_; }

  // Closes the volume in order and opens it again.
  void Reopen();
  // Goes on as after a crash now: what was accepted is there, all memory is lost.
  void Crash();
  void Crash(MemoryEngine::State state, bool read_only = false);
  // Runs background work to its end.
  void Settle();
  // fsck finds nothing wrong with the volume as a crash now would leave it. (Not looked at if names are made to
  // collide, since then their hashes are wrong.)
  void ExpectClean();

  // Waits for one call: `start` is given the callback.
  template <typename T, typename Start>
  absl::StatusOr<T> Wait(Start start) {
    absl::StatusOr<T> result = absl::UnknownError("no callback");
    bool called = false;
    start([&](absl::StatusOr<T> value) {
      result = std::move(value);
      called = true;
    });
    RunUntil(called);
    return result;
  }
  template <typename Start>
  absl::Status WaitStatus(Start start) {
    absl::Status result;
    bool called = false;
    start([&](absl::Status status) {
      result = std::move(status);
      called = true;
    });
    RunUntil(called);
    return result;
  }

  // --- Operations that must succeed (the test fails otherwise) ---
  Ino File(Ino directory, absl::string_view name, uint32_t mode = 0644);
  Ino Directory(Ino directory, absl::string_view name, uint32_t mode = 0755);
  Ino Symlink(Ino directory, absl::string_view name, absl::string_view target);
  Attributes Stat(Ino ino);
  StatFs Fs();
  std::string Read(Ino ino, uint64_t offset, uint64_t length);
  std::vector<DirectoryEntry> List(Ino directory, uint32_t max_entries = 100, bool with_attributes = false);
  std::vector<std::string> Names(Ino directory);  // sorted, without "." and ".."

  // --- Operations that give an errno, 0 for success ---
  int Write(Ino ino, uint64_t offset, absl::string_view bytes, bool append = false);
  int Truncate(Ino ino, uint64_t size);
  int Allocate(Ino ino, int mode, uint64_t offset, uint64_t length);
  int Set(Ino ino, const AttributeChange& change);
  int Lookup(Ino directory, absl::string_view name, Ino* ino = nullptr);
  int Create(Ino directory, absl::string_view name, const NewFile& file, Ino* ino = nullptr, bool open = false);
  int MakeDirectory(Ino directory, absl::string_view name, Ino* ino = nullptr);
  int Link(Ino ino, Ino directory, absl::string_view name);
  int Unlink(Ino directory, absl::string_view name);
  int RemoveDirectory(Ino directory, absl::string_view name);
  int Rename(Ino directory, absl::string_view name, Ino new_directory, absl::string_view new_name, uint32_t flags = 0);
  int Open(Ino ino, bool truncate = false);
  int StatError(Ino ino);
  int Seek(Ino ino, uint64_t offset, int whence, uint64_t* result);
  int SetXattr(Ino ino, absl::string_view name, absl::string_view value, int flags = 0);
  int GetXattr(Ino ino, absl::string_view name, std::string* value);
  int RemoveXattr(Ino ino, absl::string_view name);

 private:
  void RunUntil(const bool& called);
  void OpenVolume();

  Options options_;
  sal::SimulatedEnvironment environment_;
  std::unique_ptr<MemoryEngine> engine_;
  std::unique_ptr<Volume> volume_;
};

// `length` bytes that depend on `seed` and position.
std::string Pattern(uint64_t seed, uint64_t length);

}  // namespace stagefs::volume::testing

#endif  // STAGEFS_FS_VOLUME_VOLUME_TESTER_H_
