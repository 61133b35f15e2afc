// Fabric, Region, Endpoint: the part of libfabric that direct access uses, for client and server alike. Reliable
// datagram endpoints, one peer each; messages of at most kMaxMessageBytes; remote reads and writes of the peer's
// registered memory. Over shm, tcp or verbs: one code path.
//
// Errors are negative errnos; `error` gets a text for people. Part of libstagefs: the standard library and libfabric
// alone.
//
// Thread-safe as far as different objects are concerned; one endpoint is used by one thread at a time.

#ifndef STAGEFS_FS_DSA_FABRIC_H_
#define STAGEFS_FS_DSA_FABRIC_H_

#include <rdma/fabric.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fs/dsa/fabric_library.h"
#include "fs/dsa/protocol.h"

namespace stagefs::dsa {

// Closes a libfabric object.
struct CloseFabricObject {
  template <typename Object>
  void operator()(Object* object) const {
    (void)fi_close(&object->fid);
  }
};
template <typename Object>
using FabricObject = std::unique_ptr<Object, CloseFabricObject>;

// Memory that the peer's, or the own, side may use in transfers.
class Region {
 public:
  uint64_t key() const { return fi_mr_key(region_.get()); }
  // What a peer adds offsets to.
  uint64_t remote_address() const { return remote_address_; }
  void* descriptor() const { return fi_mr_desc(region_.get()); }

 private:
  friend class Fabric;
  FabricObject<fid_mr> region_;
  uint64_t remote_address_ = 0;
};

// A provider on one local address. Outlives its regions and endpoints.
class Fabric {
 public:
  // `provider`: "shm", "tcp" or "verbs". `address`: the local IP address to use (not with shm). -EOPNOTSUPP: this
  // machine's libfabric does not offer it.
  static int Open(const std::string& provider, const std::string& address, std::unique_ptr<Fabric>* fabric,
                  std::string* error);
  ~Fabric();

  const std::string& provider() const { return provider_; }
  // Whether endpoints have descriptors to sleep on. If not (shm), a Doorbell wakes.
  bool has_wait_descriptors() const { return provider_ != "shm"; }
  // Whether local memory of transfers has to be a Region, too.
  bool needs_local_regions() const { return (info_->domain_attr->mr_mode & FI_MR_LOCAL) != 0; }

  // `access`: kMayRead, kMayWrite, for the peer; 0: for own transfers only.
  int Register(void* memory, size_t size_bytes, uint32_t access, std::unique_ptr<Region>* region, std::string* error);

 private:
  friend class Endpoint;
  struct FreeInfo {
    void operator()(fi_info* info) const { FabricLibrary::Loaded().freeinfo(info); }
  };

  std::string provider_;
  std::unique_ptr<fi_info, FreeInfo> info_;
  FabricObject<fid_fabric> fabric_;
  FabricObject<fid_domain> domain_;
  std::atomic<uint64_t> next_key_ = 1;
};

// What libfabric knows of something under way: the address of its context.
struct FabricOperation {
  enum class Kind : uint8_t { kTransfer, kSend, kReceive };
  explicit FabricOperation(Kind kind) : kind(kind) {}

  fi_context2 context = {};  // libfabric's own; first
  const Kind kind;
};

// A remote read or write under way. Belongs to the caller, who keeps it and the local memory until it is over.
struct Transfer : FabricOperation {
  Transfer() : FabricOperation(Kind::kTransfer) {}

  // Called by Poll() when it is over: 0, or a negative errno.
  void (*done)(Transfer* transfer, int status) = nullptr;
  std::unique_ptr<Region> local;  // if the fabric needs it
};

class Endpoint {
 public:
  // What Poll() finds, told to its owner.
  class Owner {
   public:
    virtual ~Owner() = default;
    // `message` is valid during the call.
    virtual void Received(std::span<const std::byte> message) = 0;
    // The peer cannot be reached any more. May be told more than once.
    virtual void Broken(int status) = 0;
  };

  // `depth`: about how many messages may be under way in either direction; more are held back at their sender.
  static int Create(Fabric& fabric, uint32_t depth, Owner& owner, std::unique_ptr<Endpoint>* endpoint,
                    std::string* error);
  // The local memory of transfers that are not over is no longer touched when this returns; their `done` is not called.
  ~Endpoint();

  // For the peer's SetPeer().
  const std::vector<std::byte>& name() const { return name_; }
  int SetPeer(std::span<const std::byte> name, std::string* error);

  // Memory of kMaxMessageBytes for the next message: the same until Send() has taken it. Null: too many are under way;
  // Poll() first.
  std::byte* SendBuffer();
  // Sends the first `size_bytes` of SendBuffer(). -EAGAIN: not now; Poll() first, the buffer is as it was. The peer may
  // have to do its part for that (the first time, both get to know each other): wake it in either case.
  int Send(size_t size_bytes);
  // Starts to move `size_bytes` between `local` and the peer's memory. -EAGAIN: not now; Poll() first.
  int Read(void* local, size_t size_bytes, uint64_t remote_address, uint64_t key, Transfer* transfer);
  int Write(const void* local, size_t size_bytes, uint64_t remote_address, uint64_t key, Transfer* transfer);

  // Tells the owner what has happened, and moves on what is under way. Returns how much there was to tell; negative: the
  // endpoint is of no more use.
  int Poll();

  // --- If fabric.has_wait_descriptors() ---
  int wait_descriptor() const { return wait_descriptor_; }
  // Whether one may now wait for the descriptor to become readable. False: Poll() has work.
  bool MaySleep();

 private:
  struct Message : FabricOperation {
    Message(Kind kind, std::byte* memory) : FabricOperation(kind), memory(memory) {}
    std::byte* const memory;  // kMaxMessageBytes
  };

  Endpoint(Fabric& fabric, Owner& owner) : fabric_(fabric), owner_(owner) {}
  int PostReceive(Message* message);
  int Start(bool write, void* local, size_t size_bytes, uint64_t remote_address, uint64_t key, Transfer* transfer);
  int TakeErrors();
  void RemovePeersFile();
  void Finish(FabricOperation* operation, int status);

  Fabric& fabric_;
  Owner& owner_;
  std::vector<std::byte> name_;
  int wait_descriptor_ = -1;
  size_t inject_bytes_ = 0;
  std::unique_ptr<std::byte[]> memory_;
  std::unique_ptr<Region> memory_region_;
  std::vector<std::unique_ptr<Message>> messages_;
  std::vector<Message*> free_;        // to send
  std::vector<Message*> unposted_;    // to receive with, once the provider takes them
  // With shm transfers are over when they were started, in order, and failed ones are reported without saying which.
  std::deque<Transfer*> unreported_;
  FabricObject<fid_cq> queue_;
  FabricObject<fid_av> addresses_;
  FabricObject<fid_ep> endpoint_;
  fi_addr_t peer_ = FI_ADDR_UNSPEC;
  std::string peer_name_;  // with shm, up to its first NUL
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_FABRIC_H_
