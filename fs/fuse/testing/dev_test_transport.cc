#include "fs/fuse/testing/test_transport.h"

namespace stagefs::fuse::testing {

const char* TestTransportOption() { return "transport=dev"; }

}  // namespace stagefs::fuse::testing
