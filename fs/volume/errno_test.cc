#include "fs/volume/errno.h"

#include <cerrno>

#include "gtest/gtest.h"

namespace stagefs::volume {
namespace {

TEST(ErrnoTest, EveryErrnoComesBack) {
  for (int error = 1; error < 134; ++error) {
    const absl::Status status = ErrnoStatus(error, "message");
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(ToErrno(status), error);
    EXPECT_EQ(status.message(), "message");
  }
  EXPECT_EQ(ToErrno(absl::OkStatus()), 0);
}

TEST(ErrnoTest, AFullVolumeIsResourceExhaustedSoThatTheEngineLooksAgain) {
  EXPECT_EQ(ErrnoStatus(ENOSPC).code(), absl::StatusCode::kResourceExhausted);
}

TEST(ErrnoTest, StatusOfOthersBecomesWhatUsersUnderstand) {
  EXPECT_EQ(ToErrno(absl::ResourceExhaustedError("")), ENOSPC);
  EXPECT_EQ(ToErrno(absl::DataLossError("")), EIO);
  EXPECT_EQ(ToErrno(absl::UnavailableError("")), EIO);
  EXPECT_EQ(ToErrno(absl::FailedPreconditionError("")), EROFS);
  EXPECT_EQ(ToErrno(absl::InvalidArgumentError("")), EINVAL);
  EXPECT_EQ(ToErrno(absl::InternalError("")), EIO);
  EXPECT_EQ(ToErrno(absl::UnknownError("")), EIO);
}

}  // namespace
}  // namespace stagefs::volume
