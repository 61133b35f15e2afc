// JSON as the commands print it with --json, and the flat objects that `stat` reads from a server.

#ifndef STAGEFS_TOOLS_JSON_H_
#define STAGEFS_TOOLS_JSON_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace stagefs::tools {

// Writes one object, a member a line, in the order in which they are added.
class JsonWriter {
 public:
  void Text(absl::string_view name, absl::string_view value);
  void Number(absl::string_view name, int64_t value);
  void Number(absl::string_view name, uint64_t value);
  void Number(absl::string_view name, double value);  // null unless finite
  void Bool(absl::string_view name, bool value);
  void Numbers(absl::string_view name, const std::vector<double>& values);
  void Objects(absl::string_view name, const std::vector<JsonWriter>& values);
  std::string Finish() const;

 private:
  void Add(absl::string_view name, absl::string_view raw_value);
  std::string members_;
};

// Members of a flat object in their order: strings without their escapes, everything else as it is written.
// Errors: InvalidArgument (not an object, or one with objects or arrays in it).
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseFlatJson(absl::string_view text);

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_JSON_H_
