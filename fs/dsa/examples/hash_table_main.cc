// A key-value store in one file of a volume: what direct access's mappings are for.
//
//   hash_table ADDRESS FILE put KEY VALUE | get KEY | delete KEY | list | fill N
//
// ADDRESS is the server's socket or its store. A change is durable when the command has ended with 0, and when it has
// not, or the machine stops, it is there as a whole or not at all.

#include <errno.h>
#include <fcntl.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fs/dsa/client/stagefs/dsa.h"
#include "fs/dsa/examples/hash_table.h"

namespace stagefs::examples {
namespace {

// Addresses, not memory: pages cost something once they are used.
constexpr size_t kMappedBytes = size_t{1} << 30;

// A file of a volume, mapped.
class MappedFile {
 public:
  ~MappedFile() {
    dsa_unmap(mapping_);
    dsa_close(file_);
    dsa_disconnect(connection_);
  }

  // 0, or a negative errno that dsa_error() explains.
  int Open(const char* address, const char* path) {
    int status = dsa_connect(address, nullptr, &connection_);
    if (status == 0) status = dsa_open(connection_, path, O_RDWR | O_CREAT, 0644, &file_);
    if (status == 0) status = dsa_map(file_, 0, kMappedBytes, &mapping_, &memory_);
    return status;
  }
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(memory_), kMappedBytes}; }
  // All that was stored becomes one durable change.
  int Persist() { return dsa_persist(mapping_, 0, kMappedBytes, DSA_PERSIST_DURABLE, nullptr); }

 private:
  dsa_connection* connection_ = nullptr;
  dsa_file* file_ = nullptr;
  dsa_mapping* mapping_ = nullptr;
  void* memory_ = nullptr;
};

int Fail(const std::string& what) {
  std::fprintf(stderr, "hash_table: %s\n", what.c_str());
  return 1;
}

int Report(int status) {
  if (status == 0) return 0;
  const std::string said = dsa_error();
  return Fail(std::strerror(-status) + (said.empty() ? "" : ": " + said));
}

void Print(std::string_view text, char end) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::putchar(end);
}

int Get(const HashTable& table, std::string_view key) {
  const auto value = table.Get(key);
  if (!value.has_value()) return Fail("there is no " + std::string(key));
  Print(*value, '\n');
  return 0;
}

int List(const HashTable& table) {
  table.ForEach([](std::string_view key, std::string_view value) {
    Print(key, '\t');
    Print(value, '\n');
  });
  return 0;
}

// Each pair is durable before the next one is put.
int Fill(HashTable& table, std::string_view text) {
  uint64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size()) return Fail("not a number: " + std::string(text));
  for (uint64_t i = 0; i < count; ++i) {
    const std::string number = std::to_string(i);
    if (const int status = table.Put("key" + number, "value" + number); status < 0) return Report(status);
  }
  return 0;
}

int Do(HashTable& table, std::span<const std::string_view> command) {
  const std::string_view verb = command[0];
  if (verb == "put" && command.size() == 3) return Report(table.Put(command[1], command[2]));
  if (verb == "get" && command.size() == 2) return Get(table, command[1]);
  if (verb == "delete" && command.size() == 2) return Report(table.Delete(command[1]));
  if (verb == "list" && command.size() == 1) return List(table);
  if (verb == "fill" && command.size() == 2) return Fill(table, command[1]);
  return Fail("usage: hash_table ADDRESS FILE put KEY VALUE | get KEY | delete KEY | list | fill N");
}

int Main(std::span<const std::string_view> arguments) {
  if (arguments.size() < 4) return Fail("usage: hash_table ADDRESS FILE put KEY VALUE | get KEY | ... (see the source)");
  MappedFile file;
  if (const int status = file.Open(arguments[1].data(), arguments[2].data()); status < 0) return Report(status);
  HashTable table(file.bytes(), [&] { return file.Persist(); });
  if (!table.valid()) return Fail(std::string(arguments[2]) + " is no hash table");
  return Do(table, arguments.subspan(3));
}

}  // namespace
}  // namespace stagefs::examples

int main(int argc, char** argv) {
  const std::vector<std::string_view> arguments(argv, argv + argc);
  return stagefs::examples::Main(arguments);
}
