#include "tools/mount_table.h"

#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

TEST(MountTableTest, LinesOfMountInfoAreUnderstood) {
  const auto entries = ParseMountInfo(
      "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
      "garbage\n"
      "90 22 0:57 / /mnt/a\\040b rw,nosuid - fuse.stagefs /srv/x\\011y.img rw,user_id=0\n"
      "91 22 7:3 / /mnt/c rw master:3 propagate_from:2 - fuseblk.stagefs /dev/loop3 rw\n");
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].device, "254:0");
  EXPECT_FALSE(IsStagefs(entries[0]));
  EXPECT_EQ(entries[1].directory, "/mnt/a b");
  EXPECT_EQ(entries[1].source, "/srv/x\ty.img");
  EXPECT_TRUE(IsStagefs(entries[1]));
  EXPECT_EQ(entries[2].type, "fuseblk.stagefs");
  EXPECT_TRUE(IsStagefs(entries[2]));
}

TEST(MountTableTest, TheRootAndProcAreMounts) {
  ASSERT_TRUE(FindMount("/").has_value());
  ASSERT_TRUE(FindMount("/proc/").has_value());
  EXPECT_EQ(FindMount("/proc")->type, "proc");
  EXPECT_EQ(FindMount("/proc/self/..")->type, "proc");
}

TEST(MountTableTest, OtherPathsAreNot) {
  EXPECT_FALSE(FindMount("/proc/self").has_value());
  EXPECT_FALSE(FindMount("/no/such/directory").has_value());
}

TEST(MountTableTest, ADirectoryLiesOnTheDeepestMountAboveIt) {
  EXPECT_EQ(MountOf("/proc")->type, "proc");
  EXPECT_EQ(MountOf("/proc/self/net")->type, "proc");
  EXPECT_EQ(MountOf("/")->directory, "/");
  EXPECT_EQ(MountOf("/proc/..")->directory, "/");
  EXPECT_FALSE(MountOf("/no/such/directory").has_value());
}

}  // namespace
}  // namespace stagefs::tools
