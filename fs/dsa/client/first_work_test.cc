// The first work on a queue, when the server has had time to fall asleep since the queue was made.

#include <chrono>
#include <thread>

#include "fs/dsa/client/stagefs/dsa.h"
#include "fs/dsa/testing/served_volume.h"
#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Both sides get to know each other with the first message. A sleeper looks around by itself only once a second.
TEST(FirstWorkTest, WakesTheServer) {
  const testing::ServedVolume volume;
  const dsa_options options = {"shm", nullptr, 0, 0};
  dsa_connection* connection = nullptr;
  ASSERT_EQ(dsa_connect(volume.address().c_str(), &options, &connection), 0) << dsa_error();
  for (int i = 0; i < 4; ++i) {
    dsa_queue* queue = nullptr;
    ASSERT_EQ(dsa_create_queue(connection, 1, &queue), 0) << dsa_error();
    std::this_thread::sleep_for(milliseconds(20));
    const Clock::time_point start = Clock::now();
    dsa_work work = {};
    work.opcode = DSA_FLUSH;
    work.flags = DSA_SIGNALED;
    ASSERT_EQ(dsa_post(queue, &work, 1), 1) << dsa_error();
    ASSERT_EQ(dsa_wait(queue, 10'000), 1) << dsa_error();
    EXPECT_LT(Clock::now() - start, milliseconds(800));
    dsa_destroy_queue(queue);
  }
  dsa_disconnect(connection);
}

}  // namespace
}  // namespace stagefs::dsa
