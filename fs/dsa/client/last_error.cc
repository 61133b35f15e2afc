#include "fs/dsa/client/last_error.h"

#include <algorithm>
#include <cstring>

namespace stagefs::dsa {
namespace {

thread_local char last_error[512];

}  // namespace

int FailWith(int status, std::string_view text) {
  const size_t length = std::min(text.size(), sizeof(last_error) - 1);
  std::memcpy(last_error, text.data(), length);
  last_error[length] = 0;
  return status;
}

const char* LastError() { return last_error; }

}  // namespace stagefs::dsa
