// Fuzzes the text that names stores: sizes, fault specifications and URLs. Stores in memory are really made; files are
// not opened, whatever the input says.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "sal/check.h"
#include "sal/fault_store.h"
#include "sal/open_store.h"

namespace stagefs::sal {
namespace {

void RequireInvalidArgument(const absl::Status& status) {
  STAGEFS_CHECK(status.ok() || absl::IsInvalidArgument(status));
}

// Whether opening `url` cannot touch a file: below all faults there is a store in memory or nothing known.
bool NamesNoFile(absl::string_view url) {
  while (absl::StartsWith(url, "fault:") && absl::StrContains(url, ',')) url.remove_prefix(url.find(',') + 1);
  return absl::StartsWith(url, "mem:") || absl::StartsWith(url, "fault:") || absl::StartsWith(url, "nothing:");
}

void Fuzz(absl::string_view text) {
  RequireInvalidArgument(ParseSize(text).status());
  const absl::StatusOr<Fault> fault = ParseFault(text);
  RequireInvalidArgument(fault.status());
  if (!NamesNoFile(text)) return;
  const absl::StatusOr<std::unique_ptr<BlockStore>> store = OpenStore(text, {});
  if (!store.ok()) {
    STAGEFS_CHECK(absl::IsInvalidArgument(store.status()) || absl::IsResourceExhausted(store.status()));
    return;
  }
  STAGEFS_CHECK((*store)->geometry().size_bytes % (*store)->geometry().block_size_bytes == 0);
  StoreNote(**store);
}

}  // namespace
}  // namespace stagefs::sal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::sal::Fuzz({reinterpret_cast<const char*>(data), size});
  return 0;
}
