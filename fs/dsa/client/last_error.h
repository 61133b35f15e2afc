// What dsa_error() says: the text of the calling thread's last failure. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_LAST_ERROR_H_
#define STAGEFS_FS_DSA_CLIENT_LAST_ERROR_H_

#include <string_view>

namespace stagefs::dsa {

// Remembers `text`, as much of it as there is room for, and returns `status`. Allocates nothing.
int FailWith(int status, std::string_view text);
// Valid until the thread's next failure.
const char* LastError();

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_LAST_ERROR_H_
