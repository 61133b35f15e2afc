#include "fs/dsa/fabric.h"

#include <errno.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <string_view>

namespace stagefs::dsa {
namespace {

constexpr size_t kMaxNameBytes = 256;
constexpr int kEventsAtOnce = 16;

int Fail(std::string* error, const char* what, ssize_t code) {
  *error = std::string(what) + ": " + FabricLibrary::Loaded().strerror(static_cast<int>(-code));
  return static_cast<int>(code);
}

// libfabric makes a file of shared memory for each endpoint, by default named after the process's number: two processes
// in different name spaces may have the same one.
constexpr std::string_view kSharedPrefix = "stagefs-";
constexpr std::string_view kSharedScheme = "fi_shm://";

std::string NewSharedName() {
  std::random_device random;
  char name[64];
  snprintf(name, sizeof(name), "%s%d-%08x%08x", kSharedPrefix.data(), getpid(), random(), random());
  return name;
}

std::string NameInFabric(const std::string& provider) {
  // Only with rxm are tcp and verbs reliable datagram endpoints.
  return provider == "shm" ? provider : provider + ";ofi_rxm";
}

}  // namespace

int Fabric::Open(const std::string& provider, const std::string& address, std::unique_ptr<Fabric>* fabric,
                 std::string* error) {
  const FabricLibrary* const library = FabricLibrary::Load(error);
  if (library == nullptr) return -EOPNOTSUPP;
  const KeepSignals keep;
  const std::unique_ptr<fi_info, FreeInfo> hints(library->dupinfo(nullptr));
  if (hints == nullptr) return Fail(error, "fi_dupinfo", -ENOMEM);
  hints->caps = FI_MSG | FI_RMA;
  hints->mode = FI_CONTEXT | FI_CONTEXT2;
  hints->ep_attr->type = FI_EP_RDM;
  hints->fabric_attr->prov_name = strdup(NameInFabric(provider).c_str());
  hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
  hints->domain_attr->threading = FI_THREAD_SAFE;
  fi_info* found = nullptr;
  const bool is_shm = provider == "shm";
  const std::string node = is_shm ? NewSharedName() : address;
  const int code = library->getinfo(FI_VERSION(1, 17), node.c_str(), nullptr, FI_SOURCE, hints.get(), &found);
  if (code == -FI_ENODATA) {
    *error = "libfabric has no provider " + provider + (is_shm ? "" : " for the address " + address);
    return -EOPNOTSUPP;
  }
  if (code != 0) return Fail(error, "fi_getinfo", code);
  fabric->reset(new Fabric);
  Fabric& self = **fabric;
  self.provider_ = provider;
  self.info_.reset(found);
  fid_fabric* opened = nullptr;
  if (const int failed = library->fabric(found->fabric_attr, &opened, nullptr); failed != 0) {
    return Fail(error, "fi_fabric", failed);
  }
  self.fabric_.reset(opened);
  fid_domain* domain = nullptr;
  if (const int failed = fi_domain(opened, found, &domain, nullptr); failed != 0) {
    return Fail(error, "fi_domain", failed);
  }
  self.domain_.reset(domain);
  return 0;
}

Fabric::~Fabric() = default;

int Fabric::Register(void* memory, size_t size_bytes, uint32_t access, std::unique_ptr<Region>* region,
                     std::string* error) {
  uint64_t flags = FI_READ | FI_WRITE | FI_SEND | FI_RECV;
  if ((access & kMayRead) != 0) flags |= FI_REMOTE_READ;
  if ((access & kMayWrite) != 0) flags |= FI_REMOTE_WRITE;
  fid_mr* registered = nullptr;
  const uint64_t key = next_key_.fetch_add(1, std::memory_order_relaxed);
  if (const int code = fi_mr_reg(domain_.get(), memory, size_bytes, flags, 0, key, 0, &registered, nullptr);
      code != 0) {
    return Fail(error, "registering memory", code);
  }
  region->reset(new Region);
  (*region)->region_.reset(registered);
  const bool virtual_addresses = (info_->domain_attr->mr_mode & FI_MR_VIRT_ADDR) != 0;
  (*region)->remote_address_ = virtual_addresses ? reinterpret_cast<uint64_t>(memory) : 0;
  return 0;
}

int Endpoint::Create(Fabric& fabric, uint32_t depth, Owner& owner, std::unique_ptr<Endpoint>* result,
                     std::string* error) {
  const KeepSignals keep;
  result->reset(new Endpoint(fabric, owner));
  Endpoint& self = **result;
  fi_info* const info = fabric.info_.get();
  self.inject_bytes_ = info->tx_attr->inject_size;

  fi_cq_attr queue_attributes = {};
  queue_attributes.format = FI_CQ_FORMAT_MSG;
  queue_attributes.wait_obj = fabric.has_wait_descriptors() ? FI_WAIT_FD : FI_WAIT_NONE;
  fid_cq* queue = nullptr;
  if (const int code = fi_cq_open(fabric.domain_.get(), &queue_attributes, &queue, nullptr); code != 0) {
    return Fail(error, "fi_cq_open", code);
  }
  self.queue_.reset(queue);
  fi_av_attr address_attributes = {};
  address_attributes.type = FI_AV_TABLE;
  fid_av* addresses = nullptr;
  if (const int code = fi_av_open(fabric.domain_.get(), &address_attributes, &addresses, nullptr); code != 0) {
    return Fail(error, "fi_av_open", code);
  }
  self.addresses_.reset(addresses);
  fid_ep* endpoint = nullptr;
  if (const int code = fi_endpoint(fabric.domain_.get(), info, &endpoint, nullptr); code != 0) {
    return Fail(error, "fi_endpoint", code);
  }
  self.endpoint_.reset(endpoint);
  int code = fi_ep_bind(endpoint, &queue->fid, FI_SEND | FI_RECV);
  if (code == 0) code = fi_ep_bind(endpoint, &addresses->fid, 0);
  if (code == 0) code = fi_enable(endpoint);
  if (code != 0) return Fail(error, "fi_enable", code);
  if (fabric.has_wait_descriptors()) {
    code = fi_control(&queue->fid, FI_GETWAIT, &self.wait_descriptor_);
    if (code != 0) return Fail(error, "FI_GETWAIT", code);
  }
  self.name_.resize(kMaxNameBytes);
  size_t name_bytes = kMaxNameBytes;
  code = fi_getname(&endpoint->fid, self.name_.data(), &name_bytes);
  if (code != 0 || name_bytes > kMaxNameBytes) return Fail(error, "fi_getname", code != 0 ? code : -ENAMETOOLONG);
  self.name_.resize(name_bytes);

  const size_t each_way = std::clamp<size_t>(depth, 4, 64);
  self.memory_ = std::make_unique<std::byte[]>(2 * each_way * kMaxMessageBytes);
  if (fabric.needs_local_regions()) {
    code = fabric.Register(self.memory_.get(), 2 * each_way * kMaxMessageBytes, 0, &self.memory_region_, error);
    if (code != 0) return code;
  }
  for (size_t i = 0; i < 2 * each_way; ++i) {
    const auto kind = i < each_way ? FabricOperation::Kind::kReceive : FabricOperation::Kind::kSend;
    self.messages_.push_back(std::make_unique<Message>(kind, self.memory_.get() + i * kMaxMessageBytes));
    (i < each_way ? self.unposted_ : self.free_).push_back(self.messages_.back().get());
  }
  while (!self.unposted_.empty()) {
    code = self.PostReceive(self.unposted_.back());
    if (code == -FI_EAGAIN) break;
    if (code != 0) return Fail(error, "fi_recv", code);
    self.unposted_.pop_back();
  }
  return 0;
}

// The endpoint goes before the queue and the addresses that are bound to it, and all of them before the memory.
Endpoint::~Endpoint() {
  endpoint_.reset();
  queue_.reset();
  addresses_.reset();
  RemovePeersFile();
}

// A peer that was killed leaves its file of shared memory behind. One that lives has mapped it, and does not need the name
// any more: it has only this peer.
void Endpoint::RemovePeersFile() {
  if (fabric_.has_wait_descriptors()) return;
  std::string_view name = peer_name_;
  if (!name.starts_with(kSharedScheme)) return;
  name.remove_prefix(kSharedScheme.size());
  // The peer says what its name is.
  if (!name.starts_with(kSharedPrefix) || name.find('/') != name.npos) return;
  (void)shm_unlink(std::string(name).c_str());
}

int Endpoint::SetPeer(std::span<const std::byte> name, std::string* error) {
  // Providers read as much as their addresses have, whatever they are given; a name of shm is a string.
  std::vector<std::byte> padded(name.begin(), name.end());
  padded.resize(std::max(kMaxNameBytes, name.size()) + 1);
  if (name.empty() || name.size() > kMaxNameBytes) return Fail(error, "the name of an endpoint", -EINVAL);
  peer_name_ = reinterpret_cast<const char*>(padded.data());
  const int count = fi_av_insert(addresses_.get(), padded.data(), 1, &peer_, 0, nullptr);
  if (count == 1 && peer_ != FI_ADDR_NOTAVAIL) return 0;
  return Fail(error, "fi_av_insert", count < 0 ? count : -EADDRNOTAVAIL);
}

std::byte* Endpoint::SendBuffer() { return free_.empty() ? nullptr : free_.back()->memory; }

int Endpoint::Send(size_t size_bytes) {
  Message* const message = free_.back();
  if (size_bytes <= inject_bytes_) {
    return static_cast<int>(fi_inject(endpoint_.get(), message->memory, size_bytes, peer_));
  }
  void* const descriptor = memory_region_ != nullptr ? memory_region_->descriptor() : nullptr;
  const ssize_t code = fi_send(endpoint_.get(), message->memory, size_bytes, descriptor, peer_, &message->context);
  if (code == 0) free_.pop_back();
  return static_cast<int>(code);
}

int Endpoint::PostReceive(Message* message) {
  void* const descriptor = memory_region_ != nullptr ? memory_region_->descriptor() : nullptr;
  return static_cast<int>(fi_recv(endpoint_.get(), message->memory, kMaxMessageBytes, descriptor, FI_ADDR_UNSPEC,
                                  &message->context));
}

int Endpoint::Read(void* local, size_t size_bytes, uint64_t remote_address, uint64_t key, Transfer* transfer) {
  return Start(/*write=*/false, local, size_bytes, remote_address, key, transfer);
}

int Endpoint::Write(const void* local, size_t size_bytes, uint64_t remote_address, uint64_t key, Transfer* transfer) {
  return Start(/*write=*/true, const_cast<void*>(local), size_bytes, remote_address, key, transfer);
}

int Endpoint::Start(bool write, void* local, size_t size_bytes, uint64_t remote_address, uint64_t key,
                    Transfer* transfer) {
  if (fabric_.needs_local_regions() && transfer->local == nullptr) {
    std::string ignored;
    if (const int code = fabric_.Register(local, size_bytes, 0, &transfer->local, &ignored); code != 0) return code;
  }
  void* const descriptor = transfer->local != nullptr ? transfer->local->descriptor() : nullptr;
  const ssize_t code = write ? fi_write(endpoint_.get(), local, size_bytes, descriptor, peer_, remote_address, key,
                                        &transfer->context)
                             : fi_read(endpoint_.get(), local, size_bytes, descriptor, peer_, remote_address, key,
                                       &transfer->context);
  if (code == 0 && !fabric_.has_wait_descriptors()) unreported_.push_back(transfer);
  // It is not for the memory that the transfer may be used with next.
  if (code != 0 && code != -FI_EAGAIN) transfer->local.reset();
  return static_cast<int>(code);
}

int Endpoint::Poll() {
  fi_cq_msg_entry events[kEventsAtOnce];
  const ssize_t count = fi_cq_read(queue_.get(), events, kEventsAtOnce);
  if (count == -FI_EAVAIL) return TakeErrors();
  if (count < 0 && count != -FI_EAGAIN) return static_cast<int>(count);
  for (ssize_t i = 0; i < count; ++i) {
    if (events[i].op_context == nullptr) continue;  // an injected message
    auto* const operation = static_cast<FabricOperation*>(events[i].op_context);
    if (operation->kind == FabricOperation::Kind::kReceive) {
      auto* const message = static_cast<Message*>(operation);
      owner_.Received({message->memory, std::min<size_t>(events[i].len, kMaxMessageBytes)});
      unposted_.push_back(message);
    } else {
      Finish(operation, 0);
    }
  }
  while (!unposted_.empty() && PostReceive(unposted_.back()) == 0) unposted_.pop_back();
  return static_cast<int>(std::max<ssize_t>(count, 0));
}

int Endpoint::TakeErrors() {
  int taken = 0;
  fi_cq_err_entry event = {};
  while (fi_cq_readerr(queue_.get(), &event, 0) > 0) {
    ++taken;
    const int status = event.err > 0 ? -event.err : -EIO;
    auto* operation = static_cast<FabricOperation*>(event.op_context);
    if (operation == nullptr && !unreported_.empty()) operation = unreported_.front();
    // A transfer's failure is its owner's. A message that is too long may be a stranger's: whoever reaches the port can
    // send one. All else is the end of the peer.
    const bool is_transfer = operation != nullptr && operation->kind == FabricOperation::Kind::kTransfer;
    const bool too_long = operation != nullptr && operation->kind == FabricOperation::Kind::kReceive &&
                          event.err == FI_ETRUNC;
    if (!is_transfer && !too_long) owner_.Broken(status);
    if (operation != nullptr) Finish(operation, status);
    event = {};
  }
  return taken;
}

void Endpoint::Finish(FabricOperation* operation, int status) {
  switch (operation->kind) {
    case FabricOperation::Kind::kTransfer: {
      auto* const transfer = static_cast<Transfer*>(operation);
      if (!unreported_.empty()) unreported_.pop_front();
      transfer->local.reset();
      transfer->done(transfer, status);
      break;
    }
    case FabricOperation::Kind::kSend:
      // Not at the back: that is the next message, which may be half written, or refused once, already.
      free_.insert(free_.begin(), static_cast<Message*>(operation));
      break;
    case FabricOperation::Kind::kReceive:
      unposted_.push_back(static_cast<Message*>(operation));
      break;
  }
}

bool Endpoint::MaySleep() {
  fid* const objects[] = {&queue_->fid};
  return fi_trywait(fabric_.fabric_.get(), const_cast<fid**>(objects), 1) == 0;
}

}  // namespace stagefs::dsa
