// FabricLibrary: libfabric, loaded when it is first needed. Linked in, it would be loaded at the start of every program,
// and with it the libraries of all its providers: one of them sleeps for a fifth of a second as it is loaded, and catches
// signals that are none of its business. All else of libfabric is reached through the objects that these functions make.
//
// Thread-safe.

#ifndef STAGEFS_FS_DSA_FABRIC_LIBRARY_H_
#define STAGEFS_FS_DSA_FABRIC_LIBRARY_H_

#include <rdma/fabric.h>
#include <signal.h>

#include <array>
#include <string>

namespace stagefs::dsa {

struct FabricLibrary {
  decltype(&::fi_getinfo) getinfo = nullptr;
  decltype(&::fi_freeinfo) freeinfo = nullptr;
  decltype(&::fi_dupinfo) dupinfo = nullptr;  // of nothing: a new one
  decltype(&::fi_fabric) fabric = nullptr;
  decltype(&::fi_strerror) strerror = nullptr;

  // Loads it, once. Null, and `error` says why: it is not installed, or too old.
  static const FabricLibrary* Load(std::string* error);
  // Load() has succeeded.
  static const FabricLibrary& Loaded();
};

// Gives signals back to whom they belonged when it was made: libfabric's providers catch some when they are loaded, and
// when endpoints are made.
class KeepSignals {
 public:
  KeepSignals();
  ~KeepSignals();
  KeepSignals(const KeepSignals&) = delete;
  KeepSignals& operator=(const KeepSignals&) = delete;

 private:
  static constexpr std::array<int, 7> kCaught = {SIGHUP, SIGINT, SIGILL, SIGABRT, SIGBUS, SIGSEGV, SIGTERM};
  std::array<struct sigaction, kCaught.size()> before_;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_FABRIC_LIBRARY_H_
