// Session: one client's connection, from its first byte to the moment when nothing of what it held is left.
//
//   accepted -> kHello -> (remote: kAuthenticate) -> ready: files, memory, queues, mappings -> ended -> over
//
// Ended: the client closed its socket, died, sent what is no message, took too long over one, or the server stops. Then
// everything it held is given back: its queues are dropped, its files closed, its mappings counted out. Over: the
// volume, the sharing and the data path have answered all that had begun; the session may be destroyed.
//
// Invariants:
//   * Before the client is known and admitted, nothing but kHello and kAuthenticate is looked at, no data path exists,
//     and at most kMaxFirstBytes of what it sent are kept.
//   * What a client can make us hold is bounded by the quotas, and its unanswered requests and unread replies by
//     constants: beyond those its socket is not read.
//
// Everything runs on the loop's thread. Answers of the volume, the data path and the mappings are brought there.

#ifndef STAGEFS_FS_DSA_SESSION_H_
#define STAGEFS_FS_DSA_SESSION_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fs/dsa/access.h"
#include "fs/dsa/control_request.h"
#include "fs/dsa/control_stream.h"
#include "fs/dsa/data_path.h"
#include "fs/dsa/event_loop.h"
#include "fs/dsa/keys.h"
#include "fs/dsa/mapping_service.h"
#include "fs/dsa/once.h"
#include "fs/dsa/protocol.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"
#include "sal/environment.h"
#include "sal/owned_fd.h"

namespace stagefs::dsa {

// What clients may hold. All but the first are for each client.
struct DsaQuotas {
  size_t clients = 64;  // users other than root and the server's own: each at most half of them
  size_t files = 4096;
  size_t memories = 1024;
  size_t queues = 16;
  size_t mappings = 256;
};

// Who is at the other end of a socket.
struct Peer {
  bool local = false;
  bool trusted = false;  // local, and root or the server's own user: may share memory with the server (shm)
  Identity identity;     // local: who the kernel says it is. Remote: nobody, until it has shown a key
  std::string address;   // of this machine, where it came in; for the data path. Local: empty
  std::string text;      // for people
};

// Written by sessions, read by any thread.
struct DsaCounters {
  std::atomic<uint64_t> clients = 0, files = 0, memories = 0, memory_bytes = 0, queues = 0, mappings = 0;
  std::atomic<uint64_t> requests = 0, refused_clients = 0;
};

// What the sessions of a server share. All must outlive them.
struct SessionServices {
  volume::Volume& volume;
  volume::Sharing& sharing;
  MappingService* mappings = nullptr;  // null: there are none
  EventLoop& loop;
  sal::Environment& background;  // for what may block: data paths begin and end there
  const Keys& keys;
  DsaQuotas quotas;
  bool read_only = false;
  // How long a client may take from its connection to its admission, and from a message's first byte to its last.
  std::chrono::milliseconds patience{10'000};
  DsaCounters counters;
};

// The providers that `peer` may use, in the order in which to try them, if it wishes for `wish` (empty: for any).
// Errors carry an errno: EACCES (not for this peer), EOPNOTSUPP (nobody has heard of it).
absl::StatusOr<std::vector<std::string>> AllowedProviders(const Peer& peer, absl::string_view wish);

class Session : private EventLoop::Watcher {
 public:
  // Called on the loop's thread.
  class Owner {
   public:
    virtual ~Owner() = default;
    // The client is known: may it stay? Errors carry an errno.
    virtual absl::Status Admit(const Session& session) = 0;
    // One line for the operator.
    virtual void Note(absl::string_view line) = 0;
    // Nothing of the session is left: it may be destroyed, here. Never inside a call from outside.
    virtual void Over(Session& session) = 0;
  };

  // `socket` does not block.
  Session(OwnedFd socket, Peer peer, uint64_t id, SessionServices& services, Owner& owner);
  ~Session() override;

  // Drops the client.
  void End();

  uint64_t id() const { return id_; }
  const Peer& peer() const { return peer_; }
  bool admitted() const { return admitted_; }
  bool ended() const { return state_ == State::kEnded; }

 private:
  enum class State : uint8_t { kHello, kAuthenticate, kStarting, kReady, kLeaving, kEnded };
  struct Asked {
    uint16_t type;
    uint32_t request;
  };
  struct Mapping {
    std::shared_ptr<OpenFile> file;
    uint64_t offset, length;
  };
  struct Started {
    std::string provider;
    std::unique_ptr<DataPath> data_path;
  };

  // --- The connection ---
  void Ready(uint32_t events) override;
  void Due() override;
  bool Paused() const;
  void Process();
  void UpdateWatch();
  void Handle(const ControlMessage& message);
  void Reply(const Asked& asked, std::span<const std::byte> body = {}, std::vector<OwnedFd> descriptors = {});
  void Refuse(const Asked& asked, const absl::Status& status);
  // The last thing that the client hears.
  void RefuseAndLeave(const Asked& asked, const absl::Status& status);

  // --- What has begun ---
  // A callback for somebody on another thread: `then` runs on the loop, and the session lives until then. `otherwise`: if
  // nobody calls it.
  template <typename T, typename Then>
  Once<T> Later(T otherwise, Then then);
  void Finished();
  void GiveBack();

  // --- Who it is ---
  void Hello(const Asked& asked, const HelloRequest& hello);
  void Authenticate(const Asked& asked, const Proof& proof);
  void Start(const Asked& asked);
  void StartedWith(const Asked& asked, absl::StatusOr<Started> started);
  HelloReply MakeHelloReply(const std::string& provider) const;

  // --- What it asks for ---
  void Do(const Asked& asked, const HelloRequest& request);
  void Do(const Asked& asked, const Proof& request);
  void Do(const Asked& asked, const OpenMessage& request);
  void Do(const Asked& asked, const RegisterRequest& request);
  void Do(const Asked& asked, const CreateQueueMessage& request);
  void Do(const Asked& asked, const HandleMessage& request);
  void Do(const Asked& asked, const RangeMessage& request);
  void Opened(const Asked& asked, absl::StatusOr<OpenedFile> opened);
  void Stat(const Asked& asked, uint32_t handle);
  void CloseFile(const Asked& asked, uint32_t handle);
  void Deregister(const Asked& asked, uint32_t handle);
  void QueueCreated(const Asked& asked, absl::StatusOr<QueueGrant> grant);
  void DestroyQueue(const Asked& asked, uint32_t handle);
  void Map(const Asked& asked, const RangeRequest& range);
  void Populate(const Asked& asked, const RangeRequest& range);
  void Unmap(const Asked& asked, uint32_t handle);
  uint32_t user() const { return peer_.identity.uid; }
  bool MayMap() const { return peer_.local && services_.mappings != nullptr; }

  const uint64_t id_;
  SessionServices& services_;
  Owner& owner_;
  Peer peer_;
  std::optional<ControlStream> stream_;  // none: ended
  uint64_t watch_ = 0;
  State state_ = State::kHello;
  EventLoop::Clock::time_point give_up_;                     // unless ready
  std::optional<EventLoop::Clock::time_point> message_due_;  // ready, and a message has begun to come

  std::vector<std::string> providers_;
  std::array<uint8_t, kNonceBytes> client_nonce_ = {}, server_nonce_ = {};
  std::string key_name_;
  bool admitted_ = false;

  size_t pending_ = 0;  // callbacks that are still to come
  bool given_back_ = false;
  std::unique_ptr<ClientHandles> handles_;  // outlives data_path_
  std::unique_ptr<DataPath> data_path_;
  absl::flat_hash_map<uint32_t, Mapping> mappings_;
  uint32_t next_mapping_ = 1;
  // What of the counters is ours.
  uint64_t files_ = 0, memories_ = 0, memory_bytes_ = 0, queues_ = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_SESSION_H_
