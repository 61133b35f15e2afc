// DsaServer: direct access to a volume: the sockets where clients come in, and their sessions.
//
// One thread serves all connections, without ever waiting for a client, the volume or the data paths. What a client can
// hold is bounded by quotas; a client that stalls, dies or sends garbage costs the others nothing.

#ifndef STAGEFS_FS_DSA_SERVER_H_
#define STAGEFS_FS_DSA_SERVER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fs/dsa/event_loop.h"
#include "fs/dsa/keys.h"
#include "fs/dsa/listener.h"
#include "fs/dsa/mapping_service.h"
#include "fs/dsa/session.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"
#include "sal/real_environment.h"

namespace stagefs::dsa {

struct DsaServerOptions {
  // With a slash: paths of Unix sockets, for local clients. Others: HOST:PORT, for remote ones, who need a key.
  std::vector<std::string> addresses;
  std::string key_file;  // needed for remote clients: fs/dsa/keys.h
  bool read_only = false;
  // Local users other than root and the server's own may connect. What they may open is up to the files' permissions.
  bool allow_other = true;
  DsaQuotas quotas;
  // See SessionServices::patience.
  std::chrono::milliseconds patience{10'000};
};

struct DsaStats {
  uint64_t clients = 0, files = 0, memories = 0, memory_bytes = 0, queues = 0, mappings = 0;  // now
  uint64_t requests = 0, refused_clients = 0;                                                  // since the start
};

class DsaServer : private Session::Owner {
 public:
  using Log = std::function<void(absl::string_view)>;

  // Clients may come when this returns. `volume`, `sharing` and `mappings` (null: no mappings are offered) must outlive
  // the server; `log` takes lines on any thread. Errors: those of Listener and Keys, and InvalidArgument (an address, but
  // no key file).
  static absl::StatusOr<std::unique_ptr<DsaServer>> Start(volume::Volume& volume, volume::Sharing& sharing,
                                                          MappingService* mappings, const DsaServerOptions& options,
                                                          Log log);
  // As Stop().
  ~DsaServer() override;

  // No client comes any more, those there are are dropped, and what they have begun is waited for: when this returns,
  // nothing is called on volume, sharing and mappings any more. The sockets are gone. Says nothing of durability. Not on
  // two threads at once.
  void Stop();

  // As clients can use them: with the ports chosen for those that were 0.
  std::vector<std::string> addresses() const;
  // Any thread.
  DsaStats stats() const;

 private:
  class Door;

  DsaServer(volume::Volume& volume, volume::Sharing& sharing, MappingService* mappings, const DsaServerOptions& options,
            Log log, Keys keys, std::unique_ptr<EventLoop> loop, std::unique_ptr<sal::RealEnvironment> background);
  absl::Status Open(const DsaServerOptions& options);

  // --- On the loop's thread ---
  void Arrived(Arrival arrival);
  void DropOldestStranger();
  void EndIfOver();
  absl::Status Admit(const Session& session) override;
  void Note(absl::string_view line) override;
  void Over(Session& session) override;

  const bool allow_other_;
  const Log log_;
  const Keys keys_;
  const std::unique_ptr<EventLoop> loop_;
  // Data paths begin and end here. Destroyed before the loop: its tasks post to that.
  std::unique_ptr<sal::RealEnvironment> background_;
  SessionServices services_;
  std::thread thread_;
  std::vector<std::string> addresses_;  // constant after Start()

  // Of the loop's thread (before and after it, of who starts and stops).
  std::vector<std::unique_ptr<Door>> doors_;
  std::map<uint64_t, std::unique_ptr<Session>> sessions_;  // by id, so by age
  uint64_t next_session_ = 1;
  bool stopping_ = false;
  std::optional<EventLoop::Clock::time_point> last_note_;
  uint64_t notes_left_out_ = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_SERVER_H_
