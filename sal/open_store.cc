#include "sal/open_store.h"

#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "sal/fault_store.h"
#include "sal/file_store.h"
#include "sal/memory_store.h"
#include "sal/record_store.h"
#include "sal/status_macros.h"

namespace stagefs::sal {

namespace {

absl::StatusOr<std::unique_ptr<BlockStore>> OpenFault(absl::string_view url, absl::string_view rest,
                                                      const OpenStoreOptions& options) {
  const size_t comma = rest.find(',');
  if (comma == absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", url, "\": write fault:SPEC,URL, such as fault:read-eio@1M+4K,file:/var/tmp/image"));
  }
  ASSIGN_OR_RETURN(Fault fault, ParseFault(rest.substr(0, comma)));
  ASSIGN_OR_RETURN(std::unique_ptr<BlockStore> inner, OpenStore(rest.substr(comma + 1), options));
  auto store = std::make_unique<FaultStore>(std::move(inner));
  store->Add(fault);
  return store;
}

absl::StatusOr<std::unique_ptr<BlockStore>> OpenRecord(absl::string_view url, absl::string_view rest,
                                                       const OpenStoreOptions& options) {
  const size_t comma = rest.find(',');
  if (comma == absl::string_view::npos || comma == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", url, "\": write record:FILE,URL, such as record:/var/tmp/record,file:/var/tmp/image"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<BlockStore> inner, OpenStore(rest.substr(comma + 1), options));
  return RecordStore::Open(std::string(rest.substr(0, comma)), std::move(inner));
}

// "abc:" at the beginning, letters only: a scheme that is not known is an error, not a path. A path with a colon in it
// can be written as file:PATH or ./PATH.
absl::string_view SchemeOf(absl::string_view url) {
  const size_t colon = url.find(':');
  if (colon == absl::string_view::npos || colon == 0) return "";
  for (char c : url.substr(0, colon)) {
    if (!absl::ascii_islower(c)) return "";
  }
  return url.substr(0, colon);
}

}  // namespace

absl::StatusOr<std::unique_ptr<BlockStore>> OpenStore(absl::string_view url, const OpenStoreOptions& options) {
  const absl::string_view scheme = SchemeOf(url);
  absl::string_view rest = url;
  if (!scheme.empty()) rest.remove_prefix(scheme.size() + 1);
  if (scheme.empty() || scheme == "file") {
    // The URL outlives a change of directory only if the path is absolute; callers who chdir open their stores first.
    return FileStore::Open(std::string(url), std::string(rest), options);
  }
  if (scheme == "mem") {
    const absl::StatusOr<uint64_t> bytes = ParseSize(rest);
    if (!bytes.ok()) return absl::InvalidArgumentError(absl::StrCat(url, ": ", bytes.status().message()));
    return MemoryStore::Create(*bytes);
  }
  if (scheme == "fault") return OpenFault(url, rest, options);
  if (scheme == "record") return OpenRecord(url, rest, options);
  return absl::InvalidArgumentError(absl::StrCat("\"", url, "\": no such kind of store: ", scheme,
                                                 ":; there are file:PATH (or just PATH), mem:BYTES, fault:SPEC,URL, record:FILE,URL"));
}

std::string StoreNote(const BlockStore& store) {
  if (const auto* file = dynamic_cast<const FileStore*>(&store)) return file->note();
  if (const auto* fault = dynamic_cast<const FaultStore*>(&store)) return StoreNote(fault->inner());
  if (const auto* record = dynamic_cast<const RecordStore*>(&store)) return StoreNote(record->inner());
  return "";
}

}  // namespace stagefs::sal
