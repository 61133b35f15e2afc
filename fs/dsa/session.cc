#include "fs/dsa/session.h"

#include <errno.h>
#include <string.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "fs/dsa/proof.h"
#include "fs/dsa/session_later.h"
#include "fs/volume/errno.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::dsa {
namespace {

using volume::ErrnoStatus;

// A hello, with room for those of other versions.
constexpr uint32_t kMaxFirstBytes = 1024;
constexpr size_t kMaxPending = 64;
constexpr size_t kMaxUnsentBytes = 256 << 10;
constexpr size_t kMaxRefusalBytes = 512;
constexpr char kLoopback[] = "127.0.0.1";

absl::StatusOr<std::string> CheckedWish(absl::string_view wish) {
  for (const absl::string_view known : {"shm", "tcp", "verbs"}) {
    if (wish == known) return std::string(wish);
  }
  return ErrnoStatus(EOPNOTSUPP, "the provider wished for is not shm, tcp or verbs");
}

}  // namespace

absl::StatusOr<std::vector<std::string>> AllowedProviders(const Peer& peer, absl::string_view wish) {
  // shm trusts its peers: what they write into the shared memory is taken as it is.
  std::vector<std::string> allowed = {"tcp"};
  if (peer.trusted) allowed = {"shm", "tcp"};
  if (wish.empty()) return allowed;
  if (!peer.local) allowed.push_back("verbs");
  ASSIGN_OR_RETURN(const std::string provider, CheckedWish(wish));
  if (std::find(allowed.begin(), allowed.end(), provider) != allowed.end()) return std::vector<std::string>{provider};
  const char* const whom = peer.local ? "to a local user other than root and the server's own" : "over the network";
  return ErrnoStatus(EACCES, absl::StrCat("provider ", provider, " is not offered ", whom, "; offered is ",
                                          absl::StrJoin(allowed, ", ")));
}

Session::Session(OwnedFd socket, Peer peer, uint64_t id, SessionServices& services, Owner& owner)
    : id_(id),
      services_(services),
      owner_(owner),
      peer_(std::move(peer)),
      stream_(std::move(socket)),
      give_up_(EventLoop::Clock::now() + services.patience),
      handles_(std::make_unique<ClientHandles>()) {
  stream_->parser().SetLimit(kMaxFirstBytes);
  watch_ = services_.loop.Watch(stream_->fd(), EPOLLIN | EPOLLRDHUP, this);
  services_.loop.SetDue(watch_, give_up_);
}

Session::~Session() { STAGEFS_CHECK(ended() && pending_ == 0); }

// --- The connection ---

void Session::Ready(uint32_t events) {
  if ((events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0) return End();
  if ((events & EPOLLOUT) != 0 && !stream_->SendMore().ok()) return End();
  if ((events & EPOLLIN) != 0 && !Paused() && !stream_->Receive().ok()) return End();
  Process();
}

void Session::Due() {
  owner_.Note(absl::StrCat("dropping ", peer_.text, ": it takes too long over a message"));
  if (!admitted_) services_.counters.refused_clients.fetch_add(1, std::memory_order_relaxed);
  End();
}

// Whether the client has to wait before more of what it sends is read.
bool Session::Paused() const {
  if (state_ != State::kReady) return state_ == State::kStarting || state_ == State::kLeaving;
  return pending_ >= kMaxPending || stream_->unsent_bytes() >= kMaxUnsentBytes;
}

void Session::Process() {
  while (!ended() && !Paused()) {
    const std::optional<ControlMessage> message = stream_->parser().Next();
    if (!message.has_value()) break;
    message_due_.reset();
    Handle(*message);
  }
  if (ended()) return;
  if (stream_->parser().broken()) {
    owner_.Note(absl::StrCat("dropping ", peer_.text, ": it does not speak the protocol"));
    return End();
  }
  UpdateWatch();
}

void Session::UpdateWatch() {
  if (state_ == State::kLeaving && stream_->unsent_bytes() == 0) return End();
  const bool paused = Paused();
  uint32_t events = EPOLLRDHUP;
  if (!paused) events |= EPOLLIN;
  if (stream_->unsent_bytes() > 0) events |= EPOLLOUT;
  services_.loop.Change(watch_, events);
  if (paused || !stream_->parser().partial()) {
    message_due_.reset();
  } else if (!message_due_.has_value()) {
    message_due_ = EventLoop::Clock::now() + services_.patience;
  }
  std::optional<EventLoop::Clock::time_point> due = give_up_;
  if (state_ == State::kReady) due = message_due_;
  if (state_ == State::kStarting) due = std::nullopt;  // it is we who take the time
  services_.loop.SetDue(watch_, due);
}

void Session::Handle(const ControlMessage& message) {
  const Asked asked = {message.type, message.request};
  services_.counters.requests.fetch_add(1, std::memory_order_relaxed);
  absl::StatusOr<ControlRequest> request = DecodeControlRequest(message);
  if (state_ == State::kReady) {
    if (!request.ok()) return Refuse(asked, request.status());
    std::visit([&](const auto& wanted) { Do(asked, wanted); }, *request);
    return;
  }
  if (!request.ok() && volume::ToErrno(request.status()) == EPROTONOSUPPORT && state_ == State::kHello) {
    return RefuseAndLeave(asked, request.status());
  }
  if (request.ok() && state_ == State::kHello && std::holds_alternative<HelloRequest>(*request)) {
    return Hello(asked, std::get<HelloRequest>(*request));
  }
  if (request.ok() && state_ == State::kAuthenticate && std::holds_alternative<Proof>(*request)) {
    return Authenticate(asked, std::get<Proof>(*request));
  }
  owner_.Note(absl::StrCat("dropping ", peer_.text, ": it does not speak the protocol"));
  End();
}

void Session::Reply(const Asked& asked, std::span<const std::byte> body, std::vector<OwnedFd> descriptors) {
  if (ended()) return;
  const ControlHeader header = {static_cast<uint32_t>(sizeof(ControlHeader) + body.size()), asked.type, 0, asked.request,
                                0};
  if (!stream_->Send(header, body, std::move(descriptors)).ok()) End();
}

void Session::Refuse(const Asked& asked, const absl::Status& status) {
  if (ended()) return;
  const absl::string_view text = status.message().substr(0, kMaxRefusalBytes);
  const ControlHeader header = {static_cast<uint32_t>(sizeof(ControlHeader) + text.size()), asked.type, 0, asked.request,
                                -volume::ToErrno(status)};
  if (!stream_->Send(header, std::as_bytes(std::span(text.data(), text.size()))).ok()) End();
}

void Session::RefuseAndLeave(const Asked& asked, const absl::Status& status) {
  owner_.Note(absl::StrCat("refusing ", peer_.text, ": ", status.message()));
  services_.counters.refused_clients.fetch_add(1, std::memory_order_relaxed);
  Refuse(asked, status);
  if (ended()) return;
  state_ = State::kLeaving;
  give_up_ = EventLoop::Clock::now() + services_.patience;
}

// --- The end ---

void Session::End() {
  if (ended()) return;
  const bool starting = state_ == State::kStarting;
  state_ = State::kEnded;
  services_.loop.Unwatch(watch_);
  stream_.reset();
  if (!starting) GiveBack();
}

// The data path waits for what has begun on the volume: not on the loop's thread.
void Session::GiveBack() {
  STAGEFS_CHECK(!given_back_);
  given_back_ = true;
  for (const auto& [handle, mapping] : mappings_) services_.mappings->Unmap(mapping.file->ino(), user());
  DsaCounters& counters = services_.counters;
  counters.mappings.fetch_sub(mappings_.size(), std::memory_order_relaxed);
  counters.files.fetch_sub(files_, std::memory_order_relaxed);
  counters.memories.fetch_sub(memories_, std::memory_order_relaxed);
  counters.memory_bytes.fetch_sub(memory_bytes_, std::memory_order_relaxed);
  counters.queues.fetch_sub(queues_, std::memory_order_relaxed);
  if (admitted_) counters.clients.fetch_sub(1, std::memory_order_relaxed);
  mappings_.clear();
  auto gone = Later<bool>(true, [](bool) {});
  services_.background.Post([gone = std::move(gone), handles = std::move(handles_),
                             data_path = std::move(data_path_)]() mutable {
    data_path.reset();
    handles.reset();
    std::move(gone)(true);
  });
}

// The last thing that a callback does: the session may be gone afterwards.
void Session::Finished() {
  STAGEFS_CHECK(pending_ > 0);
  --pending_;
  if (!ended()) return Process();
  if (pending_ == 0 && given_back_) owner_.Over(*this);
}

// --- Who it is ---

void Session::Hello(const Asked& asked, const HelloRequest& hello) {
  const absl::StatusOr<std::vector<std::string>> providers = AllowedProviders(peer_, PaddedText(hello.provider));
  if (!providers.ok()) return RefuseAndLeave(asked, providers.status());
  providers_ = *providers;
  std::copy_n(hello.nonce, kNonceBytes, client_nonce_.begin());
  MakeNonce(server_nonce_.data());
  if (peer_.local) return Start(asked);
  key_name_ = PaddedText(hello.key_name);
  state_ = State::kAuthenticate;
  const HelloReply reply = MakeHelloReply(providers_.front());
  Reply(asked, std::as_bytes(std::span(&reply, 1)));
}

void Session::Authenticate(const Asked& asked, const Proof& proof) {
  const Key* const key =
      services_.keys.Check(key_name_, client_nonce_.data(), server_nonce_.data(), proof.bytes);
  if (key == nullptr) return RefuseAndLeave(asked, ErrnoStatus(EACCES, "the key is wrong"));
  peer_.identity = key->identity;
  Start(asked);
}

HelloReply Session::MakeHelloReply(const std::string& provider) const {
  HelloReply reply = {};
  reply.version = kVersion;
  reply.authenticate = state_ == State::kAuthenticate ? 1 : 0;
  reply.can_map = MayMap() ? 1 : 0;
  reply.max_depth = kMaxDepth;
  reply.session = id_;
  provider.copy(reply.provider, sizeof(reply.provider) - 1);
  std::copy(server_nonce_.begin(), server_nonce_.end(), reply.nonce);
  return reply;
}

// The client is known. Its data path is started where that may take its time.
void Session::Start(const Asked& asked) {
  if (absl::Status status = owner_.Admit(*this); !status.ok()) return RefuseAndLeave(asked, status);
  admitted_ = true;
  services_.counters.clients.fetch_add(1, std::memory_order_relaxed);
  state_ = State::kStarting;
  DataPathOptions options;
  options.max_queues = services_.quotas.queues;
  options.address = peer_.local ? kLoopback : peer_.address;
  // The data path has ended before the session is over, and what it posted comes before what tells of that.
  options.queue_broken = [this](uint32_t) {
    services_.loop.Post([this] {
      if (ended()) return;
      owner_.Note(absl::StrCat("dropped ", peer_.text, ": it broke the rules of a queue, or cannot be reached"));
      End();
    });
  };
  auto started = Later<absl::StatusOr<Started>>(
      absl::InternalError("no data path"),
      [this, asked](absl::StatusOr<Started> result) { StartedWith(asked, std::move(result)); });
  services_.background.Post([this, options, started = std::move(started)]() mutable {
    absl::StatusOr<Started> result = absl::InternalError("no provider");
    for (const std::string& provider : providers_) {  // constant by now
      options.provider = provider;
      auto data_path = DataPath::Start(services_.volume, services_.sharing, *handles_, options);
      if (data_path.ok()) {
        result = Started{provider, *std::move(data_path)};
        break;
      }
      result = data_path.status();
    }
    std::move(started)(std::move(result));
  });
}

void Session::StartedWith(const Asked& asked, absl::StatusOr<Started> started) {
  if (started.ok()) data_path_ = std::move(started->data_path);
  if (ended()) return GiveBack();  // it has gone meanwhile
  if (!started.ok()) {
    return RefuseAndLeave(asked, ErrnoStatus(EOPNOTSUPP, absl::StrCat("no data path: ", started.status().message())));
  }
  state_ = State::kReady;
  stream_->parser().SetLimit(kMaxControlBytes);
  if (peer_.local) {
    const HelloReply reply = MakeHelloReply(started->provider);
    return Reply(asked, std::as_bytes(std::span(&reply, 1)));
  }
  // Its proof was right: here is ours.
  const std::array<uint8_t, kProofBytes> proof = services_.keys.Prove(key_name_, client_nonce_.data(), server_nonce_.data());
  Reply(asked, std::as_bytes(std::span(proof)));
}

}  // namespace stagefs::dsa
