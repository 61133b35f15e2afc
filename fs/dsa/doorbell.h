// Doorbell: how two processes that poll shared memory put each other to sleep and wake each other, so that neither
// spins for ever and neither makes a system call for each message. For providers without descriptors (shm).
//
//   sleeper                                  the other
//   Announce(); poll once more;              send a message;
//   nothing: wait for descriptor();          Ring();
//   Awake();
//
// Invariant: either the sleeper's last poll sees the message, or Ring() sees the announcement (both sides have a full
// fence between their write and their read).
//
// The other side may write what it likes into the page: that can cost it and us a wake-up, no more.
//
// One thread at a time a side. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_DOORBELL_H_
#define STAGEFS_FS_DSA_DOORBELL_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

namespace stagefs::dsa {

class Doorbell {
 public:
  enum Side : int { kServer = 0, kClient = 1 };

  // The server's, new. A negative errno if it cannot be had.
  static int Create(std::unique_ptr<Doorbell>* doorbell);
  // The client's, from what the server's descriptors() gave. Takes the descriptors in any case.
  static int Attach(const std::array<int, 3>& descriptors, std::unique_ptr<Doorbell>* doorbell);
  ~Doorbell();
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  // The page, the server's event, the client's event: to be sent to the client.
  const std::array<int, 3>& descriptors() const { return descriptors_; }

  // This side is about to sleep.
  void Announce();
  // It does not, or no longer; empties the event.
  void Awake();
  // Wakes the other side if it sleeps or is about to.
  void Ring();
  // Becomes readable when the other side rings.
  int descriptor() const { return descriptors_[1 + side_]; }

 private:
  struct Page {
    // Each on a cache line of its own: both are read for each message.
    alignas(64) std::atomic<uint32_t> asleep[2 * 16];
  };

  Doorbell(Side side, const std::array<int, 3>& descriptors) : side_(side), descriptors_(descriptors) {}
  int MapPage();
  std::atomic<uint32_t>& Asleep(int side) { return page_->asleep[side * 16]; }

  const Side side_;
  const std::array<int, 3> descriptors_;
  Page* page_ = nullptr;
  bool announced_ = false;
  // Who rings takes the announcement back first, and makes the event readable then: which may come after Awake().
  uint64_t rings_due_ = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_DOORBELL_H_
