#include "fs/dsa/fabric_library.h"

#include <dlfcn.h>

namespace stagefs::dsa {
namespace {

struct Outcome {
  FabricLibrary functions;
  std::string error;  // empty: loaded
};

template <typename Function>
void Find(void* handle, const char* name, Function* function, std::string* error) {
  *function = reinterpret_cast<Function>(dlsym(handle, name));
  if (*function == nullptr && error->empty()) *error = std::string("libfabric.so.1 has no ") + name;
}

Outcome LoadNow() {
  Outcome outcome;
  const KeepSignals keep;
  // Never closed: threads and handlers of its providers may outlive everything.
  void* const handle = dlopen("libfabric.so.1", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    outcome.error = std::string("libfabric cannot be loaded (Debian's package libfabric1): ") + dlerror();
    return outcome;
  }
  FabricLibrary& functions = outcome.functions;
  Find(handle, "fi_getinfo", &functions.getinfo, &outcome.error);
  Find(handle, "fi_freeinfo", &functions.freeinfo, &outcome.error);
  Find(handle, "fi_dupinfo", &functions.dupinfo, &outcome.error);
  Find(handle, "fi_fabric", &functions.fabric, &outcome.error);
  Find(handle, "fi_strerror", &functions.strerror, &outcome.error);
  return outcome;
}

const Outcome& Get() {
  static const Outcome* const outcome = new Outcome(LoadNow());
  return *outcome;
}

}  // namespace

const FabricLibrary* FabricLibrary::Load(std::string* error) {
  const Outcome& outcome = Get();
  if (outcome.error.empty()) return &outcome.functions;
  *error = outcome.error;
  return nullptr;
}

const FabricLibrary& FabricLibrary::Loaded() { return Get().functions; }

KeepSignals::KeepSignals() {
  for (size_t i = 0; i < kCaught.size(); ++i) sigaction(kCaught[i], nullptr, &before_[i]);
}

KeepSignals::~KeepSignals() {
  for (size_t i = 0; i < kCaught.size(); ++i) sigaction(kCaught[i], &before_[i], nullptr);
}

}  // namespace stagefs::dsa
