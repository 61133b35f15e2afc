#include "fs/fuse/request_check.h"

#include <errno.h>
#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace stagefs::fuse {
namespace {

// Checks a request of `opcode` with `argument` behind its header.
int Check(uint32_t opcode, absl::string_view argument) {
  fuse_in_header header = {};
  header.opcode = opcode;
  header.len = static_cast<uint32_t>(sizeof(header) + argument.size());
  std::string request(reinterpret_cast<const char*>(&header), sizeof(header));
  request.append(argument.data(), argument.size());
  return CheckRequest(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(request.data()), request.size()));
}

template <typename In>
std::string Bytes(const In& in) {
  return std::string(reinterpret_cast<const char*>(&in), sizeof(in));
}

TEST(CheckRequestTest, ANameMustEnd) {
  EXPECT_EQ(Check(FUSE_LOOKUP, absl::string_view("name\0", 5)), 0);
  EXPECT_EQ(Check(FUSE_LOOKUP, "name"), EIO);
  EXPECT_EQ(Check(FUSE_LOOKUP, ""), EIO);
}

TEST(CheckRequestTest, EachOfTwoNamesMustEnd) {
  EXPECT_EQ(Check(FUSE_SYMLINK, absl::string_view("name\0target\0", 12)), 0);
  EXPECT_EQ(Check(FUSE_SYMLINK, absl::string_view("name\0target", 11)), EIO);
}

TEST(CheckRequestTest, AStructureMustBeWhole) {
  EXPECT_EQ(Check(FUSE_READ, std::string(sizeof(fuse_read_in), '\0')), 0);
  EXPECT_EQ(Check(FUSE_READ, std::string(sizeof(fuse_read_in) - 1, '\0')), EIO);
}

TEST(CheckRequestTest, AWriteMustHoldWhatItAnnounces) {
  fuse_write_in in = {};
  in.size = 10;
  EXPECT_EQ(Check(FUSE_WRITE, Bytes(in) + std::string(10, 'x')), 0);
  EXPECT_EQ(Check(FUSE_WRITE, Bytes(in) + std::string(9, 'x')), EIO);
}

TEST(CheckRequestTest, AnAttributesValueMustBeThere) {
  const uint32_t in[] = {4, 0};
  EXPECT_EQ(Check(FUSE_SETXATTR, Bytes(in) + std::string("user.a\0abcd", 11)), 0);
  EXPECT_EQ(Check(FUSE_SETXATTR, Bytes(in) + std::string("user.a\0abc", 10)), EIO);
}

TEST(CheckRequestTest, AnUnknownOpcodeIsNotImplemented) {
  EXPECT_EQ(Check(63, ""), ENOSYS);
  EXPECT_EQ(Check(4096, ""), ENOSYS);  // CUSE's INIT
}

}  // namespace
}  // namespace stagefs::fuse
