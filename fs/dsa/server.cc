#include "fs/dsa/server.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "fs/volume/errno.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::dsa {
namespace {

using volume::ErrnoStatus;

// Connections that have yet to say who they are.
constexpr size_t kMaxStrangers = 64;
constexpr int kMaxArrivalsAtOnce = 16;
constexpr std::chrono::seconds kPauseWithoutDescriptors{1};
constexpr std::chrono::seconds kBetweenNotes{1};

bool IsPath(absl::string_view address) { return address.find('/') != absl::string_view::npos; }

}  // namespace

// Where clients come in.
class DsaServer::Door : public EventLoop::Watcher {
 public:
  Door(DsaServer& server, Listener listener) : server_(server), listener_(std::move(listener)) {
    watch_ = server_.loop_->Watch(listener_.fd(), EPOLLIN, this);
  }
  ~Door() override { server_.loop_->Unwatch(watch_); }

  void Ready(uint32_t) override {
    for (int i = 0; i < kMaxArrivalsAtOnce; ++i) {
      absl::StatusOr<Arrival> arrival = listener_.Accept();
      if (absl::IsResourceExhausted(arrival.status())) return Pause(arrival.status());
      if (!arrival.ok()) return;
      server_.Arrived(*std::move(arrival));
    }
  }
  void Due() override { server_.loop_->Change(watch_, EPOLLIN); }

 private:
  // Whoever waits to come in would keep the loop busy.
  void Pause(const absl::Status& why) {
    server_.Note(absl::StrCat("no client can come in for now: ", why.message()));
    server_.loop_->Change(watch_, 0);
    server_.loop_->SetDue(watch_, EventLoop::Clock::now() + kPauseWithoutDescriptors);
  }

  DsaServer& server_;
  Listener listener_;
  uint64_t watch_ = 0;
};

absl::StatusOr<std::unique_ptr<DsaServer>> DsaServer::Start(volume::Volume& volume, volume::Sharing& sharing,
                                                            MappingService* mappings, const DsaServerOptions& options,
                                                            Log log) {
  Keys keys;
  if (!options.key_file.empty()) {
    ASSIGN_OR_RETURN(keys, Keys::Load(options.key_file));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<EventLoop> loop, EventLoop::Create());
  // Signals are for other threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  auto background = std::make_unique<sal::RealEnvironment>(2);
  std::unique_ptr<DsaServer> server(new DsaServer(volume, sharing, mappings, options, std::move(log), std::move(keys),
                                                  std::move(loop), std::move(background)));
  const absl::Status opened = server->Open(options);
  if (opened.ok()) server->thread_ = std::thread([loop = server->loop_.get()] { loop->Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!opened.ok()) return opened;
  return server;
}

DsaServer::DsaServer(volume::Volume& volume, volume::Sharing& sharing, MappingService* mappings,
                     const DsaServerOptions& options, Log log, Keys keys, std::unique_ptr<EventLoop> loop,
                     std::unique_ptr<sal::RealEnvironment> background)
    : allow_other_(options.allow_other),
      log_(std::move(log)),
      keys_(std::move(keys)),
      loop_(std::move(loop)),
      background_(std::move(background)),
      services_{.volume = volume,
                .sharing = sharing,
                .mappings = mappings,
                .loop = *loop_,
                .background = *background_,
                .keys = keys_,
                .quotas = options.quotas,
                .read_only = options.read_only,
                .patience = options.patience,
                .counters = {}} {}

absl::Status DsaServer::Open(const DsaServerOptions& options) {
  std::vector<Listener> listeners;
  for (const std::string& address : options.addresses) {
    if (IsPath(address)) {
      ASSIGN_OR_RETURN(Listener listener, Listener::ListenUnix(address));
      listeners.push_back(std::move(listener));
      continue;
    }
    if (keys_.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("listening at ", address, " needs a file with keys: dsa_key=FILE"));
    }
    ASSIGN_OR_RETURN(std::vector<Listener> found, Listener::ListenTcp(address));
    for (Listener& listener : found) listeners.push_back(std::move(listener));
  }
  for (Listener& listener : listeners) {
    addresses_.push_back(listener.address());
    doors_.push_back(std::make_unique<Door>(*this, std::move(listener)));
  }
  return absl::OkStatus();
}

DsaServer::~DsaServer() { Stop(); }

void DsaServer::Stop() {
  if (!thread_.joinable()) return;
  loop_->Post([this] {
    stopping_ = true;
    doors_.clear();
    for (const auto& [id, session] : sessions_) session->End();
    EndIfOver();
  });
  thread_.join();
  background_.reset();
}

void DsaServer::EndIfOver() {
  if (stopping_ && sessions_.empty()) loop_->End();
}

std::vector<std::string> DsaServer::addresses() const { return addresses_; }

DsaStats DsaServer::stats() const {
  const DsaCounters& counters = services_.counters;
  const auto now = [](const std::atomic<uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  return {.clients = now(counters.clients),
          .files = now(counters.files),
          .memories = now(counters.memories),
          .memory_bytes = now(counters.memory_bytes),
          .queues = now(counters.queues),
          .mappings = now(counters.mappings),
          .requests = now(counters.requests),
          .refused_clients = now(counters.refused_clients)};
}

// --- On the loop's thread ---

void DsaServer::Arrived(Arrival arrival) {
  DropOldestStranger();
  const uint64_t id = next_session_++;
  Session::Owner& owner = *this;
  sessions_.emplace(
      id, std::make_unique<Session>(std::move(arrival.socket), std::move(arrival.peer), id, services_, owner));
}

// Somebody who connects and says nothing must not keep others out.
void DsaServer::DropOldestStranger() {
  Session* oldest = nullptr;
  size_t strangers = 0;
  for (const auto& [id, session] : sessions_) {
    if (session->admitted() || session->ended()) continue;
    if (oldest == nullptr) oldest = session.get();
    ++strangers;
  }
  if (strangers >= kMaxStrangers) oldest->End();
}

absl::Status DsaServer::Admit(const Session& session) {
  const uint32_t uid = session.peer().identity.uid;
  const bool privileged = session.peer().trusted || (!session.peer().local && uid == 0);
  if (session.peer().local && !allow_other_ && !session.peer().trusted) {
    return ErrnoStatus(EACCES, "only root and the server's own user may connect (allow_other lets others in)");
  }
  const size_t limit = services_.quotas.clients;
  size_t clients = 0, of_this_user = 0;
  for (const auto& [id, other] : sessions_) {
    if (!other->admitted()) continue;
    ++clients;
    if (other->peer().identity.uid == uid) ++of_this_user;
  }
  if (clients >= limit) return ErrnoStatus(EUSERS, absl::StrCat("there are ", limit, " clients already"));
  if (!privileged && of_this_user >= std::max<size_t>(limit / 2, 1)) {
    return ErrnoStatus(EUSERS, absl::StrCat("user ", uid, " has half of all clients already"));
  }
  return absl::OkStatus();
}

// Clients must not fill the log either.
void DsaServer::Note(absl::string_view line) {
  const EventLoop::Clock::time_point now = EventLoop::Clock::now();
  if (last_note_.has_value() && now - *last_note_ < kBetweenNotes) {
    ++notes_left_out_;
    return;
  }
  last_note_ = now;
  const std::string left_out = notes_left_out_ > 0 ? absl::StrCat(" (and ", notes_left_out_, " like it before)") : "";
  notes_left_out_ = 0;
  log_(absl::StrCat("direct access: ", line, left_out));
}

void DsaServer::Over(Session& session) {
  sessions_.erase(session.id());
  EndIfOver();
}

}  // namespace stagefs::dsa
