#include "fs/fuse/options.h"

#include <sys/mount.h>

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::fuse {
namespace {

TEST(MountOptionsTest, NothingGivenMeansWriteThroughAndTheKernelsPermissions) {
  const absl::StatusOr<MountOptions> options = ParseMountOptions("");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->cache, CacheMode::kWriteThrough);
  EXPECT_EQ(options->transport, TransportChoice::kAuto);
  EXPECT_EQ(options->threads, 0u);
  EXPECT_EQ(options->max_background, 64u);
  EXPECT_EQ(options->read_ahead_kb, 4096u);
  EXPECT_EQ(options->mount_flags, 0u);
  EXPECT_TRUE(options->fuseblk);
  EXPECT_FALSE(options->read_only);
  EXPECT_FALSE(options->allow_other.has_value());
}

TEST(MountOptionsTest, EveryOptionReachesItsField) {
  const absl::StatusOr<MountOptions> options = ParseMountOptions(
      "cache=writeback,threads=7,max_background=9,read_ahead_kb=256,noallow_other,nodefault_permissions,nofuseblk");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->cache, CacheMode::kWriteBack);
  EXPECT_EQ(options->threads, 7u);
  EXPECT_EQ(options->max_background, 9u);
  EXPECT_EQ(options->read_ahead_kb, 256u);
  EXPECT_EQ(options->allow_other, std::optional<bool>(false));
  EXPECT_EQ(options->default_permissions, std::optional<bool>(false));
  EXPECT_FALSE(options->fuseblk);
  EXPECT_EQ(ParseMountOptions("cache=none")->cache, CacheMode::kNone);
  EXPECT_EQ(ParseMountOptions("transport=uring")->transport, TransportChoice::kUring);
  EXPECT_EQ(ParseMountOptions("transport=dev")->transport, TransportChoice::kDevice);
  EXPECT_EQ(ParseMountOptions("transport=dev,transport=auto")->transport, TransportChoice::kAuto);
}

TEST(MountOptionsTest, TheLaterOfTwoFlagsWins) {
  EXPECT_EQ(ParseMountOptions("ro,nosuid,rw")->mount_flags, uint64_t{MS_NOSUID});
  EXPECT_TRUE(ParseMountOptions("rw,ro")->read_only);
}

TEST(MountOptionsTest, WhatOnlyFstabCaresAboutIsIgnored) {
  const absl::StatusOr<MountOptions> options =
      ParseMountOptions("defaults,noauto,nofail,_netdev,x-systemd.requires=a.service,comment=b");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->mount_flags, 0u);
}

TEST(MountOptionsTest, AnUnknownOptionIsNamedAndTheKnownOnesAreListed) {
  for (const char* text : {"bogus", "ro,bogus=1", "rofl"}) {
    const absl::Status status = ParseMountOptions(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(status.message().find("cache=MODE"), absl::string_view::npos) << status;
    EXPECT_NE(status.message().find("nosuid"), absl::string_view::npos) << status;
  }
  EXPECT_NE(ParseMountOptions("ro,bogus=1").status().message().find("\"bogus=1\""), absl::string_view::npos);
}

TEST(MountOptionsTest, BadValuesAreRefused) {
  for (const char* text : {"threads", "threads=", "threads=0", "threads=65", "threads=two", "max_background=0",
                           "cache=fast", "cache", "transport=fast", "transport", "nofuseblk=1", "ro=1", "read_ahead_kb=-1"}) {
    EXPECT_EQ(ParseMountOptions(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(MountOptionsTest, TheCallersOptionsAreTakenListedAndExplained) {
  std::string size;
  const ExtraOption extra[] = {{"cache_size", "BYTES", "memory for blocks", [&size](absl::string_view value) {
                                  size = std::string(value);
                                  return absl::OkStatus();
                                }}};
  ASSERT_TRUE(ParseMountOptions("ro,cache_size=1G", extra).ok());
  EXPECT_EQ(size, "1G");
  EXPECT_NE(ParseMountOptions("bogus", extra).status().message().find("cache_size=BYTES"), absl::string_view::npos);
  EXPECT_NE(MountOptionsHelp(extra).find("memory for blocks"), std::string::npos);
}

TEST(MountOptionsTest, AValueMayBeOptional) {
  std::vector<std::string> taken;
  const ExtraOption extra[] = {{"dsa", "ADDRESS", "help",
                                [&taken](absl::string_view value) {
                                  taken.emplace_back(value);
                                  return absl::OkStatus();
                                },
                                true}};
  ASSERT_TRUE(ParseMountOptions("dsa,ro,dsa=/run/s", extra).ok());
  EXPECT_EQ(taken, (std::vector<std::string>{"", "/run/s"}));
  EXPECT_EQ(ParseMountOptions("dsa=", extra).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(MountOptionsHelp(extra).find("dsa[=ADDRESS]"), std::string::npos);
}

}  // namespace
}  // namespace stagefs::fuse
