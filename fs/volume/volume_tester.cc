#include "fs/volume/volume_tester.h"

#include <sys/stat.h>

#include <algorithm>

#include "fs/volume/check.h"
#include "fs/volume/volume_impl.h"
#include "gtest/gtest.h"
#include "sal/check.h"
#include "sal/random.h"

namespace stagefs::volume::testing {
namespace {

template <typename T>
T Need(absl::StatusOr<T> value) {
  if (!value.ok()) ADD_FAILURE() << value.status();
  return value.ok() ? *std::move(value) : T();
}

}  // namespace

std::string Pattern(uint64_t seed, uint64_t length) {
  std::string bytes(length, '\0');
  sal::Random64 random(seed + 1);
  for (char& byte : bytes) byte = static_cast<char>(random.Next() >> 32);
  return bytes;
}

MemoryEngine::Options VolumeTester::Misses(uint64_t seed, uint64_t capacity_blocks) {
  MemoryEngine::Options options;
  options.capacity_blocks = capacity_blocks;
  options.seed = seed;
  options.miss_probability = 0.1;
  options.rerun_probability = 0.1;
  options.durability = MemoryEngine::Durability::kWhenAsked;
  return options;
}

VolumeTester::Options VolumeTester::NoMisses(uint64_t capacity_blocks) {
  Options options;
  options.engine = Misses(1, capacity_blocks);
  options.engine.miss_probability = options.engine.rerun_probability = 0;
  return options;
}

VolumeTester::VolumeTester(const Options& options) : options_(options), environment_(options.engine.seed) {
  engine_ = std::make_unique<MemoryEngine>(environment_, options_.engine);
  const absl::Status formatted = Volume::Format(*engine_, {});
  if (!formatted.ok()) ADD_FAILURE() << formatted;
  OpenVolume();
}

VolumeTester::~VolumeTester() {
  volume_->Close();
  Settle();
}

void VolumeTester::OpenVolume() {
  absl::StatusOr<std::unique_ptr<VolumeImpl>> volume = VolumeImpl::Open(*engine_, options_.hash_mask);
  if (!volume.ok()) ADD_FAILURE() << volume.status();
  STAGEFS_CHECK(volume.ok());
  volume_ = *std::move(volume);
}

void VolumeTester::Reopen() {
  volume_->Close();
  Crash(engine_->Snapshot());
}

void VolumeTester::Crash() { Crash(engine_->Snapshot()); }

void VolumeTester::Crash(MemoryEngine::State state, bool read_only) {
  // What the old volume still does happens to the old engine alone.
  volume_->Close();
  Settle();
  volume_ = nullptr;
  options_.engine.read_only = read_only;
  options_.engine.seed += 1;
  engine_ = std::make_unique<MemoryEngine>(environment_, options_.engine, std::move(state));
  OpenVolume();
}

void VolumeTester::ExpectClean() {
  if (options_.hash_mask != ~uint64_t{0}) return;
  MemoryEngine::Options options;
  options.capacity_blocks = options_.engine.capacity_blocks;
  MemoryEngine copy(environment_, options, engine_->Snapshot());
  const absl::StatusOr<CheckReport> report = Check(copy, {});
  ASSERT_TRUE(report.ok()) << report.status();
  for (const Problem& problem : report->problems) ADD_FAILURE() << ToString(problem);
}

void VolumeTester::Settle() { environment_.RunUntilIdle(); }

void VolumeTester::RunUntil(const bool& called) {
  while (!called) {
    if (!environment_.RunOne()) {
      ADD_FAILURE() << "the operation never called back";
      return;
    }
  }
}

Ino VolumeTester::File(Ino directory, absl::string_view name, uint32_t mode) {
  Ino ino = 0;
  EXPECT_EQ(Create(directory, name, {.mode = S_IFREG | mode}, &ino), 0);
  return ino;
}

Ino VolumeTester::Directory(Ino directory, absl::string_view name, uint32_t mode) {
  return Need(Wait<Attributes>([&](auto done) {
           volume_->MakeDirectory(directory, name, {.mode = mode}, std::move(done));
         })).ino;
}

Ino VolumeTester::Symlink(Ino directory, absl::string_view name, absl::string_view target) {
  return Need(Wait<Attributes>([&](auto done) {
           volume_->MakeSymlink(directory, name, target, {}, std::move(done));
         })).ino;
}

Attributes VolumeTester::Stat(Ino ino) {
  return Need(Wait<Attributes>([&](auto done) { volume_->GetAttributes(ino, std::move(done)); }));
}

StatFs VolumeTester::Fs() {
  return Need(Wait<StatFs>([&](auto done) { volume_->GetStatFs(std::move(done)); }));
}

std::string VolumeTester::Read(Ino ino, uint64_t offset, uint64_t length) {
  std::string bytes(length, '\xee');
  const size_t count = Need(Wait<size_t>([&](auto done) {
    volume_->Read(ino, offset, absl::MakeSpan(reinterpret_cast<std::byte*>(bytes.data()), bytes.size()),
                  std::move(done));
  }));
  bytes.resize(count);
  return bytes;
}

std::vector<DirectoryEntry> VolumeTester::List(Ino directory, uint32_t max_entries, bool with_attributes) {
  std::vector<DirectoryEntry> all;
  uint64_t cookie = 0;
  while (true) {
    std::vector<DirectoryEntry> part = Need(Wait<std::vector<DirectoryEntry>>([&](auto done) {
      volume_->ReadDirectory(directory, cookie, max_entries, with_attributes, std::move(done));
    }));
    if (part.empty()) return all;
    EXPECT_LE(part.size(), max_entries);
    cookie = part.back().cookie;
    std::move(part.begin(), part.end(), std::back_inserter(all));
  }
}

std::vector<std::string> VolumeTester::Names(Ino directory) {
  std::vector<std::string> names;
  for (const DirectoryEntry& entry : List(directory)) {
    if (entry.name != "." && entry.name != "..") names.push_back(entry.name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

int VolumeTester::Write(Ino ino, uint64_t offset, absl::string_view bytes, bool append) {
  const absl::StatusOr<size_t> count = Wait<size_t>([&](auto done) {
    volume_->Write(ino, offset,
                   absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), append,
                   std::move(done));
  });
  EXPECT_EQ(count.value_or(bytes.size()), bytes.size());
  EXPECT_FALSE(absl::IsDataLoss(count.status())) << count.status();
  return ToErrno(count.status());
}

int VolumeTester::Truncate(Ino ino, uint64_t size) {
  AttributeChange change;
  change.size_bytes = size;
  return Set(ino, change);
}

int VolumeTester::Allocate(Ino ino, int mode, uint64_t offset, uint64_t length) {
  return ToErrno(WaitStatus([&](auto done) { volume_->Allocate(ino, mode, offset, length, std::move(done)); }));
}

int VolumeTester::Set(Ino ino, const AttributeChange& change) {
  return ToErrno(
      Wait<Attributes>([&](auto done) { volume_->SetAttributes(ino, change, std::move(done)); }).status());
}

int VolumeTester::Lookup(Ino directory, absl::string_view name, Ino* ino) {
  const auto result = Wait<Attributes>([&](auto done) { volume_->Lookup(directory, name, std::move(done)); });
  if (result.ok() && ino != nullptr) *ino = result->ino;
  return ToErrno(result.status());
}

int VolumeTester::Create(Ino directory, absl::string_view name, const NewFile& file, Ino* ino, bool open) {
  const auto result =
      Wait<Attributes>([&](auto done) { volume_->Create(directory, name, file, open, std::move(done)); });
  if (result.ok() && ino != nullptr) *ino = result->ino;
  return ToErrno(result.status());
}

int VolumeTester::MakeDirectory(Ino directory, absl::string_view name, Ino* ino) {
  const auto result = Wait<Attributes>(
      [&](auto done) { volume_->MakeDirectory(directory, name, {.mode = 0755}, std::move(done)); });
  if (result.ok() && ino != nullptr) *ino = result->ino;
  return ToErrno(result.status());
}

int VolumeTester::Link(Ino ino, Ino directory, absl::string_view name) {
  return ToErrno(
      Wait<Attributes>([&](auto done) { volume_->Link(ino, directory, name, std::move(done)); }).status());
}

int VolumeTester::Unlink(Ino directory, absl::string_view name) {
  return ToErrno(WaitStatus([&](auto done) { volume_->Unlink(directory, name, std::move(done)); }));
}

int VolumeTester::RemoveDirectory(Ino directory, absl::string_view name) {
  return ToErrno(WaitStatus([&](auto done) { volume_->RemoveDirectory(directory, name, std::move(done)); }));
}

int VolumeTester::Rename(Ino directory, absl::string_view name, Ino new_directory, absl::string_view new_name,
                         uint32_t flags) {
  return ToErrno(WaitStatus([&](auto done) {
    volume_->Rename(directory, name, new_directory, new_name, flags, std::move(done));
  }));
}

int VolumeTester::Open(Ino ino, bool truncate) {
  return ToErrno(Wait<Attributes>([&](auto done) { volume_->Open(ino, truncate, std::move(done)); }).status());
}

int VolumeTester::StatError(Ino ino) {
  return ToErrno(Wait<Attributes>([&](auto done) { volume_->GetAttributes(ino, std::move(done)); }).status());
}

int VolumeTester::Seek(Ino ino, uint64_t offset, int whence, uint64_t* result) {
  const auto found = Wait<uint64_t>([&](auto done) { volume_->Seek(ino, offset, whence, std::move(done)); });
  if (found.ok()) *result = *found;
  return ToErrno(found.status());
}

int VolumeTester::SetXattr(Ino ino, absl::string_view name, absl::string_view value, int flags) {
  return ToErrno(WaitStatus([&](auto done) { volume_->SetXattr(ino, name, value, flags, std::move(done)); }));
}

int VolumeTester::GetXattr(Ino ino, absl::string_view name, std::string* value) {
  const auto found = Wait<std::string>([&](auto done) { volume_->GetXattr(ino, name, std::move(done)); });
  if (found.ok()) *value = *found;
  return ToErrno(found.status());
}

int VolumeTester::RemoveXattr(Ino ino, absl::string_view name) {
  return ToErrno(WaitStatus([&](auto done) { volume_->RemoveXattr(ino, name, std::move(done)); }));
}

}  // namespace stagefs::volume::testing
