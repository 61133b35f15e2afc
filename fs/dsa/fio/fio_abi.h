// What fio and an engine that it loads know of each other: of fio 3.33 on x86-64, as Debian 12 ships it.
//
// fio's own headers are not packaged. These are our own declarations of the members that the engine uses, at the places
// where that fio has them; everything between is left unnamed. A larger or older fio has them elsewhere: an engine must
// not be used by a fio whose fio_version_string is not kVersion. fio checks Engine::version itself.

#ifndef STAGEFS_FS_DSA_FIO_FIO_ABI_H_
#define STAGEFS_FS_DSA_FIO_FIO_ABI_H_

#include <time.h>

#include <cstddef>
#include <cstdint>

namespace stagefs::fio {

#ifndef __x86_64__
#error "The layout of fio's structures is known for x86-64 only."
#endif

inline constexpr char kVersion[] = "fio-3.33";
inline constexpr int kEngineVersion = 31;

enum Direction : int32_t { kRead = 0, kWrite = 1, kTrim = 2, kSync = 3, kDataSync = 4 };

// A file of a job.
struct File {
  char before_name[40];
  char* name;
  uint64_t real_size;  // bytes
  uint64_t offset;     // where the job begins in it
  uint64_t io_size;    // how many bytes from there on the job uses
  char before_engine_data[104];
  void* engine_data;   // the engine's
};
static_assert(offsetof(File, name) == 40 && offsetof(File, real_size) == 48 && offsetof(File, engine_data) == 176);

// A piece of work.
struct Unit {
  char before_file[32];
  File* file;
  char before_direction[4];
  Direction direction;
  char before_offset[24];
  uint64_t offset;  // in the file
  char before_buffer[24];
  void* buffer;
  uint64_t length;
  char before_residue[16];
  uint64_t residue;  // bytes that were not read or written
  uint32_t error;    // an errno
  char before_engine_data[4];
  void* engine_data;  // the engine's
};
static_assert(offsetof(Unit, file) == 32 && offsetof(Unit, direction) == 44 && offsetof(Unit, offset) == 72 &&
              offsetof(Unit, buffer) == 104 && offsetof(Unit, length) == 112 && offsetof(Unit, residue) == 136 &&
              offsetof(Unit, error) == 144 && offsetof(Unit, engine_data) == 152);

// A job: the process or thread that does it.
struct Job {
  static constexpr uint32_t kMayWrite = 2;  // in `directions`

  char before_directions[176];
  uint32_t directions;
  char before_options[4036];
  void* options;  // of the engine: what Engine::options describes
  char before_memory[184832];
  char* memory;   // of all units; Engine::allocate sets it
  char before_engine_data[904];
  void* engine_data;  // the engine's
};
static_assert(offsetof(Job, directions) == 176 && offsetof(Job, options) == 4216 && offsetof(Job, memory) == 189056 &&
              offsetof(Job, engine_data) == 189968);

// An option that the engine adds to fio's own.
struct Option {
  static constexpr int kStoredText = 6, kBool = 10;
  static constexpr uint64_t kOfEngine = 1 << 6;

  const char* name;  // null ends the list
  const char* long_name;
  const char* alias;
  int type;
  uint32_t place;  // of a char* or unsigned in the engine's options; not 0
  char before_help[80];
  const char* help;
  const char* default_text;
  char before_category[1336];
  uint64_t category;
  char end[40];
};
static_assert(offsetof(Option, place) == 28 && offsetof(Option, help) == 112 && offsetof(Option, category) == 1464 &&
              sizeof(Option) == 1512);

enum Queued : int32_t { kDone = 0, kWaiting = 1 };

struct Engine {
  static constexpr int kDiskless = 1 << 2, kNoExtending = 1 << 3, kNoDiskStatistics = 1 << 4, kAlignedMemory = 1 << 9,
                       kNoOffload = 1 << 15;

  void* list[2];  // fio's
  const char* name;
  int version;
  int flags;
  void* library;  // fio's
  int (*set_up)(Job*);
  int (*initialize)(Job*);  // in the process and thread that does the job; so is all that follows, except where said
  int (*initialize_more)(Job*);  // after `allocate`
  int (*prepare)(Job*, Unit*);
  Queued (*queue)(Job*, Unit*);
  int (*submit)(Job*);
  int (*wait)(Job*, unsigned least, unsigned most, const timespec* limit);  // how many have ended, or negative
  Unit* (*ended)(Job*, int index);                                          // of those
  char* (*describe_error)(Unit*);
  int (*cancel)(Job*, Unit*);
  void (*clean_up)(Job*);
  int (*open)(Job*, File*);
  int (*close)(Job*, File*);
  int (*invalidate)(Job*, File*);
  int (*unlink)(Job*, File*);
  int (*find_size)(Job*, File*);  // before the job has a process of its own
  int (*lay_out)(Job*, File*);    // likewise, when its part of the file is known
  void (*terminate)(Job*);
  int (*allocate)(Job*, size_t);
  void (*free)(Job*);
  int (*initialize_unit)(Job*, Unit*);  // once for each of iodepth, between `initialize` and `allocate`
  void (*free_unit)(Job*, Unit*);
  void* zones[4];
  int options_size;
  Option* options;
};
static_assert(offsetof(Engine, version) == 24 && offsetof(Engine, queue) == 72 && offsetof(Engine, clean_up) == 120 &&
              offsetof(Engine, find_size) == 160 && offsetof(Engine, allocate) == 184 &&
              offsetof(Engine, options_size) == 248 && sizeof(Engine) == 264);

}  // namespace stagefs::fio

#endif  // STAGEFS_FS_DSA_FIO_FIO_ABI_H_
