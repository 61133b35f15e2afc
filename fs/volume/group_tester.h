// Group: a WriteGroup() put together part by part, for tests.

#ifndef STAGEFS_FS_VOLUME_GROUP_TESTER_H_
#define STAGEFS_FS_VOLUME_GROUP_TESTER_H_

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fs/volume/volume_tester.h"

namespace stagefs::volume::testing {

inline absl::Span<const std::byte> AsBytes(absl::string_view s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

inline uint64_t NumberAt(const std::string& bytes, uint64_t offset) {
  uint64_t number = 0;
  std::memcpy(&number, bytes.data() + offset, sizeof(number));
  return number;
}

inline std::string Number(uint64_t number) {
  return std::string(reinterpret_cast<const char*>(&number), sizeof(number));
}

// A group in the making; keeps the bytes that it writes.
class Group {
 public:
  using Kind = ContentChange::Kind;

  Group& Write(Ino ino, uint64_t offset, std::string bytes) {
    bytes_.push_back(std::make_unique<std::string>(std::move(bytes)));
    ContentChange& part = Add(Kind::kWrite, ino, offset);
    part.bytes = AsBytes(*bytes_.back());
    return *this;
  }
  Group& WriteStaged(VolumeTester& tester, Ino ino, uint64_t offset, const std::string& bytes) {
    const auto data = tester.engine().TryStage(bytes.size() / core::kBlockBytes);
    std::memcpy(data->bytes().data(), bytes.data(), bytes.size());
    data->Seal();
    Add(Kind::kWriteStaged, ino, offset).staged = data;
    return *this;
  }
  Group& CompareAndSwap(Ino ino, uint64_t offset, uint64_t expected, uint64_t number) {
    ContentChange& part = Add(Kind::kCompareAndSwap, ino, offset);
    part.expected = expected;
    part.operand = number;
    return *this;
  }
  Group& FetchAdd(Ino ino, uint64_t offset, uint64_t number) {
    Add(Kind::kFetchAdd, ino, offset).operand = number;
    return *this;
  }

  absl::StatusOr<GroupResult> Run(VolumeTester& tester) {
    return tester.Wait<GroupResult>([&](auto done) { tester.volume().WriteGroup(parts_, std::move(done)); });
  }
  int Error(VolumeTester& tester) { return ToErrno(Run(tester).status()); }

  const std::vector<ContentChange>& parts() const { return parts_; }

 private:
  ContentChange& Add(Kind kind, Ino ino, uint64_t offset) {
    ContentChange part;
    part.kind = kind;
    part.ino = ino;
    part.offset = offset;
    parts_.push_back(std::move(part));
    return parts_.back();
  }

  std::vector<ContentChange> parts_;
  std::vector<std::unique_ptr<std::string>> bytes_;
};

}  // namespace stagefs::volume::testing

#endif  // STAGEFS_FS_VOLUME_GROUP_TESTER_H_
