// A program on LevelDB whose database can be checked after a crash.
//
//   leveldb_work write DIR SOCKET COUNT   batches 1 to COUNT; marks "begin N" and "ack N" in the record behind SOCKET
//   leveldb_work check DIR                checks everything, and prints N: the database is exactly batches 1 to N
//
// Batch N sets the counter to N, adds keys of its own, overwrites one that batch N-7 added and removes one that batch
// N-13 did. Every third is written with sync=false and not acknowledged.

#include <leveldb/db.h>
#include <leveldb/write_batch.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "sal/random.h"
#include "sal/status_macros.h"
#include "tests/replay/mark_client.h"

namespace stagefs::replay {
namespace {

constexpr char kCounter[] = "counter";
constexpr uint64_t kKeysOfABatch = 5;

std::string Key(uint64_t batch, uint64_t i) { return absl::StrFormat("key %d of batch %d", i, batch); }

std::string Value(uint64_t batch, uint64_t i) {
  sal::Random64 random(batch * 1000 + i);
  std::string value(random.Between(10, 3000), '\0');
  for (char& byte : value) byte = static_cast<char>('a' + random.Below(26));
  return value;
}

// What batch `n` does, told to `put(key, value)` and `remove(key)`.
template <typename Put, typename Remove>
void DescribeBatch(uint64_t n, Put put, Remove remove) {
  put(kCounter, absl::StrCat(n));
  for (uint64_t i = 0; i < kKeysOfABatch; ++i) put(Key(n, i), Value(n, i));
  if (n > 7) put(Key(n - 7, 1), Value(n, kKeysOfABatch));
  if (n > 13) remove(Key(n - 13, 2));
}

absl::Status ToStatus(const leveldb::Status& status) {
  return status.ok() ? absl::OkStatus() : absl::DataLossError(status.ToString());
}

absl::StatusOr<std::unique_ptr<leveldb::DB>> Open(const std::string& directory) {
  leveldb::Options options;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  options.write_buffer_size = 64 << 10;  // so that there are many tables, and compactions
  options.max_file_size = 1 << 20;
  leveldb::DB* database = nullptr;
  RETURN_IF_ERROR(ToStatus(leveldb::DB::Open(options, directory, &database)));
  return std::unique_ptr<leveldb::DB>(database);
}

absl::Status Write(const std::string& directory, const std::string& socket, uint64_t count) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MarkClient> marks, MarkClient::Connect(socket));
  ASSIGN_OR_RETURN(const std::unique_ptr<leveldb::DB> database, Open(directory));
  for (uint64_t n = 1; n <= count; ++n) {
    RETURN_IF_ERROR(marks->Mark(absl::StrCat("begin ", n)).status());
    leveldb::WriteBatch batch;
    DescribeBatch(
        n, [&](const std::string& key, const std::string& value) { batch.Put(key, value); },
        [&](const std::string& key) { batch.Delete(key); });
    leveldb::WriteOptions options;
    options.sync = n % 3 != 0;
    RETURN_IF_ERROR(ToStatus(database->Write(options, &batch)));
    if (options.sync) RETURN_IF_ERROR(marks->Mark(absl::StrCat("ack ", n)).status());
  }
  return absl::OkStatus();
}

absl::Status Check(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::unique_ptr<leveldb::DB> database, Open(directory));
  leveldb::ReadOptions options;
  options.verify_checksums = true;
  std::map<std::string, std::string> found;
  const std::unique_ptr<leveldb::Iterator> iterator(database->NewIterator(options));
  for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next()) {
    found[iterator->key().ToString()] = iterator->value().ToString();
  }
  RETURN_IF_ERROR(ToStatus(iterator->status()));
  uint64_t count = 0;
  if (found.contains(kCounter) && !absl::SimpleAtoi(found[kCounter], &count)) {
    return absl::DataLossError(absl::StrCat("the counter is \"", found[kCounter], "\""));
  }
  std::map<std::string, std::string> expected;
  for (uint64_t n = 1; n <= count; ++n) {
    DescribeBatch(
        n, [&](const std::string& key, const std::string& value) { expected[key] = value; },
        [&](const std::string& key) { expected.erase(key); });
  }
  if (found != expected) {
    return absl::DataLossError(absl::StrCat("the counter says ", count, " batches, and the content is not theirs: ",
                                            found.size(), " keys instead of ", expected.size()));
  }
  std::cout << count << "\n";
  return absl::OkStatus();
}

absl::Status Run(const std::vector<std::string>& arguments) {
  uint64_t count = 0;
  if (arguments.size() == 4 && arguments[0] == "write" && absl::SimpleAtoi(arguments[3], &count)) {
    return Write(arguments[1], arguments[2], count);
  }
  if (arguments.size() == 2 && arguments[0] == "check") return Check(arguments[1]);
  return absl::InvalidArgumentError("usage: leveldb_work write DIR SOCKET COUNT | leveldb_work check DIR");
}

}  // namespace
}  // namespace stagefs::replay

int main(int argc, char** argv) {
  const absl::Status status = stagefs::replay::Run(std::vector<std::string>(argv + 1, argv + argc));
  if (status.ok()) return 0;
  std::fprintf(stderr, "leveldb_work: %s\n", std::string(status.message()).c_str());
  return 1;
}
