#include "fs/fuse/uring_protocol.h"

#include <string.h>

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::fuse {
namespace {

class UringProtocolTest : public ::testing::Test {
 protected:
  // What the kernel writes: a WRITE of `payload`, with lengths as given.
  void Arrive(uint32_t whole_bytes, uint32_t payload_bytes) {
    fuse_in_header in = {};
    in.len = whole_bytes;
    in.opcode = FUSE_WRITE;
    in.unique = 77;
    memcpy(headers_.in_out, &in, sizeof(in));
    memset(headers_.op_in, 'a', sizeof(headers_.op_in));
    headers_.payload_bytes = payload_bytes;
  }
  absl::Span<std::byte> payload() { return absl::MakeSpan(area_).subspan(kMaxRequestPrefixBytes); }
  absl::Status Place(absl::Span<const iovec> message) { return PlaceReply(message, &headers_, payload()); }

  UringHeaders headers_ = {};
  std::vector<std::byte> area_ = std::vector<std::byte>(kMaxRequestPrefixBytes + 4096, std::byte{'p'});
  fuse_out_header out_ = {sizeof(fuse_out_header), 0, 77};
};

TEST_F(UringProtocolTest, ARequestLiesTogetherAndItsPayloadHasNotMoved) {
  constexpr uint32_t kArgument = sizeof(fuse_write_in);
  Arrive(sizeof(fuse_in_header) + kArgument + 100, 100);
  const auto request = AssembleRequest(headers_, payload());
  ASSERT_TRUE(request.ok()) << request.status();
  ASSERT_EQ(request->size(), sizeof(fuse_in_header) + kArgument + 100);
  EXPECT_EQ(request->data() + sizeof(fuse_in_header) + kArgument, payload().data());
  EXPECT_EQ(reinterpret_cast<const fuse_in_header*>(request->data())->unique, 77u);
  for (size_t i = 0; i < kArgument; ++i) EXPECT_EQ((*request)[sizeof(fuse_in_header) + i], std::byte{'a'});
  EXPECT_EQ((*request)[sizeof(fuse_in_header) + kArgument], std::byte{'p'});
}

TEST_F(UringProtocolTest, LengthsThatContradictEachOtherAreRefused) {
  const struct {
    uint32_t whole, payload;
  } cases[] = {
      {sizeof(fuse_in_header) - 1, 0},                      // shorter than its header
      {sizeof(fuse_in_header) + 10, 11},                    // the payload is longer than the whole
      {sizeof(fuse_in_header) + 5000, 5000},                // it does not fit the memory
      {sizeof(fuse_in_header) + 129, 0},                    // the argument is longer than its place
      {UINT32_MAX, UINT32_MAX}, {UINT32_MAX, 0}, {0, UINT32_MAX},
  };
  for (const auto& one : cases) {
    Arrive(one.whole, one.payload);
    EXPECT_EQ(AssembleRequest(headers_, payload()).status().code(), absl::StatusCode::kInvalidArgument)
        << one.whole << " " << one.payload;
  }
}

TEST_F(UringProtocolTest, TheLongestArgumentAndTheLongestPayloadFit) {
  Arrive(sizeof(fuse_in_header) + 128 + 4096, 4096);
  const auto request = AssembleRequest(headers_, payload());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->data(), area_.data());
}

TEST_F(UringProtocolTest, AReplyIsGatheredBehindItsHeader) {
  std::string first = "abc", second = "defg";
  const iovec message[] = {{&out_, sizeof(out_)}, {first.data(), 3}, {second.data(), 4}};
  ASSERT_TRUE(Place(message).ok());
  EXPECT_EQ(headers_.payload_bytes, 7u);
  EXPECT_EQ(memcmp(payload().data(), "abcdefg", 7), 0);
  EXPECT_EQ(memcmp(headers_.in_out, &out_, sizeof(out_)), 0);
}

TEST_F(UringProtocolTest, AReplyBuiltInThePayloadStaysWhereItIs) {
  memcpy(payload().data(), "here", 4);
  const iovec message[] = {{&out_, sizeof(out_)}, {payload().data(), 4}};
  ASSERT_TRUE(Place(message).ok());
  EXPECT_EQ(headers_.payload_bytes, 4u);
  EXPECT_EQ(memcmp(payload().data(), "here", 4), 0);
}

TEST_F(UringProtocolTest, AReplyThatDoesNotFitOrHasNoHeaderIsRefused) {
  std::string large(4097, 'x');
  const iovec too_large[] = {{&out_, sizeof(out_)}, {large.data(), 4000}, {large.data(), 97}};
  EXPECT_EQ(Place(too_large).code(), absl::StatusCode::kInvalidArgument);
  const iovec no_header[] = {{large.data(), 3}};
  EXPECT_EQ(Place(no_header).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Place({}).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace stagefs::fuse
