// The volume that the cases of fs/fuse/mount_test.cc run over. Each test links one implementation.

#ifndef STAGEFS_FS_FUSE_TESTING_TEST_VOLUME_H_
#define STAGEFS_FS_FUSE_TESTING_TEST_VOLUME_H_

#include <memory>

#include "fs/fuse/testing/served_mount.h"

namespace stagefs::fuse::testing {

// A fresh, empty volume. Called in the server's process.
std::unique_ptr<VolumeHolder> OpenTestVolume();

}  // namespace stagefs::fuse::testing

#endif  // STAGEFS_FS_FUSE_TESTING_TEST_VOLUME_H_
