// Session::Later(): for session.cc and session_requests.cc alone.

#ifndef STAGEFS_FS_DSA_SESSION_LATER_H_
#define STAGEFS_FS_DSA_SESSION_LATER_H_

#include <utility>

#include "fs/dsa/session.h"

namespace stagefs::dsa {

template <typename T, typename Then>
Once<T> Session::Later(T otherwise, Then then) {
  ++pending_;
  return Once<T>(std::move(otherwise),
                 [this, loop = &services_.loop, then = std::move(then)](T value) mutable {
                   loop->Post([this, then = std::move(then), value = std::move(value)]() mutable {
                     then(std::move(value));
                     Finished();
                   });
                 });
}

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_SESSION_LATER_H_
