// Stores of 64 bytes at random places of a file, each made durable and timed: the frame of the programs beside this.

#ifndef STAGEFS_TESTS_BENCH_DURABLE_STORES_MEASURED_H_
#define STAGEFS_TESTS_BENCH_DURABLE_STORES_MEASURED_H_

#include <cstddef>
#include <cstdint>
#include <functional>

namespace stagefs::bench {

inline constexpr size_t kFileBytes = 64 << 20;
inline constexpr size_t kStoreBytes = 64;

// Makes `path` a file of kFileBytes, all written and durable. A descriptor for reading and writing; ends the program
// with a message on failure.
int MakeFile(const char* path);

// Calls store(offset) for `seconds` and prints a JSON object: operations, rate (a second), p50_us, p99_us. `store`
// returns false, with errno set, if it has failed. Returns the program's exit code.
int Measure(double seconds, const std::function<bool(uint64_t offset)>& store);

// The seconds of the command line PROGRAM FILE SECONDS; ends the program with its usage if it is another one.
double SecondsOf(int argc, char** argv);

}  // namespace stagefs::bench

#endif  // STAGEFS_TESTS_BENCH_DURABLE_STORES_MEASURED_H_
