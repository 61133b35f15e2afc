#include "fs/dsa/control_stream.h"

#include <errno.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fs/dsa/control_request.h"
#include "fs/volume/errno.h"
#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

template <typename T>
std::string Body(const T& value, const std::string& more = "") {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value)) + more;
}

std::vector<std::byte> Message(ControlHeader header, const std::string& body) {
  if (header.size_bytes == 0) header.size_bytes = sizeof(header) + body.size();
  const std::string text = Body(header, body);
  const auto bytes = Bytes(text);
  return {bytes.begin(), bytes.end()};
}

int DecodeError(ControlType type, const std::string& body) {
  const auto bytes = Bytes(body);
  const auto request = DecodeControlRequest({static_cast<uint16_t>(type), 1, {bytes.begin(), bytes.end()}});
  return volume::ToErrno(request.status());
}

TEST(ControlParserTest, MessagesComeByteByByte) {
  std::vector<std::byte> bytes = Message({0, 3, 0, 7, 0}, "hello");
  const std::vector<std::byte> second = Message({0, 4, 0, 8, 0}, "");
  bytes.insert(bytes.end(), second.begin(), second.end());
  ControlParser parser;
  std::vector<ControlMessage> got;
  for (const std::byte& byte : bytes) {
    EXPECT_EQ(parser.partial(), &byte != &bytes[0] && &byte != &bytes[21]);
    parser.Add({&byte, 1});
    while (auto message = parser.Next()) got.push_back(*std::move(message));
  }
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(got[0].type, 3);
  EXPECT_EQ(got[0].request, 7u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(got[0].body.data()), got[0].body.size()), "hello");
  EXPECT_EQ(got[1].request, 8u);
  EXPECT_TRUE(got[1].body.empty());
  EXPECT_FALSE(parser.partial());
}

TEST(ControlParserTest, AWrongHeaderEndsItForGood) {
  for (const ControlHeader& header :
       {ControlHeader{15, 3, 0, 7, 0}, ControlHeader{kMaxControlBytes + 1, 3, 0, 7, 0}, ControlHeader{~0u, 3, 0, 7, 0},
        ControlHeader{0, 3, 1, 7, 0}, ControlHeader{0, 3, 0, 7, -1}}) {
    ControlParser parser;
    parser.Add(Message(header, ""));
    EXPECT_FALSE(parser.Next().has_value());
    EXPECT_TRUE(parser.broken());
    parser.Add(Message({0, 3, 0, 7, 0}, ""));
    EXPECT_FALSE(parser.Next().has_value());
  }
}

TEST(ControlParserTest, NoMoreIsKeptThanTheGreatestMessage) {
  ControlParser parser;
  parser.SetLimit(100);
  EXPECT_EQ(parser.room(), 100u);
  parser.Add(Message({0, 3, 0, 7, 0}, std::string(84, 'x')));
  EXPECT_EQ(parser.room(), 0u);
  EXPECT_TRUE(parser.Next().has_value());
  EXPECT_EQ(parser.room(), 100u);
  parser.Add(Message({101, 3, 0, 7, 0}, ""));
  EXPECT_FALSE(parser.Next().has_value());
  EXPECT_TRUE(parser.broken());
}

TEST(ControlRequestTest, ABodyHasTheSizeOfItsRequestAndReservedZeros) {
  EXPECT_EQ(DecodeError(ControlType::kStat, Body(HandleRequest{1, 0})), 0);
  EXPECT_EQ(DecodeError(ControlType::kStat, Body(HandleRequest{1, 1})), EINVAL);
  EXPECT_EQ(DecodeError(ControlType::kStat, Body(HandleRequest{1, 0}, "x")), EINVAL);
  EXPECT_EQ(DecodeError(ControlType::kStat, "1234"), EINVAL);
  EXPECT_EQ(DecodeError(ControlType::kRegister, Body(RegisterRequest{1, 2, 3, 3, 0})), 0);
  EXPECT_EQ(DecodeError(ControlType::kRegister, Body(RegisterRequest{1, 2, 3, 3, 9})), EINVAL);
  EXPECT_EQ(DecodeError(ControlType::kMap, Body(RangeRequest{1, 0, 0, 4096})), 0);
  EXPECT_EQ(DecodeError(ControlType::kMap, Body(RangeRequest{1, 7, 0, 4096})), EINVAL);
  EXPECT_EQ(DecodeError(ControlType::kCreateQueue, Body(CreateQueueRequest{8, 0}, "name")), 0);
  EXPECT_EQ(DecodeError(ControlType::kCreateQueue, Body(CreateQueueRequest{8, 0})), EINVAL);
  EXPECT_EQ(DecodeError(ControlType::kCreateQueue, Body(CreateQueueRequest{8, 0}, std::string(513, 'x'))), EINVAL);
  EXPECT_EQ(DecodeError(ControlType::kAuthenticate, Body(Proof{})), 0);
  EXPECT_EQ(DecodeError(ControlType::kAuthenticate, Body(Proof{}, "x")), EINVAL);
  EXPECT_EQ(DecodeError(static_cast<ControlType>(0), ""), EOPNOTSUPP);
  EXPECT_EQ(DecodeError(static_cast<ControlType>(13), ""), EOPNOTSUPP);
}

TEST(ControlRequestTest, AnotherVersionIsToldApartFromGarbage) {
  HelloRequest hello = {};
  hello.magic = kMagic;
  hello.version = kVersion;
  EXPECT_EQ(DecodeError(ControlType::kHello, Body(hello)), 0);
  EXPECT_EQ(DecodeError(ControlType::kHello, Body(hello, "x")), EINVAL);
  hello.version = kVersion + 1;
  EXPECT_EQ(DecodeError(ControlType::kHello, Body(hello)), EPROTONOSUPPORT);
  EXPECT_EQ(DecodeError(ControlType::kHello, Body(hello, "more")), EPROTONOSUPPORT);
  EXPECT_EQ(DecodeError(ControlType::kHello, Body(hello).substr(0, 10)), EPROTONOSUPPORT);
  hello.magic ^= 1;
  EXPECT_EQ(DecodeError(ControlType::kHello, Body(hello)), EPROTO);
  EXPECT_EQ(DecodeError(ControlType::kHello, "GET / HTTP/1.1\r\n"), EPROTO);
  EXPECT_EQ(DecodeError(ControlType::kHello, ""), EPROTO);
}

class ControlStreamTest : public testing::Test {
 protected:
  ControlStreamTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    stream_ = std::make_unique<ControlStream>(OwnedFd(ends[0]));
    peer_ = OwnedFd(ends[1]);
  }
  std::unique_ptr<ControlStream> stream_;
  OwnedFd peer_;
};

TEST_F(ControlStreamTest, AnEndOfThePeerIsSeen) {
  EXPECT_TRUE(stream_->Receive().ok());
  peer_ = OwnedFd();
  EXPECT_EQ(stream_->Receive().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(stream_->Send({16, 1, 0, 1, 0}, {}).code(), absl::StatusCode::kUnavailable);
}

TEST_F(ControlStreamTest, WhatThePeerDoesNotReadIsKeptAndSentLater) {
  const std::string body(50000, 'x');
  size_t sent = 0;
  while (stream_->unsent_bytes() == 0) {
    ASSERT_TRUE(stream_->Send({static_cast<uint32_t>(16 + body.size()), 1, 0, 1, 0}, Bytes(body)).ok());
    sent += 16 + body.size();
  }
  size_t received = 0;
  char buffer[8192];
  while (received < sent) {
    const ssize_t count = read(peer_.get(), buffer, sizeof(buffer));
    if (count > 0) received += static_cast<size_t>(count);
    ASSERT_TRUE(stream_->SendMore().ok());
  }
  EXPECT_EQ(stream_->unsent_bytes(), 0u);
  EXPECT_EQ(read(peer_.get(), buffer, sizeof(buffer)), -1);
}

TEST_F(ControlStreamTest, DescriptorsTravelWithTheirMessage) {
  std::vector<OwnedFd> descriptors;
  descriptors.emplace_back(dup(peer_.get()));
  descriptors.emplace_back(dup(peer_.get()));
  ASSERT_TRUE(stream_->Send({20, 1, 0, 1, 0}, Bytes("body"), std::move(descriptors)).ok());
  char bytes[64];
  alignas(cmsghdr) char control[256];
  iovec part = {bytes, sizeof(bytes)};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ASSERT_EQ(recvmsg(peer_.get(), &message, 0), 20);
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  ASSERT_NE(header, nullptr);
  EXPECT_EQ(header->cmsg_len, CMSG_LEN(2 * sizeof(int)));
  for (int i = 0; i < 2; ++i) EXPECT_EQ(close(reinterpret_cast<const int*>(CMSG_DATA(header))[i]), 0);
}

}  // namespace
}  // namespace stagefs::dsa
