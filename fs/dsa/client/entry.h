// How the C interface's functions are entered and left: handles become objects, failures become dsa_error(), and no
// exception (of memory that cannot be had) leaves the library. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_ENTRY_H_
#define STAGEFS_FS_DSA_CLIENT_ENTRY_H_

#include <errno.h>

#include <new>
#include <string>
#include <system_error>

#include "fs/dsa/client/connection.h"
#include "fs/dsa/client/last_error.h"
#include "fs/dsa/client/queue.h"
#include "fs/dsa/client/stagefs/dsa.h"

namespace stagefs::dsa {

// Runs a call that says in `error` why it failed.
template <typename Function>
int Enter(Function function) noexcept {
  try {
    std::string error;
    const int status = function(&error);
    return status < 0 ? FailWith(status, error) : status;
  } catch (const std::bad_alloc&) {
    return FailWith(-ENOMEM, "no memory");
  } catch (const std::system_error& error) {
    return FailWith(error.code().value() > 0 ? -error.code().value() : -EAGAIN, error.what());
  }
}

// The C interface's names for these two have no definition of their own.
inline Connection* Of(dsa_connection* connection) { return reinterpret_cast<Connection*>(connection); }
inline const Connection* Of(const dsa_connection* connection) {
  return reinterpret_cast<const Connection*>(connection);
}
inline Queue* Of(dsa_queue* queue) { return reinterpret_cast<Queue*>(queue); }

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_ENTRY_H_
