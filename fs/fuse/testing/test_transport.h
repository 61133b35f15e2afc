// Which transport the mounts of a test use. Each test links one implementation; see BUILD.

#ifndef STAGEFS_FS_FUSE_TESTING_TEST_TRANSPORT_H_
#define STAGEFS_FS_FUSE_TESTING_TEST_TRANSPORT_H_

namespace stagefs::fuse::testing {

// The mount option: "transport=dev", or "transport=auto", which means io_uring on a kernel that has it.
const char* TestTransportOption();

}  // namespace stagefs::fuse::testing

#endif  // STAGEFS_FS_FUSE_TESTING_TEST_TRANSPORT_H_
