#include "tools/server.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "fs/dsa/mapped_files_service.h"
#include "fs/dsa/server.h"
#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/mount.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"
#include "sal/open_store.h"
#include "sal/real_environment.h"
#include "sal/status_macros.h"
#include "tools/direct_access.h"
#include "tools/json.h"
#include "tools/mount_table.h"
#include "tools/server_link.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

// How long a server whose mount is gone may take to notice.
constexpr uint64_t kFormerServerMs = 10'000;

// Lines go to whoever mounts until the mount is usable; then a daemon has only syslog.
class ServerEnvironment : public sal::RealEnvironment {
 public:
  explicit ServerEnvironment(const ServeOptions& options) : options_(options) {}

  void Log(absl::string_view line) override {
    if (use_syslog_.load(std::memory_order_acquire)) {
      syslog(LOG_WARNING, "%.*s", static_cast<int>(line.size()), line.data());
    } else {
      options_.report(line);
    }
  }
  void UseSyslog() {
    openlog("stagefs", LOG_PID, LOG_DAEMON);
    use_syslog_.store(true, std::memory_order_release);
  }

 private:
  const ServeOptions& options_;
  std::atomic<bool> use_syslog_{false};
};

absl::string_view SchemeOf(absl::string_view url) {
  const size_t colon = url.find(':');
  if (colon == absl::string_view::npos || colon == 0) return "";
  for (const char c : url.substr(0, colon)) {
    if (!absl::ascii_islower(c)) return "";
  }
  return url.substr(0, colon);
}

uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void AddDirectAccess(const dsa::DsaStats& stats, JsonWriter* json) {
  json->Number("dsa_clients", stats.clients);
  json->Number("dsa_files", stats.files);
  json->Number("dsa_queues", stats.queues);
  json->Number("dsa_mappings", stats.mappings);
  json->Number("dsa_memories", stats.memories);
  json->Number("dsa_memory_bytes", stats.memory_bytes);
  json->Number("dsa_control_requests", stats.requests);
  json->Number("dsa_refused_clients", stats.refused_clients);
}

std::string StatisticsJson(const std::string& store, const core::Engine& engine, const core::RecoveryReport& recovery,
                           const fuse::FuseStats& fuse, const dsa::DsaServer* direct) {
  const core::EngineStats stats = engine.stats();
  JsonWriter json;
  json.Text("store", store);
  json.Text("uuid", UuidText(engine.info().uuid));
  json.Text("label", engine.info().label);
  json.Number("pid", static_cast<int64_t>(getpid()));
  json.Number("resident_bytes", ResidentBytes());
  json.Bool("read_only", stats.read_only);
  json.Text("failure", stats.failure);
  json.Number("recovered_lsn", recovery.recovered_lsn);
  json.Number("accepted_lsn", stats.accepted_lsn);
  json.Number("durable_lsn", stats.durable_lsn);
  json.Number("changes", stats.changes);
  json.Number("frames", stats.frames);
  json.Number("flushes", stats.flushes);
  json.Number("checkpoints", stats.checkpoints);
  json.Number("parked", stats.parked);
  json.Number("log_used_bytes", stats.log_used_bytes);
  json.Number("log_capacity_bytes", stats.log_capacity_bytes);
  json.Number("dirty_blocks", stats.dirty_blocks);
  json.Number("dirty_blocks_limit", stats.dirty_blocks_limit);
  json.Number("cached_blocks", stats.cached_blocks);
  json.Number("cache_blocks_limit", stats.cache_blocks_limit);
  json.Number("staged_bytes", stats.staged_bytes);
  json.Number("staged_bytes_limit", stats.staged_bytes_limit);
  json.Number("quarantined_blocks", stats.quarantined_blocks);
  json.Number("log_bytes_written", stats.log_bytes_written);
  json.Number("extent_bytes_written", stats.extent_bytes_written);
  json.Number("destage_bytes_written", stats.destage_bytes_written);
  json.Number("bytes_read", stats.bytes_read);
  json.Number("checksum_errors", stats.checksum_errors);
  json.Text("transport", fuse::TransportName(fuse));
  json.Number("requests", std::accumulate(fuse.requests.begin(), fuse.requests.end(), uint64_t{0}));
  json.Number("request_bytes_read", fuse.read_bytes);
  json.Number("request_bytes_written", fuse.written_bytes);
  json.Number("requests_in_flight", fuse.in_flight);
  if (direct != nullptr) AddDirectAccess(direct->stats(), &json);
  return json.Finish();
}

void ReportRecovery(const ServeOptions& options, const core::RecoveryReport& recovery, const core::Engine& engine) {
  if (!recovery.clean) {
    options.report(absl::StrFormat("recovered: %d changes in %d log frames replayed; the volume is exactly the changes "
                                   "up to LSN %d", recovery.changes, recovery.frames, recovery.recovered_lsn));
  }
  for (const std::string& warning : recovery.warnings) options.report(absl::StrCat("warning: ", warning));
  if (recovery.lost_block_count > 0) {
    options.report(absl::StrFormat("warning: %d blocks could not be recovered; what needs them gets EIO. Run stagefs "
                                   "fsck to see which files", recovery.lost_block_count));
  }
  if (engine.stats().read_only && !options.engine.read_only) {
    options.report(absl::StrCat("warning: mounted read-only: ", engine.stats().failure));
  }
}

// What a front end gets to work with.
struct Served {
  const ServeOptions& options;
  const std::string& source;  // the store's path, or its URL
  ServerEnvironment& environment;
  core::Engine& engine;
  const core::RecoveryReport& recovery;
  volume::Volume& volume;
  volume::Sharing& sharing;
  dsa::MappingService* mappings;  // null: no direct access
  bool read_only;
};

// Null: it is not asked for.
absl::StatusOr<std::unique_ptr<dsa::DsaServer>> StartDirectAccess(const Served& served) {
  const ServeOptions& options = served.options;
  if (!options.direct.wanted()) return nullptr;
  dsa::DsaServerOptions direct;
  direct.addresses = options.direct.addresses;
  if (options.direct.beside_store) {
    ASSIGN_OR_RETURN(std::string path, SocketOfStore(served.source));
    direct.addresses.push_back(std::move(path));
  }
  direct.key_file = options.direct.key_file;
  direct.read_only = served.read_only;
  direct.allow_other = options.mount.allow_other.value_or(geteuid() == 0);
  ASSIGN_OR_RETURN(std::unique_ptr<dsa::DsaServer> server,
                   dsa::DsaServer::Start(served.volume, served.sharing, served.mappings, direct,
                                         [environment = &served.environment](absl::string_view line) {
                                           environment->Log(line);
                                         }));
  options.report(absl::StrCat("direct access at ", absl::StrJoin(server->addresses(), ", ")));
  return server;
}

void ListenForEnd(const Served& served, const absl::StatusOr<std::string>& name, std::optional<ServerLink>* link) {
  auto listening = name.ok() ? ServerLink::Listen(*name, kFormerServerMs) : absl::StatusOr<ServerLink>(name.status());
  if (listening.ok()) {
    link->emplace(*std::move(listening));
  } else {
    served.environment.Log(absl::StrCat("nobody will be able to wait for this server's end: ",
                                        listening.status().message()));
  }
}

// From the mount up, until it is gone.
absl::Status ServeMount(const Served& served, const std::string& directory, std::optional<ServerLink>* link) {
  std::atomic<const dsa::DsaServer*> direct_now{nullptr};  // for statistics, which may be asked for at any time
  fuse::MountOptions mount = served.options.mount;
  if (served.read_only && !mount.read_only) {
    mount.read_only = true;
    mount.mount_flags |= MS_RDONLY;
  }
  mount.log = [&served](absl::string_view line) { served.environment.Log(line); };
  mount.statistics = [&](const fuse::FuseStats& stats) {
    return StatisticsJson(served.source, served.engine, served.recovery, stats, direct_now.load());
  };
  ASSIGN_OR_RETURN(const std::unique_ptr<fuse::FuseServer> server,
                   fuse::FuseServer::Mount(served.volume, served.source, directory, mount,
                                           served.options.direct.wanted() ? &served.sharing : nullptr));
  ASSIGN_OR_RETURN(const std::unique_ptr<dsa::DsaServer> direct, StartDirectAccess(served));
  direct_now.store(direct.get());
  const auto entry = FindMount(server->directory());
  ListenForEnd(served, entry.has_value() ? absl::StatusOr<std::string>(entry->device)
                                         : absl::NotFoundError("the mount is gone already"), link);
  if (served.options.ready()) served.environment.UseSyslog();
  server->Run();
  if (link->has_value()) (*link)->StopListening();  // the next mount may get the same device number at once
  return absl::OkStatus();
}

// Without a mount, until a signal comes, which PrepareServerProcess() has blocked.
absl::Status ServeDirectly(const Served& served, std::optional<ServerLink>* link) {
  ASSIGN_OR_RETURN(const std::unique_ptr<dsa::DsaServer> direct, StartDirectAccess(served));
  if (direct == nullptr) return absl::InvalidArgumentError("there is nothing to serve: neither mount nor direct access");
  if (const std::string name = LinkOfStore(served.source); !name.empty()) ListenForEnd(served, name, link);
  if (served.options.ready()) served.environment.UseSyslog();
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  int signal = 0;
  sigwait(&signals, &signal);
  served.environment.Log(absl::StrCat("signal ", signal, ": ending"));
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);  // a second one ends the process at once, as kill -9 would
  if (link->has_value()) (*link)->StopListening();
  return absl::OkStatus();
}

// Everything from the volume up. The engine's owner closes the engine.
absl::Status ServeVolume(const ServeOptions& options, const std::string& source, const std::string& directory,
                         ServerEnvironment& environment, core::Engine& engine, const core::RecoveryReport& recovery,
                         std::optional<ServerLink>* link) {
  std::vector<std::string> warnings;
  ASSIGN_OR_RETURN(const std::unique_ptr<volume::Volume> volume, volume::Volume::Open(engine, &warnings));
  for (const std::string& warning : warnings) options.report(absl::StrCat("warning: ", warning));
  volume::Sharing sharing;
  std::unique_ptr<dsa::MappedFilesService> mappings;
  if (options.direct.wanted()) mappings = std::make_unique<dsa::MappedFilesService>(*volume, sharing);
  const bool read_only = options.mount.read_only || engine.stats().read_only;
  const Served served = {options, source, environment, engine, recovery, *volume, sharing, mappings.get(), read_only};
  const absl::Status status = directory.empty() ? ServeDirectly(served, link) : ServeMount(served, directory, link);
  mappings.reset();
  volume->Close();
  return status;
}

absl::Status ServeStore(const ServeOptions& options, std::optional<ServerLink>* link) {
  const std::string url = AbsoluteStore(options.store);
  const std::string directory =
      options.directory.empty() ? "" : std::filesystem::absolute(options.directory).string();
  fuse::PrepareServerProcess([](absl::string_view) {});
  // Memory that is swapped out could need this very file system to come back. Only root may lock as much as it takes;
  // pages are locked when they are first touched.
  if (geteuid() == 0) (void)mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);

  ServerEnvironment environment(options);
  sal::OpenStoreOptions store_options;
  store_options.read_only = options.engine.read_only;
  // A fuseblk mount claims the device itself.
  store_options.claim_device = geteuid() != 0 || !options.mount.fuseblk || directory.empty();
  ASSIGN_OR_RETURN(const std::unique_ptr<sal::BlockStore> store, sal::OpenStore(url, store_options));
  if (const std::string note = sal::StoreNote(*store); !note.empty()) options.report(note);
  core::RecoveryReport recovery;
  ASSIGN_OR_RETURN(const std::unique_ptr<core::Engine> engine,
                   core::Engine::Open(*store, environment, options.engine, &recovery));
  ReportRecovery(options, recovery, *engine);
  const std::string source(absl::StripPrefix(url, "file:"));
  const absl::Status served = ServeVolume(options, source, directory, environment, *engine, recovery, link);
  const absl::Status closed = engine->Close();
  if (!closed.ok()) environment.Log(absl::StrCat("closing ", source, ": ", closed.message()));
  return served.ok() ? closed : served;
}

}  // namespace

std::string AbsoluteStore(absl::string_view url) {
  const absl::string_view scheme = SchemeOf(url);
  if (scheme == "fault") {
    const size_t comma = url.find(',');
    if (comma == absl::string_view::npos) return std::string(url);
    return absl::StrCat(url.substr(0, comma + 1), AbsoluteStore(url.substr(comma + 1)));
  }
  if (scheme == "record") {
    const size_t begin = scheme.size() + 1, comma = url.find(',');
    if (comma == absl::string_view::npos || comma == begin) return std::string(url);
    const std::string file(url.substr(begin, comma - begin));
    return absl::StrCat("record:", std::filesystem::absolute(file).lexically_normal().string(), ",",
                        AbsoluteStore(url.substr(comma + 1)));
  }
  if (!scheme.empty() && scheme != "file") return std::string(url);
  const std::string path(absl::StripPrefix(url, "file:"));
  if (path.empty()) return std::string(url);
  const std::string absolute = std::filesystem::absolute(path).lexically_normal().string();
  return absl::StrCat(scheme.empty() ? "" : "file:", absolute);
}

std::string LinkOfStore(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return "";
  // A block device is the same whichever of its names is used.
  if (S_ISBLK(status.st_mode)) return absl::StrCat("device/", status.st_rdev);
  return absl::StrCat("file/", status.st_dev, "/", status.st_ino);
}

absl::Status Serve(const ServeOptions& options) {
  std::optional<ServerLink> link;
  const absl::Status status = ServeStore(options, &link);
  // The store is released: whoever waits in `stagefs umount` may open it now.
  if (link.has_value()) link->Finish(status);
  return status;
}

}  // namespace stagefs::tools
