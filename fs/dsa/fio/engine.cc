// libstagefs-fio.so: fio jobs on files of a volume, by direct access. docs/direct-access.md#fio.
//
//   fio --ioengine=external:PATH/libstagefs-fio.so --dsa_server=ADDRESS --filename=/FILE ...
//
// Each job has a connection and a queue of its own, in its own process. fio asks for sizes earlier, in the process from
// which the jobs are forked: connections made for that are closed before, because they may not be used after a fork.

#include <dlfcn.h>
#include <errno.h>

#include <cstdio>
#include <cstring>

#include "fs/dsa/fio/fio_abi.h"
#include "fs/dsa/fio/job.h"

namespace stagefs::fio {
namespace {

DirectJob* JobOf(Job* job) { return static_cast<DirectJob*>(job->engine_data); }

const DirectOptions& OptionsOf(Job* job) { return *static_cast<const DirectOptions*>(job->options); }

int FindSize(Job* job, File* file) { return FindFileSize(OptionsOf(job), file); }

int LayOut(Job* job, File* file) { return LayOutFile(OptionsOf(job), file); }

int Initialize(Job* job) {
  job->engine_data = new DirectJob(OptionsOf(job), (job->directions & Job::kMayWrite) != 0);
  return JobOf(job)->Connect();
}

void CleanUp(Job* job) {
  delete JobOf(job);
  job->engine_data = nullptr;
}

int InitializeUnit(Job* job, Unit*) {
  JobOf(job)->CountUnit();
  return 0;
}

int MakeQueue(Job* job) { return JobOf(job)->MakeQueue(); }

int Allocate(Job* job, size_t size) {
  job->memory = JobOf(job)->Allocate(size);
  return job->memory == nullptr ? 1 : 0;
}

void Free(Job* job) { JobOf(job)->Free(); }

int Open(Job* job, File* file) { return JobOf(job)->Open(file); }

int Close(Job* job, File* file) { return JobOf(job)->Close(file); }

Queued Queue(Job* job, Unit* unit) { return JobOf(job)->Queue(unit); }

int Submit(Job* job) { return JobOf(job)->Submit(); }

int Wait(Job* job, unsigned least, unsigned most, const timespec* limit) {
  return JobOf(job)->Wait(least, most, limit);
}

Unit* Ended(Job* job, int index) { return JobOf(job)->Ended(index); }

// Without these two fio would turn to a file of that name on the host.
int Invalidate(Job*, File*) { return 0; }
int Unlink(Job*, File*) { return EOPNOTSUPP; }

Option MakeOption(const char* name, const char* what, int type, size_t place, const char* default_text) {
  Option option = {};
  option.name = name;
  option.long_name = what;
  option.type = type;
  option.place = static_cast<uint32_t>(place);
  option.help = what;
  option.default_text = default_text;
  option.category = Option::kOfEngine;
  return option;
}

Option* Options() {
  static Option options[] = {
      MakeOption("dsa_server", "Address of the server: its socket, its store, or HOST:PORT", Option::kStoredText,
                 offsetof(DirectOptions, server), nullptr),
      MakeOption("dsa_provider", "Provider of libfabric: shm, tcp, verbs", Option::kStoredText,
                 offsetof(DirectOptions, provider), nullptr),
      MakeOption("dsa_key", "File with the key for a server on another machine", Option::kStoredText,
                 offsetof(DirectOptions, key_file), nullptr),
      MakeOption("dsa_durable", "A write ends when it is durable, not when it is staged", Option::kBool,
                 offsetof(DirectOptions, durable), "0"),
      MakeOption("dsa_busy", "Poll for completions without ever sleeping", Option::kBool,
                 offsetof(DirectOptions, busy), "0"),
      MakeOption("dsa_shared", "Open files that others write through a mount", Option::kBool,
                 offsetof(DirectOptions, shared), "0"),
      Option{},
  };
  return options;
}

Engine MakeEngine() {
  Engine engine = {};
  engine.name = "stagefs";
  engine.version = kEngineVersion;
  engine.flags = Engine::kDiskless | Engine::kNoExtending | Engine::kNoDiskStatistics | Engine::kAlignedMemory |
                 Engine::kNoOffload;
  engine.initialize = Initialize;
  engine.initialize_more = MakeQueue;
  engine.queue = Queue;
  engine.submit = Submit;
  engine.wait = Wait;
  engine.ended = Ended;
  engine.clean_up = CleanUp;
  engine.open = Open;
  engine.close = Close;
  engine.invalidate = Invalidate;
  engine.unlink = Unlink;
  engine.find_size = FindSize;
  engine.lay_out = LayOut;
  engine.allocate = Allocate;
  engine.free = Free;
  engine.initialize_unit = InitializeUnit;
  engine.options_size = sizeof(DirectOptions);
  engine.options = Options();
  return engine;
}

// Whether whoever has loaded this library is the fio whose structures fio_abi.h describes.
bool IsKnownFio() {
  const auto* const version = static_cast<const char*>(dlsym(RTLD_DEFAULT, "fio_version_string"));
  if (version != nullptr && std::strcmp(version, kVersion) == 0) return true;
  std::fprintf(stderr, "libstagefs-fio: made for %s, not for %s\n", kVersion,
               version != nullptr ? version : "this program");
  return false;
}

}  // namespace
}  // namespace stagefs::fio

// Called by fio, once or more. An unknown fio gets an engine of version 0, which every fio refuses.
extern "C" void get_ioengine(stagefs::fio::Engine** engine) {
  static stagefs::fio::Engine known = stagefs::fio::MakeEngine();
  static stagefs::fio::Engine refused = {};
  *engine = stagefs::fio::IsKnownFio() ? &known : &refused;
}
